//! Sends encoded transactions, and reads only those parts of the answers that are needed.
//!
//! etcd-client takes a transaction as a tree of structs, and gives its answer as another one. With dozens of nested
//! transactions in a request both cost more than all that the engine itself does with them. So this calls the method
//! of etcd's gRPC service below etcd-client, over the same channel, which puts the token on it.

use super::requests::TxnResponse;
use super::token_channel::TokenChannel;
use super::wire_format::{Fields, Unreadable, read_header};
use super::{Header, MAX_RESPONSE};
use crate::raw_codec::RawCodec;
use bytes::Bytes;
use etcd_client::proto::{
    PbDeleteResponse, PbPutResponse, PbRangeResponse, PbResponseOp, PbTxnOpResponse, PbTxnResponse,
};
use http::uri::PathAndQuery;
use prost::Message;
use smallvec::SmallVec;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

const TXN: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Txn");

/// Sends an encoded `etcdserverpb.TxnRequest`, and waits for its answer.
pub(super) async fn send(channel: TokenChannel, txn: Bytes) -> Result<TxnResponse, Status> {
    let mut request = Request::new(txn);
    // As etcd-client does: a member without a leader is to refuse it.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    client.ready().await.map_err(Status::from_error)?;
    let bytes = client.unary(request, TXN, RawCodec).await?.into_inner();
    answer(&bytes).map_err(|_| Status::internal("the answer to a transaction can't be read"))
}

/// Reads an `etcdserverpb.TxnResponse`.
fn answer(bytes: &[u8]) -> Result<TxnResponse, Unreadable> {
    let (mut answer, mut header) = (TxnResponse::default(), Header::default());
    for field in Fields(bytes) {
        match field? {
            (HEADER, field) => read_header(field.bytes()?, &mut header)?,
            (SUCCEEDED, field) => answer.succeeded = field.number()? != 0,
            (RESPONSES, field) => answer.responses.push(response(field.bytes()?, LEVELS)?),
            _ => {}
        }
    }
    answer.revision = header.revision;
    Ok(answer)
}

/// How deep transactions are nested at most. The engine's are once. Each level is a call, so there must be an end.
const LEVELS: u32 = 8;

/// Fields of `TxnResponse`.
const HEADER: u32 = 1;
const SUCCEEDED: u32 = 2;
const RESPONSES: u32 = 3;

/// Fields of `ResponseOp`.
const RANGE: u32 = 1;
const PUT: u32 = 2;
const DELETE_RANGE: u32 = 3;
const TXN_RESPONSE: u32 = 4;

/// The answer to one operation. Of what puts and deletions did, nobody asks.
fn response(bytes: &[u8], levels: u32) -> Result<Option<PbTxnOpResponse>, Unreadable> {
    Ok(match operation(bytes)? {
        Some((RANGE, bytes)) => Some(PbTxnOpResponse::ResponseRange(PbRangeResponse::decode(bytes)?)),
        Some((PUT, _)) => Some(PbTxnOpResponse::ResponsePut(PbPutResponse::default())),
        Some((DELETE_RANGE, _)) => Some(PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse::default())),
        Some((_, bytes)) => {
            let levels = levels.checked_sub(1).ok_or(Unreadable)?;
            Some(PbTxnOpResponse::ResponseTxn(nested(bytes, levels)?))
        }
        None => None,
    })
}

/// The number and the bytes of what a `ResponseOp` holds. It is one thing.
fn operation(bytes: &[u8]) -> Result<Option<(u32, &[u8])>, Unreadable> {
    let mut found = None;
    for field in Fields(bytes) {
        let (number, field) = field?;
        if matches!(number, RANGE | PUT | DELETE_RANGE | TXN_RESPONSE)
            && found.replace((number, field.bytes()?)).is_some()
        {
            return Err(Unreadable);
        }
    }
    Ok(found)
}

/// The answer to a nested transaction. Its header is empty. Its responses are left out if all compares held and it
/// reads nothing: reads come after puts and deletions.
fn nested(bytes: &[u8], levels: u32) -> Result<PbTxnResponse, Unreadable> {
    let mut succeeded = false;
    let mut operations: SmallVec<[&[u8]; 8]> = SmallVec::new();
    for field in Fields(bytes) {
        match field? {
            (SUCCEEDED, field) => succeeded = field.number()? != 0,
            (RESPONSES, field) => operations.push(field.bytes()?),
            _ => {}
        }
    }
    if succeeded {
        let last = operations.last().map(|last| operation(last)).transpose()?.flatten();
        if !matches!(last, Some((RANGE, _))) {
            operations.clear();
        }
    }
    let responses =
        operations.into_iter().map(|bytes| Ok(PbResponseOp { response: response(bytes, levels)? }));
    Ok(PbTxnResponse { header: None, succeeded, responses: responses.collect::<Result<_, Unreadable>>()? })
}

#[cfg(test)]
pub(crate) mod tests;
