//! Every error of etcd 3.4 to 3.7, with what to do about it and whether the request can have taken effect.
//!
//! The codes and messages are those of etcd's `api/v3rpc/rpctypes/error.go`.

use super::failure::{Effect, FailureKind, Remedy};
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
    pub(crate) effect: Effect,
}

macro_rules! errors {
    ($($code:ident $message:literal => $kind:ident, $remedy:ident, $effect:ident;)*) => {
        pub(crate) const ERRORS: &[KnownError] = &[$(KnownError {
            code: Code::$code,
            message: $message,
            kind: FailureKind::$kind,
            remedy: Remedy::$remedy,
            effect: Effect::$effect,
        },)*];
    };
}

errors! {
    // Requests at fault.
    InvalidArgument "etcdserver: key is not provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: key not found" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: value is provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: lease is provided" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: ttl is 0" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: too many operations in txn request" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: duplicate key given in txn request" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: request is too large" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: invalid sort option" => Rejected, GiveUp, No;
    OutOfRange "etcdserver: mvcc: required revision has been compacted" => Compacted, GiveUp, No;
    OutOfRange "etcdserver: mvcc: required revision is a future revision" => Rejected, GiveUp, No;
    Unimplemented "etcdserver: client api version not supported" => Rejected, GiveUp, No;

    // Leases.
    NotFound "etcdserver: requested lease not found" => LeaseGone, GiveUp, No;
    FailedPrecondition "etcdserver: lease already exists" => Rejected, GiveUp, No;
    OutOfRange "etcdserver: too large lease TTL" => Rejected, GiveUp, No;

    // Load and space.
    ResourceExhausted "etcdserver: mvcc: database space exceeded" => NoSpace, Wait, No;
    ResourceExhausted "etcdserver: too many requests" => Overloaded, Wait, No;
    ResourceExhausted "etcdserver: throttle: too many requests" => Overloaded, Wait, No;

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
    Unavailable "etcdserver: server stopped" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: request timed out" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: request timed out, possibly due to previous leader failure" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: request timed out, possibly due to connection lost" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: request timed out, waiting for the applied index took too long" => Unreachable, OtherMember, Unknown;
    Unavailable "etcdserver: unhealthy cluster" => Unreachable, OtherMember, No;
    DataLoss "etcdserver: corrupt cluster" => Unreachable, OtherMember, No;
    Unavailable "etcdserver: rpc not supported for learner" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: rpc not supported for learner" => Unreachable, OtherMember, No;
    FailedPrecondition "etcdserver: bad leader transferee" => Rejected, GiveUp, No;
    Unavailable "etcdserver: cluster version not found during downgrade" => Unreachable, OtherMember, No;
    InvalidArgument "etcdserver: wrong downgrade target version format" => Rejected, GiveUp, No;
    InvalidArgument "etcdserver: invalid downgrade target version" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: cluster has a downgrade job in progress" => Rejected, GiveUp, No;
    FailedPrecondition "etcdserver: no inflight downgrade job" => Rejected, GiveUp, No;
    Cancelled "etcdserver: request canceled" => Unreachable, OtherMember, Unknown;
    DeadlineExceeded "etcdserver: context deadline exceeded" => Unreachable, OtherMember, Unknown;

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

/// What an error means.
pub(super) fn classify(code: Code, message: &str) -> (FailureKind, Remedy, Effect) {
    if let Some(error) = find(message) {
        return (error.kind, error.remedy, error.effect);
    }
    match code {
        Code::Unauthenticated => (FailureKind::Authentication, Remedy::Authenticate, Effect::No),
        Code::PermissionDenied => (FailureKind::Permission, Remedy::GiveUp, Effect::No),
        // Of gRPC itself: a message that is larger than a limit.
        Code::ResourceExhausted => (FailureKind::Rejected, Remedy::GiveUp, Effect::No),
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented => (FailureKind::Rejected, Remedy::GiveUp, Effect::No),
        // Refused, cut, or a server that words its trouble in a new way.
        _ => (FailureKind::Unreachable, Remedy::OtherMember, Effect::Unknown),
    }
}

/// What the reason means for which a server ended a stream. It comes without a code.
pub(super) fn classify_reason(reason: &str) -> (FailureKind, Remedy, Effect) {
    classify(Code::Unknown, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_etcds_codes_and_messages() {
        use FailureKind::*;
        for (code, message, kind) in [
            (Code::Unavailable, "etcdserver: no leader", NoLeader),
            (Code::Unavailable, "etcdserver: request timed out", Unreachable),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", NoSpace),
            (Code::ResourceExhausted, "etcdserver: too many requests", Overloaded),
            (Code::ResourceExhausted, "grpc: received message larger than max", Rejected),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Authentication),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Authentication),
            (Code::PermissionDenied, "etcdserver: permission denied", Permission),
            (Code::NotFound, "etcdserver: requested lease not found", LeaseGone),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Compacted),
            (Code::InvalidArgument, "etcdserver: a new refusal", Rejected),
            (Code::Unknown, "h2 protocol error", Unreachable),
        ] {
            assert_eq!(classify(code, message).0, kind, "{message}");
        }
    }

    #[test]
    fn a_stream_ends_for_a_reason_that_is_an_error_without_a_code() {
        use FailureKind::*;
        for (reason, kind) in [
            ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", Authentication),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
                Authentication,
            ),
            ("rpc error: code = InvalidArgument desc = etcdserver: user name is empty", Authentication),
            ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Permission),
            ("etcdserver: no leader", NoLeader),
            ("watch closed", Unreachable),
            ("", Unreachable),
        ] {
            assert_eq!(classify_reason(reason).0, kind, "{reason}");
        }
    }

    #[test]
    fn an_error_in_a_proxys_words_is_the_same_error() {
        let wrapped = "rpc error: code = Unavailable desc = etcdserver: request timed out, possibly due to connection lost";
        let plain = "etcdserver: request timed out, possibly due to connection lost";
        assert_eq!(find(wrapped).map(|error| error.message), Some(plain), "the longest of those that fit");
    }

    #[test]
    fn each_error_is_in_the_table_once_for_each_code() {
        for (at, error) in ERRORS.iter().enumerate() {
            let again = ERRORS[at + 1..]
                .iter()
                .any(|other| other.message == error.message && other.code == error.code);
            assert!(!again, "{}", error.message);
            assert_eq!(classify(error.code, error.message), (error.kind, error.remedy, error.effect));
        }
    }

    #[test]
    fn a_request_at_fault_has_no_effect_and_no_other_member_is_asked() {
        for error in ERRORS {
            if matches!(error.remedy, Remedy::GiveUp | Remedy::Wait | Remedy::Authenticate) {
                assert_eq!(error.effect, Effect::No, "{}", error.message);
            }
            if matches!(error.kind, FailureKind::Unreachable | FailureKind::NoLeader) {
                assert_eq!(error.remedy, Remedy::OtherMember, "{}", error.message);
            }
        }
    }

    #[test]
    fn a_learner_is_left_and_has_done_nothing() {
        for code in [Code::Unavailable, Code::FailedPrecondition] {
            let told = classify(code, "etcdserver: rpc not supported for learner");
            assert_eq!(told, (FailureKind::Unreachable, Remedy::OtherMember, Effect::No));
        }
    }
}
