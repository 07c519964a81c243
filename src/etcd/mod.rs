//! The engine's links to etcd: the one place that calls it.
//!
//! An engine has three, each with one connection: for watches, for leases, for requests.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`errors`], [`failure`] | every error of etcd: what to do, and whether the request can have taken effect | no |
//! | [`endpoint_choice`] | which endpoint is used, when it is left, and when a link goes home | no |
//! | [`connection`] | one connection, and when it is silent | yes |
//! | [`connector`], [`opening`] | the task that opens connections and watches over them, and how it opens one | yes |
//! | [`token`] | the token of all links of an engine | yes |
//! | [`credentials`], [`offers`] | what an engine proves with who it is; which of what was loaded is offered | no |
//! | [`credential_source`] | asks the application for credentials | yes |
//! | [`client`] | a link as those use it who ask for something | yes |
//! | [`requests`], [`ranges`], [`leases`], [`watch`] | what they ask for | yes |
//! | [`wire`] | what a connection's bytes go over | yes |
//! | [`token_channel`] | the channel under a client, which puts the engine's token on its requests | yes |
//! | [`txn_call`] | sends transactions as bytes, and reads their answers | yes |
//! | [`watch_call`] | watch streams, read into changes as they come | yes |
//! | [`wire_format`] | messages, read where they lie | no |
//! | [`store`] | whose store it is that answers | no |
//! | [`numbers`] | what etcd and links tell apart by numbers, each of a type of its own | no |
//! | [`identity`] | the key by which a store refuses what is meant for another | yes |
//! | [`testimony`] | asks over a new connection whose store it leads to | yes |
//! | [`key_prefix`] | the prefix that is before every key in etcd, and that nobody else knows of | no |
//! | [`source`] | etcd as callbacks read it | yes |

mod client;
mod connection;
mod connector;
mod credential_source;
mod credentials;
mod endpoint_choice;
mod errors;
mod failure;
mod identity;
mod key_prefix;
mod leases;
mod numbers;
mod offers;
mod opening;
#[cfg(all(test, feature = "embedded"))]
mod provoked;
mod ranges;
mod requests;
mod source;
mod store;
mod testimony;
mod token;
mod token_channel;
mod txn_call;
mod watch;
mod watch_call;
mod wire;
mod wire_format;

pub(crate) use client::{EtcdClient, LinkSettings};
pub(crate) use connector::Connector;
pub(crate) use credential_source::{CredentialSource, CredentialsOption};
pub use credentials::Credentials;
#[cfg(all(test, feature = "embedded"))]
pub(crate) use failure::PossibleEffect;
pub(crate) use failure::{Failure, FailureKind};
pub(crate) use identity::Identity;
pub(crate) use key_prefix::KeyPrefix;
pub(crate) use leases::{Grant, LeaseId, Renewals};
pub(crate) use numbers::{ClusterId, RaftTerm};
pub(crate) use ranges::{LockKey, RangePage};
pub(crate) use requests::{LastEvent, TxnResponse};
pub(crate) use store::Store;
pub(crate) use token::Token;
pub(crate) use watch::{LiveWatch, Pieces, StreamEvent, WatchMessage};
#[cfg(all(test, feature = "embedded"))]
pub(crate) use {errors::ERRORS, wire::simulated::dial_by};
#[cfg(test)]
pub(crate) use {txn_call::tests as txn_answers, watch_call::tests as watch_messages};

use crate::change::Revision;
use etcd_client::{Channel, ConnectOptions};
use std::time::Duration;

/// How to reach etcd.
#[derive(Clone)]
pub(crate) enum Target {
    /// Connections of the engine's own.
    Endpoints(Vec<String>, Option<ConnectOptions>),
    /// A channel that the application made.
    Channel(Channel, Option<ConnectOptions>),
}

/// Bounds on connections and requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) request: Duration,
    /// HTTP/2 pings: the interval, and how long an answer may take.
    pub(crate) keep_alive: (Duration, Duration),
}

/// Largest response accepted, to transactions and reads of single keys. tonic's own default is 4 MiB.
const MAX_RESPONSE: usize = 512 << 20;

/// Who answered, and where its store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: ClusterId,
    pub(crate) revision: Revision,
    /// Of the leader's election.
    pub(crate) term: RaftTerm,
}

impl Header {
    fn of(header: Option<&etcd_client::proto::PbResponseHeader>) -> Self {
        let header = header.cloned().unwrap_or_default();
        Self {
            cluster: ClusterId::new(header.cluster_id),
            revision: Revision::new(header.revision),
            term: RaftTerm::new(header.raft_term),
        }
    }
}
