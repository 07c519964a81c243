//! Status, alarms and snapshots.

use super::{Leader, Service, unsupported};
use crate::embedded::VERSION;
use crate::embedded::member::Member;
use crate::embedded::plan::RequestKind;
use crate::embedded::refusal::RpcError;
use crate::embedded::shared::Inner;
use etcd_client::proto::{
    PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;

#[tonic::async_trait]
impl PbMaintenanceService for Service {
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        self.unary(RequestKind::Alarm, Leader::Needed, request, |inner, request, _| Ok(alarm(inner, request)))
            .await
    }

    async fn status(&self, request: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        self.unary(RequestKind::Status, Leader::NotNeeded, request, |inner, _, _| Ok(status(inner))).await
    }

    async fn defragment(
        &self,
        request: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        // etcd's answer is empty too.
        self.unary(RequestKind::Defragment, Leader::NotNeeded, request, |inner, _, _| {
            inner.member.auth.check_admin(&inner.member.caller).map_err(in_its_own_words)?;
            inner.member.store.defragment();
            Ok(PbDefragmentResponse::default())
        })
        .await
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        unsupported("hash of a file, because it has none")
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        self.unary(RequestKind::HashKv, Leader::NotNeeded, request, |inner, request, _| {
            let (hash, hash_revision) = inner.member.hash_kv(request.revision)?;
            let compact_revision = inner.member.store.compacted();
            Ok(PbHashKvResponse {
                header: Some(inner.member.header()),
                hash,
                compact_revision,
                hash_revision,
            })
        })
        .await
    }

    type SnapshotStream = BoxStream<'static, Result<PbSnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let taken = self.unary(RequestKind::Snapshot, Leader::NotNeeded, request, |inner, _, _| {
            inner.member.auth.check_admin(&inner.member.caller).map_err(in_its_own_words)?;
            Ok(inner.member.snapshot())
        });
        Ok(Response::new(pieces(taken.await?.into_inner()).map(Ok).boxed()))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        unsupported("other members")
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        unsupported("downgrades")
    }
}

/// etcd 3.4 tells the refusal of maintenance as it comes from below, without a code.
fn in_its_own_words(refusal: RpcError) -> RpcError {
    let message = match refusal {
        RpcError::USER_EMPTY => "auth: user name is empty",
        RpcError::USER_NOT_FOUND => "auth: user not found",
        _ => "auth: permission denied",
    };
    RpcError::new(Code::Unknown as i32, message)
}

/// A file in pieces, and in the end its hash, as etcd sends it.
fn pieces(file: Vec<u8>) -> impl Stream<Item = PbSnapshotResponse> {
    const PIECE: usize = 32 << 10;
    let hash = Sha256::digest(&file).to_vec();
    let parts = file.len().div_ceil(PIECE);
    stream::iter(0..=parts).map(move |part| {
        let rest = file.get(part * PIECE..).unwrap_or_default();
        let piece = &rest[..rest.len().min(PIECE)];
        PbSnapshotResponse {
            remaining_bytes: (rest.len() - piece.len()) as u64,
            blob: if part == parts { hash.clone() } else { piece.to_vec() },
            ..PbSnapshotResponse::default()
        }
    })
}

fn alarm(inner: &mut Inner, request: &PbAlarmRequest) -> PbAlarmResponse {
    let alarms = &mut inner.member.alarms;
    let named = (request.alarm, request.member_id);
    let told: Vec<(i32, u64)> = match request.action {
        GET => alarms.iter().filter(|(alarm, _)| [0, *alarm].contains(&request.alarm)).copied().collect(),
        ACTIVATE => {
            alarms.insert(named);
            vec![named]
        }
        DEACTIVATE if alarms.remove(&named) => vec![named],
        _ => Vec::new(),
    };
    let told = told.into_iter().map(|(alarm, member_id)| PbAlarmMember { member_id, alarm });
    PbAlarmResponse { header: None, alarms: told.collect() }
}

fn status(inner: &mut Inner) -> PbStatusResponse {
    let member = &inner.member;
    let mut errors = Vec::new();
    let is_leaderless = inner.is_leaderless(member.speaker);
    // Of those that hear each other, the first one.
    let leads = inner.replicas.iter().position(|replica| !replica.isolated).map_or(0, Member::id_of);
    if is_leaderless {
        errors.push(RpcError::NO_LEADER.message().to_owned());
    }
    errors.extend(member.alarms.iter().map(|&(alarm, member)| as_text(alarm, member)));
    PbStatusResponse {
        header: Some(member.header()),
        version: VERSION.to_owned(),
        leader: if is_leaderless { 0 } else { leads },
        raft_index: member.raft_index(),
        raft_applied_index: member.raft_index(),
        raft_term: member.raft_term(),
        errors,
        db_size: member.store.size().allocated(),
        db_size_in_use: member.store.size().in_use(),
        ..PbStatusResponse::default()
    }
}

/// As protobuf writes it, which leaves zeros out.
fn as_text(alarm: i32, member: u64) -> String {
    let member = if member == 0 { String::new() } else { format!("memberID:{member} ") };
    let alarm = match alarm {
        0 => "",
        1 => "alarm:NOSPACE ",
        _ => "alarm:CORRUPT ",
    };
    member + alarm
}
