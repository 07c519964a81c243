//! What errors mean: of the table, and of what is not in it.

use super::listed::LISTED;
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
        assert_eq!(classify(code, message).kind, kind, "{message}");
    }
}

#[test]
fn an_error_in_a_proxys_words_is_the_same_error() {
    let wrapped =
        "rpc error: code = Unavailable desc = etcdserver: request timed out, possibly due to connection lost";
    let plain = "etcdserver: request timed out, possibly due to connection lost";
    assert_eq!(find(wrapped).map(|error| error.message), Some(plain), "the longest of those that fit");
}

#[test]
fn each_error_is_in_the_table_once_for_each_code() {
    for (at, error) in ERRORS.iter().enumerate() {
        let again =
            ERRORS[at + 1..].iter().any(|other| other.message == error.message && other.code == error.code);
        assert!(!again, "{}", error.message);
        let Meaning { kind, remedy, effect, .. } = classify(error.code, error.message);
        assert_eq!((kind, remedy, effect), (error.kind, error.remedy, error.effect));
    }
}

#[test]
fn the_table_has_every_error_that_the_client_library_lists_and_no_other() {
    for (code, message, first, last) in LISTED {
        let known = ERRORS.iter().any(|error| (error.code, error.message) == (*code, *message));
        assert!(known, "{message} ({code:?}), from {first} to {last}");
    }
    let is_listed = |error: &KnownError| {
        LISTED.iter().any(|(code, message, ..)| (*code, *message) == (error.code, error.message))
    };
    let others = ERRORS.iter().filter(|error| !is_listed(error)).map(|error| error.message);
    // A server says it, and the library has no name for it.
    let nameless = ["auth: authentication failed, password was given for no password user"];
    assert_eq!(others.collect::<Vec<_>>(), nameless);
}

#[test]
fn an_error_under_two_codes_means_the_same() {
    for error in ERRORS {
        for other in ERRORS.iter().filter(|other| other.message == error.message) {
            let meaning = |error: &KnownError| (error.kind, error.remedy, error.effect, error.reported);
            assert_eq!(meaning(error), meaning(other), "{}", error.message);
        }
    }
}

#[test]
fn what_only_a_code_tells_is_judged_by_it() {
    use ErrorKind::*;
    for (code, reported) in [
        (Code::Unauthenticated, Unauthenticated),
        (Code::PermissionDenied, PermissionDenied),
        (Code::ResourceExhausted, TooLarge),
        (Code::OutOfRange, TooLarge),
        (Code::InvalidArgument, Refused),
        (Code::NotFound, Refused),
        (Code::AlreadyExists, Refused),
        (Code::FailedPrecondition, Refused),
        (Code::Unimplemented, Refused),
        (Code::DeadlineExceeded, TimedOut),
        (Code::Unavailable, Unreachable),
        (Code::Unknown, Unreachable),
        (Code::Internal, Unreachable),
        (Code::Aborted, Unreachable),
        (Code::Cancelled, Unreachable),
        (Code::DataLoss, Unreachable),
    ] {
        assert_eq!(classify(code, "in words of its own").reported, reported, "{code:?}");
    }
}

#[test]
fn a_request_at_fault_has_no_effect_and_no_other_member_is_asked() {
    for error in ERRORS {
        if matches!(error.remedy, Remedy::GiveUp | Remedy::Wait | Remedy::Authenticate) {
            assert_eq!(error.effect, PossibleEffect::No, "{}", error.message);
        }
        if matches!(error.kind, FailureKind::Unreachable | FailureKind::NoLeader) {
            assert_eq!(error.remedy, Remedy::OtherMember, "{}", error.message);
        }
    }
}

#[test]
fn a_learner_is_left_and_has_done_nothing() {
    for code in [Code::Unavailable, Code::FailedPrecondition] {
        let Meaning { kind, remedy, effect, .. } =
            classify(code, "etcdserver: rpc not supported for learner");
        assert_eq!(
            (kind, remedy, effect),
            (FailureKind::Unreachable, Remedy::OtherMember, PossibleEffect::No)
        );
    }
}

/// Every error of the table, as a server refuses a request with it: what the engine makes of it, what a callback is
/// told, and that it can look at what etcd said.
#[cfg(feature = "embedded")]
#[tokio::test]
async fn every_error_comes_over_a_connection_as_it_is_in_the_table() {
    use crate::embedded::{EmbeddedEtcd, Fault, RequestKind, RpcError};
    use crate::etcd::Failure;
    use crate::firing::EtcdError;
    use std::error::Error;
    let etcd = EmbeddedEtcd::start().await.expect("a server");
    let client = etcd.client().await.expect("a client");
    for error in ERRORS {
        let refusal = || Fault::on(RequestKind::Range).fail(RpcError::new(error.code as i32, error.message));
        etcd.faults().inject(refusal());
        let refused = client.kv_client().get("/a", None).await.expect_err("it is refused");
        let failure = Failure::of_error("get", refused);
        let Meaning { kind, reported, remedy, effect } = classify(error.code, error.message);
        assert_eq!(
            (failure.kind, failure.remedy, failure.effect),
            (kind, remedy, effect),
            "{}",
            error.message
        );
        assert_eq!((failure.kind, failure.remedy, failure.effect), (error.kind, error.remedy, error.effect));
        let status = |source: Option<&(dyn Error + 'static)>| match source?.downcast_ref()? {
            etcd_client::Error::GRpcStatus(status) => Some((status.code(), status.message().to_owned())),
            _ => None,
        };
        let said = Some((error.code, error.message.to_owned()));
        assert_eq!(status(failure.source()), said, "{}", error.message);
        // As a callback's own client gets it.
        etcd.faults().inject(refusal());
        let refused = client.kv_client().get("/a", None).await.expect_err("it is refused");
        let shown = EtcdError::from(refused);
        assert_eq!(shown.kind(), reported, "{}", error.message);
        assert_eq!(status(shown.source()), said, "{}", error.message);
    }
}
