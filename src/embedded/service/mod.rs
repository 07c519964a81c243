//! The gRPC services, over what they share.

mod auth;
mod cluster;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod watch;

use super::check::{GRPC_OVERHEAD_BYTES, MAX_REQUEST_BYTES};
use super::plan::RequestKind;
use super::refusal::RpcError;
use super::shared::{Inner, Shared, apply_fault};
use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer};
use prost::Message;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The service of one kind at one member, by its number, and what all of them need.
#[derive(Clone)]
struct Service(Arc<Shared>, usize);

/// Whether a request can be answered without a leader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Needed,
    NotNeeded,
}

/// All services of a member.
pub(super) fn routes(shared: &Arc<Shared>, member: usize) -> Routes {
    let service = || Service(shared.clone(), member);
    // Larger messages are refused with etcd's own error, which tells more than a decoder's.
    Routes::new(PbKvServer::new(service()).max_decoding_message_size(usize::MAX))
        .add_service(watch::WatchService(service()))
        .add_service(PbLeaseServer::new(service()))
        .add_service(PbMaintenanceServer::new(service()))
        .add_service(PbClusterServer::new(service()))
        .add_service(lock::Locks(service()))
        .add_service(auth::Users(service()))
}

impl Service {
    /// Answers a request: faults, a missing leader and a frozen member come first.
    async fn unary<Q, A>(
        &self,
        on: RequestKind,
        leader: Leader,
        request: Request<Q>,
        apply: fn(&mut Inner, &Q, Instant) -> Result<A, RpcError>,
    ) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Send + 'static,
    {
        let required = requires_leader(request.metadata());
        let token = token(request.metadata()).filter(|_| on.looks_at_token());
        let request = request.into_inner();
        check_message(&request)?;
        let action = self.0.arrive(on);
        self.0.wait_until_thawed().await;
        if required || leader == Leader::Needed {
            self.0.wait_for_leader(self.1, required).await.map_err(RpcError::status)?;
        }
        let Self(shared, member) = self.clone();
        let apply = move || {
            shared.apply(|inner, now| {
                inner.on_behalf(member, token.as_deref(), now, |inner| apply(inner, &request, now))
            })
        };
        let answer = apply_fault(action, apply).await.map_err(RpcError::status)?;
        self.0.wait_until_thawed().await;
        // The leader answers for what it keeps alone.
        if leader == Leader::Needed && on != RequestKind::LeaseTimeToLive {
            self.0.wait_until_applied(self.1).await.map_err(RpcError::status)?;
        }
        Ok(Response::new(answer))
    }
}

fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// The token that a client has, if any.
fn token(metadata: &MetadataMap) -> Option<String> {
    let given = metadata.get("token").or_else(|| metadata.get("authorization"))?;
    let text = given.to_str().ok()?;
    Some(text.strip_prefix("Bearer ").unwrap_or(text).to_owned())
}

/// Refuses what etcd's gRPC server would not take.
fn check_message(message: &impl Message) -> Result<(), Status> {
    const LIMIT: usize = MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES;
    let size = message.encoded_len();
    if size <= LIMIT {
        return Ok(());
    }
    let text = format!("grpc: received message larger than max ({size} vs. {LIMIT})");
    Err(Status::resource_exhausted(text))
}

fn unsupported<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("the embedded server has no {what}")))
}
