//! etcd as callbacks read it, and what callbacks are told when it fails.

use super::{EtcdClient, Failure};
use crate::change::Revision;
use crate::error::Error;
use crate::firing::{EtcdError, FiringError, ListingPage, RangeRead, Source};
use crate::value::Value;
use etcd_client::Client;
use futures_util::future::BoxFuture;

impl Source for EtcdClient {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Value, Revision)>, FiringError>> {
        Box::pin(async move { Ok(EtcdClient::get(self, key).await.map_err(etcd_error)?) })
    }

    fn range<'a>(&'a self, read: RangeRead<'a>) -> BoxFuture<'a, Result<ListingPage, FiringError>> {
        Box::pin(async move {
            let super::RangePage { keys, count, revision } =
                self.read_range(read).await.map_err(etcd_error)?;
            Ok(ListingPage { keys, count, revision })
        })
    }

    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>> {
        Box::pin(async move { Ok(EtcdClient::client(self).await.map_err(etcd_error)?) })
    }
}

/// What a callback is told of a failed request.
fn etcd_error(Failure { reported, request, message, cause, .. }: Failure) -> EtcdError {
    EtcdError::new(reported, Some(request), message, cause)
}

/// For requests that a callback makes with its own client.
impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        let Failure { reported, message, cause, .. } = Failure::of_error("client", error);
        EtcdError::new(reported, None, message, cause)
    }
}

impl From<etcd_client::Error> for FiringError {
    fn from(error: etcd_client::Error) -> Self {
        FiringError::Etcd(error.into())
    }
}

impl From<etcd_client::Error> for Error {
    fn from(error: etcd_client::Error) -> Self {
        FiringError::from(error).into()
    }
}

impl From<EtcdError> for Error {
    fn from(error: EtcdError) -> Self {
        FiringError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firing::ErrorKind;
    use std::error::Error as _;
    use tonic::{Code, Status};

    #[test]
    fn a_callback_tells_failures_apart() {
        use ErrorKind::*;
        for (code, message, kind) in [
            (Code::Unavailable, "etcdserver: no leader", NoLeader),
            (Code::Unavailable, "etcdserver: leader changed", NoLeader),
            (Code::Unavailable, "etcdserver: request timed out", TimedOut),
            (Code::DeadlineExceeded, "context deadline exceeded", TimedOut),
            (Code::Unavailable, "error trying to connect", Unreachable),
            (Code::Unknown, "h2 protocol error", Unreachable),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Unauthenticated),
            (Code::PermissionDenied, "etcdserver: permission denied", PermissionDenied),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", NoSpace),
            (Code::ResourceExhausted, "etcdserver: too many requests", Overloaded),
            (Code::ResourceExhausted, "grpc: received message larger than max", TooLarge),
            (Code::OutOfRange, "Error, decoded message length too large: found 5 bytes", TooLarge),
            (Code::InvalidArgument, "etcdserver: request is too large", TooLarge),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", TooLarge),
            (Code::NotFound, "etcdserver: requested lease not found", NotFound),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Compacted),
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", Refused),
        ] {
            let error = Error::from(etcd_client::Error::GRpcStatus(Status::new(code, message)));
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.to_string(), format!("a request to etcd failed: {kind}"));
            let source = error.source().and_then(|source| source.downcast_ref::<etcd_client::Error>());
            assert!(matches!(source, Some(etcd_client::Error::GRpcStatus(status)) if status.code() == code));
        }
    }

    #[test]
    fn a_request_of_the_engine_that_timed_out_says_so() {
        let failure = Failure::timed_out("get", std::time::Duration::from_secs(5));
        let error = FiringError::from(etcd_error(failure));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "etcd get: no answer within 5s");
        let FiringError::Etcd(error) = error else { panic!("{error:?}") };
        assert_eq!((error.request(), error.message()), (Some("get"), "no answer within 5s"));
    }

    #[test]
    fn what_etcd_said_to_a_request_of_the_engine_is_the_source_of_the_error() {
        let status = Status::new(Code::PermissionDenied, "etcdserver: permission denied");
        let failure = Failure::of_error("get", etcd_client::Error::GRpcStatus(status));
        assert_eq!(failure.to_string(), "etcd get: etcdserver: permission denied (PermissionDenied)");
        let error = Error::from(etcd_error(failure));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        // The text does not repeat what the source says.
        assert_eq!(error.to_string(), "etcd get: permission denied");
        let said = error.source().and_then(|source| source.downcast_ref::<etcd_client::Error>());
        let is_it = |status: &Status| status.code() == Code::PermissionDenied;
        assert!(matches!(said, Some(etcd_client::Error::GRpcStatus(status)) if is_it(status)), "{said:?}");
    }

    #[test]
    fn a_time_limit_below_is_told_by_its_type() {
        let late = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        let error = EtcdError::from(etcd_client::Error::GRpcStatus(late));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "in words of its own");
        assert_eq!(EtcdError::from(etcd_client::Error::IoError(late)).kind(), ErrorKind::TimedOut);
    }
}
