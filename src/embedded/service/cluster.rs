//! The list of members, which has one.

use super::{Leader, Service, unsupported};
use crate::embedded::plan::RequestKind;
use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl PbClusterService for Service {
    async fn member_list(
        &self,
        request: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        self.unary(RequestKind::MemberList, Leader::NotNeeded, request, |inner, _, _| {
            let member =
                PbMember { id: inner.member.member_id(), name: "embedded".to_owned(), ..PbMember::default() };
            Ok(PbMemberListResponse { header: Some(inner.member.header()), members: vec![member] })
        })
        .await
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        unsupported("other members")
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        unsupported("other members")
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        unsupported("other members")
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        unsupported("other members")
    }
}
