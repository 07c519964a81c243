//! The lock service. Its stubs and requests are private to etcd-client, so that they are written here.

use super::{Leader, Service};
use crate::embedded::lock::Place;
use crate::embedded::plan::RequestKind;
use crate::embedded::refusal::RpcError;
use crate::embedded::shared::Shared;
use etcd_client::proto::{PbLockResponse, PbResponseHeader, PbUnlockResponse};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// Finds the method of a request.
#[derive(Clone)]
pub(super) struct Locks(pub(super) Service);

impl NamedService for Locks {
    const NAME: &'static str = "v3lockpb.Lock";
}

impl tonic::codegen::Service<http::Request<Body>> for Locks {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self(service) = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v3lockpb.Lock/Lock" => Grpc::new(ProstCodec::default()).unary(Lock(service), request).await,
                "/v3lockpb.Lock/Unlock" => {
                    Grpc::new(ProstCodec::default()).unary(Unlock(service), request).await
                }
                _ => Status::unimplemented("the lock service locks and unlocks").into_http(),
            })
        })
    }
}

struct Lock(Service);
struct Unlock(Service);

impl UnaryService<LockRequest> for Lock {
    type Response = PbLockResponse;
    type Future = BoxFuture<Response<PbLockResponse>, Status>;

    fn call(&mut self, request: Request<LockRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let taken = service.unary(RequestKind::Lock, Leader::Needed, request, |inner, request, now| {
                let place = inner.member.queue_for_lock(&request.name, request.lease, now);
                let place = place.map_err(unknown)?;
                let held = inner.member.lock_is_held(&place);
                Ok((place, held, inner.starts))
            });
            let (place, held, start) = taken.await?.into_inner();
            let key = place.key.clone();
            let header = match held {
                Some(header) => header,
                None => Waiting { shared: service.0, place, start, done: false }.held().await,
            };
            Ok(Response::new(PbLockResponse { header: Some(header), key }))
        })
    }
}

impl UnaryService<UnlockRequest> for Unlock {
    type Response = PbUnlockResponse;
    type Future = BoxFuture<Response<PbUnlockResponse>, Status>;

    fn call(&mut self, request: Request<UnlockRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let unlock = service.unary(RequestKind::Unlock, Leader::Needed, request, |inner, request, _| {
                let header = inner.member.unlock(&request.key).map_err(unknown)?;
                Ok(PbUnlockResponse { header: Some(header) })
            });
            unlock.await
        })
    }
}

/// etcd's lock service is a client of its own server, and hands on the messages of refusals without their codes.
fn unknown(refusal: RpcError) -> RpcError {
    RpcError::new(Code::Unknown as i32, refusal.message())
}

/// A client in the queue. Its place goes when it gives up, unless the server has restarted since.
struct Waiting {
    shared: Arc<Shared>,
    place: Place,
    start: u64,
    done: bool,
}

impl Waiting {
    /// Waits until the lock is held, and keeps the lease alive meanwhile, as etcd does.
    async fn held(mut self) -> PbResponseHeader {
        let mut changes = self.shared.changes();
        let renewal = |ttl: i64| Duration::from_secs(u64::try_from(ttl).unwrap_or(0)) / 3;
        let mut renew_at = Instant::now();
        loop {
            self.shared.wait_until_thawed().await;
            changes.mark_seen();
            if let Some(header) = self.shared.look(|inner| inner.member.lock_is_held(&self.place)) {
                self.done = true;
                return header;
            }
            tokio::select! {
                biased;
                // The sender lives as long as `shared`.
                _ = changes.changed() => {}
                () = sleep_until(renew_at) => {
                    let lease = self.place.lease;
                    let ttl = self.shared.apply(|inner, now| inner.member.leases.renew(lease, now));
                    renew_at = Instant::now() + ttl.map_or(Duration::from_secs(60), renewal);
                }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.shared.apply(|inner, _| {
            let unreachable = inner.condition.frozen || inner.condition.leaderless;
            if !unreachable && inner.starts == self.start {
                // What is gone already needs no deletion.
                let _ = inner.member.unlock(&self.place.key);
            }
        });
    }
}
