//! Every error of etcd 3.4 to 3.7, with what to do about it and whether the request can have taken effect.
//!
//! The codes and messages are those of etcd's `api/v3rpc/rpctypes/error.go`. An error is found by its message, since
//! etcd gives nothing else that tells it: one code stands for many, and what came over a proxy may have another code
//! and words around the message. What is not in the table is judged by its code. No other file looks at texts of etcd.

#[cfg(test)]
mod listed;
#[cfg(test)]
mod tests;

use super::failure::{FailureKind, PossibleEffect, Remedy};
use crate::firing::ErrorKind;
use tonic::Code;

/// One error, as etcd words it.
pub(crate) struct KnownError {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a message tells enough; tests provoke it with its code")
    )]
    pub(crate) code: Code,
    pub(crate) message: &'static str,
    pub(crate) kind: FailureKind,
    pub(crate) remedy: Remedy,
    pub(crate) effect: PossibleEffect,
    /// What a callback is told, if the kind does not say it.
    reported: Option<ErrorKind>,
}

impl KnownError {
    /// It says that a request has too much in it, so that it is given up for good.
    #[cfg(test)]
    pub(crate) fn is_of_size(&self) -> bool {
        self.reported == Some(ErrorKind::TooLarge)
    }
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) kind: FailureKind,
    /// As a callback is told it.
    pub(super) reported: ErrorKind,
    pub(super) remedy: Remedy,
    pub(super) effect: PossibleEffect,
}

impl Meaning {
    /// Of a kind, if nothing else is known.
    pub(super) fn of(kind: FailureKind) -> Self {
        let (reported, remedy, effect) = match kind {
            FailureKind::Unreachable => {
                (ErrorKind::Unreachable, Remedy::OtherMember, PossibleEffect::Unknown)
            }
            FailureKind::NoLeader => (ErrorKind::NoLeader, Remedy::OtherMember, PossibleEffect::Unknown),
            FailureKind::WrongStore => (ErrorKind::WrongStore, Remedy::OtherMember, PossibleEffect::No),
            FailureKind::Authentication => {
                (ErrorKind::Unauthenticated, Remedy::Authenticate, PossibleEffect::No)
            }
            FailureKind::NoSpace => (ErrorKind::NoSpace, Remedy::Wait, PossibleEffect::No),
            FailureKind::Overloaded => (ErrorKind::Overloaded, Remedy::Wait, PossibleEffect::No),
            FailureKind::Permission => (ErrorKind::PermissionDenied, Remedy::GiveUp, PossibleEffect::No),
            FailureKind::LeaseGone => (ErrorKind::NotFound, Remedy::GiveUp, PossibleEffect::No),
            FailureKind::Compacted => (ErrorKind::Compacted, Remedy::GiveUp, PossibleEffect::No),
            FailureKind::Rejected => (ErrorKind::Refused, Remedy::GiveUp, PossibleEffect::No),
        };
        Self { kind, reported, remedy, effect }
    }
}

macro_rules! errors {
    (@reported) => { None };
    (@reported $reported:ident) => { Some(ErrorKind::$reported) };
    ($($code:ident $message:literal => $kind:ident, $remedy:ident, $effect:ident $(, $reported:ident)?;)*) => {
        pub(crate) const ERRORS: &[KnownError] = &[$(KnownError {
            code: Code::$code,
            message: $message,
            kind: FailureKind::$kind,
            remedy: Remedy::$remedy,
            effect: PossibleEffect::$effect,
            reported: errors!(@reported $($reported)?),
        },)*];
    };
}

errors! {
    // Requests at fault.
    InvalidArgument "etcdserver: key is not provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: key not found" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: value is provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: lease is provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: too many operations in txn request" => Rejected, GiveUp, No, TooLarge;
    InvalidArgument "etcdserver: duplicate key given in txn request" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: request is too large" => Rejected, GiveUp, No, TooLarge;
    InvalidArgument "etcdserver: invalid sort option" => Rejected, GiveUp, No;
    OutOfRange "etcdserver: mvcc: required revision has been compacted" => Compacted, GiveUp, No;
    OutOfRange "etcdserver: mvcc: required revision is a future revision" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: invalid client api version" => Rejected, GiveUp, No;

    // Leases.
    NotFound "etcdserver: requested lease not found" => LeaseGone, GiveUp, No;
    FailedPrecondition "etcdserver: lease already exists" => Rejected, GiveUp, No;
    OutOfRange "etcdserver: too large lease TTL" => Rejected, GiveUp, No;

    // Load and space.
    ResourceExhausted "etcdserver: mvcc: database space exceeded" => NoSpace, Wait, No;
    ResourceExhausted "etcdserver: too many requests" => Overloaded, Wait, No;

    // Users.
    FailedPrecondition "etcdserver: root user does not exist" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: root user does not have root role" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: user name already exists" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: user name is empty" => Authentication, Authenticate, No;
    FailedPrecondition "etcdserver: user name not found" => Authentication, Authenticate, No;
    FailedPrecondition "etcdserver: role name already exists" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: role name not found" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: role name is empty" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: authentication failed, invalid user ID or password" => Authentication, Authenticate, No;
    Unknown "auth: authentication failed, password was given for no password user" => Authentication, Authenticate, No;
    InvalidArgument "etcdserver: permission not given" => Rejected, GiveUp, No;
    PermissionDenied "etcdserver: permission denied" => Permission, GiveUp, No;
    FailedPrecondition "etcdserver: role is not granted to the user" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: permission is not granted to the role" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: authentication is not enabled" => Authentication, Authenticate, No;
    Unauthenticated "etcdserver: invalid auth token" => Authentication, Authenticate, No;
    InvalidArgument "etcdserver: invalid auth management" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: revision of auth store is old" => Authentication, Authenticate, No;

    // Members and leaders. A proxy on the way may have sent a request more than once, so that the last refusal says
    // nothing of what came before: only what a member refuses by its nature has certainly had no effect.
    Unavailable "etcdserver: no leader" => NoLeader, OtherMember, Unknown;
    FailedPrecondition "etcdserver: not leader" => NoLeader, OtherMember, No;
    Unavailable "etcdserver: leader changed" => NoLeader, OtherMember, Unknown;
    Unavailable "etcdserver: not capable" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: not capable" => Unreachable, OtherMember, No;
    Unavailable "etcdserver: server stopped" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: request timed out" => Unreachable, OtherMember, Unknown, TimedOut;
    Unavailable "etcdserver: request timed out, possibly due to previous leader failure" => Unreachable, OtherMember, Unknown, TimedOut;
    Unavailable "etcdserver: request timed out, possibly due to connection lost" => Unreachable, OtherMember, Unknown, TimedOut;
    Unavailable "etcdserver: request timed out, waiting for the applied index took too long" => Unreachable, OtherMember, Unknown, TimedOut;
    Unavailable "etcdserver: unhealthy cluster" => Unreachable, OtherMember, No;
    DataLoss "etcdserver: corrupt cluster" => Unreachable, OtherMember, No;
    Unavailable "etcdserver: rpc not supported for learner" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: rpc not supported for learner" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: bad leader transferee" => Rejected, GiveUp, No;
    Unavailable "etcdserver: cluster version not found during downgrade" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: cluster version not found during downgrade" => Unreachable, OtherMember, No;
    InvalidArgument "etcdserver: wrong downgrade target version format" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: invalid downgrade target version" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: cluster has a downgrade job in progress" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: no inflight downgrade job" => Rejected, GiveUp, No;
    Cancelled "etcdserver: request canceled" => Unreachable, OtherMember, Unknown;
    Cancelled "etcdserver: watch canceled" => Unreachable, OtherMember, No;
    // Of a member that is asked to join.
    FailedPrecondition "etcdserver: cluster ID mismatch" => WrongStore, OtherMember, No;
    DeadlineExceeded "etcdserver: context deadline exceeded" => Unreachable, OtherMember, Unknown, TimedOut;

    // Membership: an engine never asks for it.
    FailedPrecondition "etcdserver: member ID already exist" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: Peer URLs already exists" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: re-configuration failed due to not enough started members" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: given member URLs are invalid" => Rejected, GiveUp, No;
    NotFound "etcdserver: member not found" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: can only promote a learner member" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: too many learner members in cluster" => Rejected, GiveUp, No;
}

/// The error that a message is, or contains: a proxy puts its own words around it. Of several, the longest.
fn find(message: &str) -> Option<&'static KnownError> {
    ERRORS.iter().filter(|error| message.contains(error.message)).max_by_key(|error| error.message.len())
}

/// What an error of this code and message means.
pub(super) fn classify(code: Code, message: &str) -> Meaning {
    if let Some(error) = find(message) {
        let KnownError { kind, remedy, effect, .. } = *error;
        let reported = error.reported.unwrap_or(Meaning::of(kind).reported);
        return Meaning { kind, reported, remedy, effect };
    }
    let of = Meaning::of;
    match code {
        Code::Unauthenticated => of(FailureKind::Authentication),
        Code::PermissionDenied => of(FailureKind::Permission),
        // Of gRPC itself, on either side: a message that is larger than a limit.
        Code::ResourceExhausted | Code::OutOfRange => {
            Meaning { reported: ErrorKind::TooLarge, ..of(FailureKind::Rejected) }
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented => of(FailureKind::Rejected),
        Code::DeadlineExceeded => Meaning { reported: ErrorKind::TimedOut, ..of(FailureKind::Unreachable) },
        // Refused, cut, or a server that words its trouble in a new way.
        _ => of(FailureKind::Unreachable),
    }
}

/// Whether a request was refused for its size, in etcd's words, in those of gRPC, or in the engine's own
/// ([`Failure::too_large`](super::Failure::too_large)).
pub(super) fn speaks_of_size(message: &str) -> bool {
    [
        "request is too large",
        "too many operations",
        "larger than max",
        "message length too large",
        TOO_MANY_BYTES,
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// What the engine says of a request that it does not send.
pub(super) const TOO_MANY_BYTES: &str = "more bytes than etcd takes";

/// Of etcd-client's own error of a renewal, which has a text and nothing else.
pub(super) fn is_lease_gone(text: &str) -> bool {
    text.contains("not found")
}

/// Whether etcd refuses to authenticate because it does not have to.
pub(super) fn is_authentication_off(message: &str) -> bool {
    find(message).is_some_and(|error| error.message == "etcdserver: authentication is not enabled")
}

/// What the reason means for which a server ended a stream. It comes without a code.
pub(super) fn classify_reason(reason: &str) -> Meaning {
    classify(Code::Unknown, reason)
}
