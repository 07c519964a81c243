//! Watch streams, read into changes as they come: a key is copied once, and a short value never.

use super::Header;
use super::numbers::WatchId;
use super::token_channel::TokenChannel;
use super::wire_format::{Fields, Unreadable, read_header};
use crate::change::{Change, Deletion, Revision};
use crate::raw_codec::RawCodec;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

const WATCH: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");

/// Largest message accepted: what etcd may send at once, 1000 revisions of up to 1.5 MiB, unless it is asked for
/// pieces. A limit that is too low ends the watch for ever.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Requests that wait to be sent. Heartbeats are few.
const REQUESTS: usize = 16;

/// `etcdserverpb.WatchCreateRequest`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    start_revision: i64,
    #[prost(bool, tag = "4")]
    progress_notify: bool,
    #[prost(int32, repeated, tag = "5")]
    filters: Vec<i32>,
    #[prost(bool, tag = "8")]
    fragment: bool,
}

impl WatchCreateRequest {
    /// A range of keys, from a revision on, with the server's own notes of how far it is. Without an end it is one key.
    pub(super) fn range(key: Vec<u8>, range_end: Vec<u8>, from: Revision, deletions_only: bool) -> Self {
        /// Of `FilterType`.
        const NO_PUT: i32 = 0;
        Self {
            key,
            range_end,
            start_revision: from.get(),
            progress_notify: true,
            filters: if deletions_only { vec![NO_PUT] } else { Vec::new() },
            fragment: false,
        }
    }

    /// In messages of about 2 MiB.
    pub(super) fn in_pieces(self) -> Self {
        Self { fragment: true, ..self }
    }

    /// One key, from now on.
    pub(super) fn key(key: Vec<u8>) -> Self {
        Self { key, ..Self::default() }
    }
}

/// `etcdserverpb.WatchRequest`: one of these.
#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
    #[prost(message, optional, tag = "2")]
    cancel: Option<Cancel>,
}

#[derive(Clone, PartialEq, Message)]
struct Cancel {
    #[prost(int64, tag = "1")]
    watch_id: i64,
}

/// `etcdserverpb.WatchResponse`.
#[derive(Debug, Default)]
pub(super) struct WatchResponse {
    pub(super) header: Header,
    pub(super) watch_id: WatchId,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: Revision,
    pub(super) cancel_reason: String,
    /// Another piece follows.
    pub(super) fragment: bool,
    /// What its events say.
    pub(super) changes: Vec<Change>,
}

/// An open stream, on which several watches are possible.
pub(super) struct WatchCall {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<Bytes>,
}

/// The stream takes no more requests.
fn ended<T>(_: T) -> etcd_client::Error {
    etcd_client::Error::WatchError("the stream ended".into())
}

impl WatchCall {
    /// Opens a stream, with a first watch.
    pub(super) async fn open(
        channel: TokenChannel,
        request: WatchCreateRequest,
    ) -> Result<Self, etcd_client::Error> {
        let (requests, mut queue) = mpsc::channel(REQUESTS);
        let first = WatchRequest { create: Some(request), cancel: None };
        requests.try_send(first).map_err(ended)?;
        let messages = poll_fn(move |cx| queue.poll_recv(cx));
        let mut request =
            Request::new(messages.map(|message: WatchRequest| Bytes::from(message.encode_to_vec())));
        // As etcd-client does: a member that loses its leader is to end it.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
        client.ready().await.map_err(Status::from_error)?;
        let responses = client.streaming(request, WATCH, RawCodec).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// The next message. Nothing is lost if it is not waited for to its end.
    pub(super) async fn message(&mut self) -> Result<WatchResponse, etcd_client::Error> {
        let bytes = self.responses.message().await?.ok_or_else(|| ended(()))?;
        response(&bytes).map_err(|_| Status::internal("a message of a watch can't be read").into())
    }

    /// Adds a watch.
    pub(super) async fn watch(&mut self, request: WatchCreateRequest) -> Result<(), etcd_client::Error> {
        self.requests.send(WatchRequest { create: Some(request), cancel: None }).await.map_err(ended)
    }

    /// Ends one of its watches.
    pub(super) async fn cancel(&mut self, watch_id: WatchId) -> Result<(), etcd_client::Error> {
        let cancel = Some(Cancel { watch_id: watch_id.get() });
        self.requests.send(WatchRequest { create: None, cancel }).await.map_err(ended)
    }
}

/// Reads an `etcdserverpb.WatchResponse`.
fn response(bytes: &[u8]) -> Result<WatchResponse, Unreadable> {
    const HEADER: u32 = 1;
    const WATCH_ID: u32 = 2;
    const CREATED: u32 = 3;
    const CANCELED: u32 = 4;
    const COMPACT_REVISION: u32 = 5;
    const CANCEL_REASON: u32 = 6;
    const FRAGMENT: u32 = 7;
    const EVENTS: u32 = 11;
    let mut response = WatchResponse::default();
    for field in Fields(bytes) {
        match field? {
            (HEADER, field) => read_header(field.bytes()?, &mut response.header)?,
            (WATCH_ID, field) => response.watch_id = WatchId::new(field.number()? as i64),
            (CREATED, field) => response.created = field.number()? != 0,
            (CANCELED, field) => response.canceled = field.number()? != 0,
            (COMPACT_REVISION, field) => response.compact_revision = Revision::new(field.number()? as i64),
            (CANCEL_REASON, field) => {
                let reason = str::from_utf8(field.bytes()?).map_err(|_| Unreadable)?;
                response.cancel_reason = reason.to_owned();
            }
            (FRAGMENT, field) => response.fragment = field.number()? != 0,
            (EVENTS, field) => response.changes.push(change(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(response)
}

/// Reads a `mvccpb.Event`. To pass over one that names no key, or is of an unknown kind, would be to lose a change.
fn change(event: &[u8]) -> Result<Change, Unreadable> {
    const TYPE: u32 = 1;
    const KEY_VALUE: u32 = 2;
    const PUT: i32 = 0;
    const DELETE: i32 = 1;
    /// Fields of `mvccpb.KeyValue`.
    const KEY: u32 = 1;
    const MOD_REVISION: u32 = 3;
    const VALUE: u32 = 5;
    let (mut kind, mut named) = (0, false);
    let (mut key, mut value, mut revision) = (&[][..], &[][..], 0);
    for field in Fields(event) {
        match field? {
            // As prost reads an enum.
            (TYPE, field) => kind = field.number()? as i32,
            (KEY_VALUE, field) => {
                named = true;
                for field in Fields(field.bytes()?) {
                    match field? {
                        (KEY, field) => key = field.bytes()?,
                        (MOD_REVISION, field) => revision = field.number()? as i64,
                        (VALUE, field) => value = field.bytes()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !named {
        return Err(Unreadable);
    }
    let (key, revision) = (key.to_vec(), Revision::new(revision));
    match kind {
        PUT => Ok(Change::Put { key, value: value.into(), revision }),
        DELETE => Ok(Change::Delete { key, revision, how: Deletion::Delivered }),
        _ => Err(Unreadable),
    }
}

#[cfg(test)]
pub(crate) mod tests;
