//! Carries transactions that are encoded already. etcd-client takes a transaction only as a tree of structs; it is
//! given an empty one, and where its request passes on to the connection, the empty body is replaced by the encoded
//! one. So all that the client does for a request (credentials, demand for a leader, errors) is done for these too.

use bytes::Bytes;
use etcd_client::{BalancedChannelBuilder, Channel};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::{Endpoint, channel::Change};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service};

/// The only method whose requests are replaced.
const TXN: &str = "/etcdserverpb.KV/Txn";

tokio::task_local! {
    static BODY: EncodedBody;
}

/// What is to be sent in place of the client's own transaction.
struct EncodedBody {
    body: Bytes,
    sent: Cell<bool>,
}

/// Runs a request of a transaction with this body instead of its own. `None`: it was not sent in its place, so that
/// the answer is about something else; for then the channel is none of [`txn_channel`].
pub(super) async fn with_body<T>(body: Bytes, request: impl Future<Output = T>) -> Option<T> {
    let body = EncodedBody { body, sent: Cell::new(false) };
    let running = async {
        let answer = request.await;
        BODY.with(|body| body.sent.get()).then_some(answer)
    };
    BODY.scope(body, running).await
}

/// A channel that sends what a request has by [`with_body`].
pub(super) fn txn_channel(channel: Channel) -> Channel {
    Channel::Custom(BoxCloneSyncService::new(TxnChannel(channel)))
}

/// Makes such channels, over tonic's own.
pub(super) struct TxnChannelBuilder;

impl BalancedChannelBuilder for TxnChannelBuilder {
    type Error = etcd_client::Error;

    fn balanced_channel(
        self,
        buffer_size: usize,
    ) -> Result<(Channel, mpsc::Sender<Change<http::Uri, Endpoint>>), Self::Error> {
        let (channel, endpoints) = tonic::transport::Channel::balance_channel(buffer_size);
        Ok((txn_channel(Channel::Tonic(channel)), endpoints))
    }
}

#[derive(Clone)]
struct TxnChannel(Channel);

impl Service<Request<Body>> for TxnChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() == TXN {
            // There is none around a transaction of another kind. The client may send one twice, with new credentials.
            let _ = BODY.try_with(|body| {
                *request.body_mut() = Body::new(Whole(Some(body.body.clone())));
                body.sent.set(true);
            });
        }
        self.0.call(request)
    }
}

/// A body of one piece. Like tonic's own it does not tell its length beforehand.
struct Whole(Option<Bytes>);

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::embedded::EmbeddedEtcd;
    use crate::lock::encode::{EncodedTxn, Sign, Target, alone};
    use etcd_client::{Client, ConnectOptions, Txn};

    /// Puts a key if it is absent.
    fn body() -> Bytes {
        let mut txn = EncodedTxn::default();
        txn.compare("/a", Sign::Equal, Target::Created(0));
        txn.then_put("/a", b"1", None);
        alone(&txn)
    }

    #[tokio::test]
    async fn what_is_carried_is_sent_in_place_of_the_clients_own() {
        let etcd = EmbeddedEtcd::start().await.unwrap();
        let endpoint = format!("http://{}", etcd.endpoint());
        let mut client =
            Client::connect_with_balanced_channel([endpoint], None, TxnChannelBuilder).await.unwrap();
        let first = with_body(body(), client.txn(Txn::new())).await.expect("it was sent").unwrap();
        assert!(first.succeeded());
        let second = with_body(body(), client.txn(Txn::new())).await.expect("it was sent").unwrap();
        assert!(!second.succeeded(), "the key is there now");
        // What nothing is carried for goes as it is, and so do other requests.
        assert!(client.txn(Txn::new()).await.unwrap().succeeded());
        assert!(with_body(body(), client.get("/a", None)).await.is_none());
        assert_eq!(client.get("/a", None).await.unwrap().kvs()[0].version(), 1);
    }

    #[tokio::test]
    async fn a_channel_that_does_not_carry_is_noticed() {
        let etcd = EmbeddedEtcd::start().await.unwrap();
        let mut client = Client::connect([etcd.endpoint()], None::<ConnectOptions>).await.unwrap();
        assert!(with_body(body(), client.txn(Txn::new())).await.is_none());
        assert!(client.get("/a", None).await.unwrap().kvs().is_empty());
    }
}
