//! Grants, revocations, renewals and lists of leases.

use super::{Leader, Service, requires_leader};
use crate::embedded::plan::{Action, RequestKind};
use crate::embedded::refusal::RpcError;
use crate::embedded::shared::{Shared, apply_fault};
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService,
    PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl PbLeaseService for Service {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        self.unary(RequestKind::LeaseGrant, Leader::Needed, request, |inner, request, now| {
            let (id, ttl) = inner.member.grant(request.id, request.ttl, now)?;
            Ok(PbLeaseGrantResponse { header: Some(inner.member.header()), id, ttl, error: String::new() })
        })
        .await
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.unary(RequestKind::LeaseRevoke, Leader::Needed, request, |inner, request, _| {
            inner.member.revoke(request.id)?;
            Ok(PbLeaseRevokeResponse { header: Some(inner.member.header()) })
        })
        .await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        self.unary(RequestKind::LeaseTimeToLive, Leader::Needed, request, |inner, request, now| {
            let mut response = PbLeaseTimeToLiveResponse {
                header: Some(inner.member.header()),
                id: request.id,
                ttl: -1,
                ..PbLeaseTimeToLiveResponse::default()
            };
            if let Some(info) = inner.member.lease_info(request.id, now) {
                response.ttl = info.remaining;
                response.granted_ttl = info.granted;
                response.keys = if request.keys { info.keys } else { Vec::new() };
            }
            Ok(response)
        })
        .await
    }

    async fn lease_leases(
        &self,
        request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        self.unary(RequestKind::LeaseLeases, Leader::NotNeeded, request, |inner, _, _| {
            let leases = inner.member.leases.ids().into_iter().map(|id| PbLeaseStatus { id }).collect();
            Ok(PbLeaseLeasesResponse { header: Some(inner.member.header()), leases })
        })
        .await
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.wait_until_thawed().await;
        let renewals = Renewals {
            leader_required: requires_leader(request.metadata()),
            requests: request.into_inner(),
            cut: self.0.streams(),
            shared: self.0.clone(),
            member: self.1,
            ended: false,
        };
        let answers = unfold(renewals, |mut renewals| async move {
            let answer = renewals.next().await?;
            renewals.ended = answer.is_err();
            Some((answer, renewals))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// A stream of renewals.
struct Renewals {
    shared: Arc<Shared>,
    member: usize,
    requests: Streaming<PbLeaseKeepAliveRequest>,
    leader_required: bool,
    cut: CancellationToken,
    ended: bool,
}

impl Renewals {
    async fn next(&mut self) -> Option<Result<PbLeaseKeepAliveResponse, Status>> {
        if self.ended {
            return None;
        }
        let Self { shared, member, requests, leader_required, cut, .. } = self;
        let member = *member;
        let answering = async {
            match requests.message().await {
                Ok(Some(request)) => {
                    let renewed = renew(shared, member, request.id, *leader_required).await;
                    Some(renewed.map_err(RpcError::status))
                }
                Ok(None) | Err(_) => None,
            }
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => Some(Err(RpcError::STOPPED.status())),
            () = leader_lost(shared, member, *leader_required) => Some(Err(RpcError::NO_LEADER.status())),
            answer = answering => answer,
        }
    }
}

/// Ends when a stream that requires a leader has none.
pub(super) async fn leader_lost(shared: &Shared, member: usize, required: bool) {
    if !required {
        return std::future::pending().await;
    }
    let mut changes = shared.changes();
    while !shared.look(|inner| inner.is_leaderless(member) && !inner.condition.frozen) {
        // The sender lives as long as `shared`.
        changes.changed().await;
    }
}

async fn renew(
    shared: &Arc<Shared>,
    member: usize,
    id: i64,
    leader_required: bool,
) -> Result<PbLeaseKeepAliveResponse, RpcError> {
    let action = shared.arrive(RequestKind::LeaseKeepAlive);
    shared.wait_until_thawed().await;
    shared.wait_for_leader(member, leader_required).await?;
    let renewing = shared.clone();
    let renew = move || {
        renewing.apply(|inner, now| {
            let header = Some(inner.member.header());
            let ttl = inner.member.leases.renew(id, now).unwrap_or(0);
            Ok(PbLeaseKeepAliveResponse { header, id, ttl })
        })
    };
    let action = match action {
        // On a stream, a late message ends with the stream.
        Some(Action::DelayRegardless(delay)) => Some(Action::Delay(delay)),
        action => action,
    };
    let answer = apply_fault(action, renew).await?;
    shared.wait_until_thawed().await;
    Ok(answer)
}
