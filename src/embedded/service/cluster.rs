//! The list of members.

use super::{Leader, Service, unsupported};
use crate::embedded::member::Member;
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
            let name = |number: usize| match inner.replicas.len() {
                1 => "embedded".to_owned(),
                _ => format!("embedded-{number}"),
            };
            let member = |number| PbMember {
                id: Member::id_of(number),
                name: name(number),
                client_ur_ls: if number == 0 { inner.client_urls.clone() } else { Vec::new() },
                ..PbMember::default()
            };
            let members = (0..inner.replicas.len()).map(member).collect();
            // As in etcd 3.4, which has no revision there.
            Ok(PbMemberListResponse { header: Some(inner.member.header_at(0)), members })
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
