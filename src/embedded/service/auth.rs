//! Authentication, which is always off.

use crate::embedded::refusal::RpcError;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// Refuses every request. It looks at none, so that it needs no messages.
#[derive(Clone)]
pub(super) struct Auth;

impl NamedService for Auth {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl Service<http::Request<Body>> for Auth {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let refused = match request.uri().path() {
            "/etcdserverpb.Auth/Authenticate" => Status::from(RpcError::AUTH_NOT_ENABLED),
            _ => Status::unimplemented("the embedded server has no users and roles"),
        };
        ready(Ok(refused.into_http()))
    }
}
