//! Ranges, puts, deletions, transactions, compactions.

use super::{Leader, Service, unsupported};
use crate::embedded::plan::{HistoryReader, RequestKind};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl PbKvService for Service {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let leader = if request.get_ref().serializable { Leader::NotNeeded } else { Leader::Needed };
        self.unary(RequestKind::Range, leader, request, |inner, request, _| {
            inner.needs_history(HistoryReader::Range, request.revision);
            let applied = inner.applied_by(inner.member.speaker);
            if request.serializable && applied < inner.member.store.revision() {
                return inner.member.range_as_of(request, applied);
            }
            inner.member.range(request)
        })
        .await
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        unsupported("range streams")
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.unary(RequestKind::Put, Leader::Needed, request, |inner, request, _| inner.member.put(request))
            .await
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        self.unary(RequestKind::DeleteRange, Leader::Needed, request, |inner, request, _| {
            inner.member.delete(request)
        })
        .await
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.unary(RequestKind::Txn, Leader::Needed, request, |inner, request, _| inner.member.txn(request))
            .await
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.unary(RequestKind::Compact, Leader::Needed, request, |inner, request, _| {
            inner.member.compact(request)
        })
        .await
    }
}
