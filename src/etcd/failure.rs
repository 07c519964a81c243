//! What failures of requests mean, by etcd's codes and messages.

use std::time::Duration;
use tonic::Code;

/// Why a request failed, by what can be done about it.
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
        }
    }
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("etcd {request}: {message}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) request: &'static str,
    pub(crate) message: String,
}

impl Failure {
    /// The request may have taken effect all the same.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(self.kind, FailureKind::Unreachable | FailureKind::NoLeader)
    }

    pub(super) fn new(request: &'static str, error: etcd_client::Error) -> Self {
        Self::of(request, &error)
    }

    pub(super) fn of(request: &'static str, error: &etcd_client::Error) -> Self {
        let kind = match error {
            etcd_client::Error::GRpcStatus(status) => classify(status.code(), status.message()),
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => FailureKind::Rejected,
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                FailureKind::LeaseGone
            }
            _ => FailureKind::Unreachable,
        };
        let message = match error {
            etcd_client::Error::GRpcStatus(status) => format!("{} ({:?})", status.message(), status.code()),
            other => other.to_string(),
        };
        Self { kind, request, message }
    }

    pub(super) fn timed_out(request: &'static str, limit: Duration) -> Self {
        Self { kind: FailureKind::Unreachable, request, message: format!("no answer within {limit:?}") }
    }
}

/// Codes and messages as in etcd's `api/v3rpc/rpctypes/error.go`.
fn classify(code: Code, message: &str) -> FailureKind {
    match code {
        _ if ["auth store is old", "user name is empty", "authentication failed"]
            .iter()
            .any(|text| message.contains(text)) =>
        {
            FailureKind::Authentication
        }
        _ if message.contains("database space exceeded") => FailureKind::NoSpace,
        _ if message.contains("lease not found") => FailureKind::LeaseGone,
        _ if message.contains("no leader") || message.contains("leader changed") => FailureKind::NoLeader,
        _ if message.contains("has been compacted") => FailureKind::Compacted,
        Code::Unauthenticated => FailureKind::Authentication,
        Code::PermissionDenied => FailureKind::Permission,
        Code::ResourceExhausted if message.contains("too many requests") => FailureKind::Overloaded,
        // The rest of this code is tonic's or gRPC's: a message larger than a limit.
        Code::ResourceExhausted
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented => FailureKind::Rejected,
        _ => FailureKind::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_etcds_codes_and_messages() {
        use FailureKind::*;
        for (code, message, kind) in [
            (Code::Unavailable, "etcdserver: no leader", NoLeader),
            (Code::Unavailable, "etcdserver: leader changed", NoLeader),
            (Code::Unavailable, "etcdserver: request timed out", Unreachable),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", NoSpace),
            (Code::ResourceExhausted, "etcdserver: too many requests", Overloaded),
            (Code::ResourceExhausted, "grpc: received message larger than max", Rejected),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Authentication),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Authentication),
            (Code::InvalidArgument, "etcdserver: user name is empty", Authentication),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Authentication,
            ),
            (Code::PermissionDenied, "etcdserver: permission denied", Permission),
            (Code::NotFound, "etcdserver: requested lease not found", LeaseGone),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Compacted),
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", Rejected),
            (Code::InvalidArgument, "etcdserver: request is too large", Rejected),
            (Code::Unknown, "h2 protocol error", Unreachable),
        ] {
            assert_eq!(classify(code, message), kind, "{message}");
        }
    }
}
