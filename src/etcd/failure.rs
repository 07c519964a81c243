//! Failures of requests: what went wrong, what to do about it, and whether the request can have taken effect.

use super::connection::ConnectionOver;
use super::errors::{Meaning, TOO_MANY_BYTES, classify, classify_reason, is_lease_gone, speaks_of_size};
use crate::firing::ErrorKind;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a request failed, as it is counted and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FailureKind {
    /// No answer: refused, cut, timed out, or the member is going away.
    Unreachable,
    /// The member has no leader, or the leader changed during the request.
    NoLeader,
    /// The database's space quota is exceeded: puts and leases are refused, deletes are not.
    NoSpace,
    /// Credentials are missing, wrong or outdated.
    Authentication,
    /// The user may not do this.
    Permission,
    /// The lease does not exist any more.
    LeaseGone,
    /// The revision has been compacted away.
    Compacted,
    /// The server is overloaded.
    Overloaded,
    /// The request itself is at fault.
    Rejected,
    /// The endpoint is of another cluster, or of an older state of the engine's.
    WrongStore,
}

impl FailureKind {
    /// Its name, as in the metric of requests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FailureKind::Unreachable => "unreachable",
            FailureKind::NoLeader => "no_leader",
            FailureKind::NoSpace => "no_space",
            FailureKind::Authentication => "authentication",
            FailureKind::Permission => "permission",
            FailureKind::LeaseGone => "lease_gone",
            FailureKind::Compacted => "compacted",
            FailureKind::Overloaded => "overloaded",
            FailureKind::Rejected => "rejected",
            FailureKind::WrongStore => "wrong_store",
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Ask another member.
    OtherMember,
    /// Ask for a newer token, and send the request again.
    Authenticate,
    /// Ask the same again later.
    Wait,
    /// Nothing that the link can do helps.
    GiveUp,
}

/// Whether a request that failed can have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PossibleEffect {
    No,
    Unknown,
}

/// What went wrong below: the error of etcd-client, in which there is the answer of etcd, or that of a connection.
pub(crate) type ErrorSource = Arc<dyn Error + Send + Sync>;

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// As a callback is told it, which is finer than what the engine acts by.
    pub(crate) reported: ErrorKind,
    pub(crate) request: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: Remedy,
    pub(crate) effect: PossibleEffect,
    pub(crate) cause: Option<ErrorSource>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd {}: {}", self.request, self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl Failure {
    /// One that the engine found itself.
    pub(crate) fn new(kind: FailureKind, request: &'static str, message: impl Into<String>) -> Self {
        Self::meaning(Meaning::of(kind), request, message)
    }

    fn meaning(meaning: Meaning, request: &'static str, message: impl Into<String>) -> Self {
        let Meaning { kind, reported, remedy, effect } = meaning;
        Self { kind, reported, request, message: message.into(), remedy, effect, cause: None }
    }

    /// The request may have taken effect all the same.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.effect == PossibleEffect::Unknown
    }

    /// It is too large for the server, so that sending it again never helps.
    pub(crate) fn is_too_large(&self) -> bool {
        self.kind == FailureKind::Rejected
            && self.reported == ErrorKind::TooLarge
            && speaks_of_size(&self.message)
    }

    /// It was not sent: it has more bytes than the server takes.
    pub(crate) fn too_large(request: &'static str, bytes: usize, most: usize) -> Self {
        let message =
            format!("{TOO_MANY_BYTES} in a request: {bytes}, and the most is {most} (max_request_bytes)");
        Self { reported: ErrorKind::TooLarge, ..Self::new(FailureKind::Rejected, request, message) }
    }

    /// It had no effect, and another member may take it.
    pub(super) fn is_for_another_member(&self) -> bool {
        self.remedy == Remedy::OtherMember && self.effect == PossibleEffect::No
    }

    pub(super) fn of_error(request: &'static str, error: etcd_client::Error) -> Self {
        let failure = match &error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(request, status),
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
                Self::new(FailureKind::Rejected, request, error.to_string())
            }
            etcd_client::Error::LeaseKeepAliveError(text) if is_lease_gone(text) => {
                Self::new(FailureKind::LeaseGone, request, error.to_string())
            }
            etcd_client::Error::IoError(below) if below.kind() == io::ErrorKind::TimedOut => {
                Self { reported: ErrorKind::TimedOut, ..Self::unreachable(request, error.to_string()) }
            }
            _ => Self::unreachable(request, error.to_string()),
        };
        failure.because(error)
    }

    fn of_status(request: &'static str, status: &tonic::Status) -> Self {
        let message = format!("{} ({:?})", status.message(), status.code());
        match below(status) {
            Some(Below::Over) => Self::not_sent(request, message),
            Some(Below::Late) => {
                Self { reported: ErrorKind::TimedOut, ..Self::unreachable(request, message) }
            }
            None => Self::meaning(classify(status.code(), status.message()), request, message),
        }
    }

    /// The server ended a stream, and said why.
    pub(crate) fn of_reason(request: &'static str, reason: String) -> Self {
        Self::meaning(classify_reason(&reason), request, reason)
    }

    fn unreachable(request: &'static str, message: String) -> Self {
        Self::new(FailureKind::Unreachable, request, message)
    }

    /// With what went wrong below.
    pub(super) fn because(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    pub(super) fn timed_out(request: &'static str, limit: Duration) -> Self {
        let message = format!("no answer within {limit:?}");
        Self { reported: ErrorKind::TimedOut, ..Self::unreachable(request, message) }
    }

    /// It was not sent, because it would have reached another store, or another store has refused it.
    pub(super) fn wrong_store(request: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureKind::WrongStore, request, message)
    }

    /// There was no connection to send it over.
    pub(super) fn not_sent(request: &'static str, message: impl Into<String>) -> Self {
        Self { effect: PossibleEffect::No, ..Self::new(FailureKind::Unreachable, request, message) }
    }
}

/// What a status tells of itself by what it came from.
enum Below {
    /// The connection had ended before the request.
    Over,
    /// A time limit of the client's, or of the system's, is over.
    Late,
}

fn below(status: &tonic::Status) -> Option<Below> {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectionOver>() {
            return Some(Below::Over);
        }
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        if error.is::<tonic::TimeoutExpired>() || error.downcast_ref().is_some_and(is_late) {
            return Some(Below::Late);
        }
        source = error.source();
    }
    None
}
