//! Failures of requests: what went wrong, what to do about it, and whether the request can have taken effect.

use super::connection::ConnectionOver;
use super::errors::{classify, classify_reason};
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
pub(crate) enum Effect {
    No,
    Unknown,
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("etcd {request}: {message}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) request: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: Remedy,
    pub(crate) effect: Effect,
}

impl Failure {
    /// One that the engine found itself.
    pub(crate) fn new(kind: FailureKind, request: &'static str, message: impl Into<String>) -> Self {
        let (remedy, effect) = match kind {
            FailureKind::Unreachable | FailureKind::NoLeader => (Remedy::OtherMember, Effect::Unknown),
            FailureKind::WrongStore => (Remedy::OtherMember, Effect::No),
            FailureKind::Authentication => (Remedy::Authenticate, Effect::No),
            FailureKind::NoSpace | FailureKind::Overloaded => (Remedy::Wait, Effect::No),
            FailureKind::Permission
            | FailureKind::LeaseGone
            | FailureKind::Compacted
            | FailureKind::Rejected => (Remedy::GiveUp, Effect::No),
        };
        Self { kind, request, message: message.into(), remedy, effect }
    }

    /// The request may have taken effect all the same.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.effect == Effect::Unknown
    }

    /// It had no effect, and another member may take it.
    pub(super) fn is_for_another_member(&self) -> bool {
        self.remedy == Remedy::OtherMember && self.effect == Effect::No
    }

    pub(super) fn of_error(request: &'static str, error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                let message = format!("{} ({:?})", status.message(), status.code());
                if was_not_sent(status) {
                    return Self {
                        effect: Effect::No,
                        ..Self::new(FailureKind::Unreachable, request, message)
                    };
                }
                let (kind, remedy, effect) = classify(status.code(), status.message());
                Self { kind, request, message, remedy, effect }
            }
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
                Self::new(FailureKind::Rejected, request, error.to_string())
            }
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                Self::new(FailureKind::LeaseGone, request, error.to_string())
            }
            _ => Self::new(FailureKind::Unreachable, request, error.to_string()),
        }
    }

    /// The server ended a stream, and said why.
    pub(crate) fn of_reason(request: &'static str, reason: String) -> Self {
        let (kind, remedy, effect) = classify_reason(&reason);
        Self { kind, request, message: reason, remedy, effect }
    }

    pub(super) fn timed_out(request: &'static str, limit: Duration) -> Self {
        Self::new(FailureKind::Unreachable, request, format!("no answer within {limit:?}"))
    }

    /// It was not sent, because it would have reached another store.
    pub(super) fn wrong_store(request: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureKind::WrongStore, request, message)
    }

    /// There was no connection to send it over.
    pub(super) fn not_sent(request: &'static str, message: impl Into<String>) -> Self {
        Self { effect: Effect::No, ..Self::new(FailureKind::Unreachable, request, message) }
    }
}

/// The connection had ended before the request.
fn was_not_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectionOver>() {
            return true;
        }
        source = error.source();
    }
    false
}
