//! The channel under every client of the engine. It sends transactions that are encoded already: etcd-client
//! takes a transaction only as a tree of structs; it is given an empty one, and here, where its request
//! passes on to the connection, the empty body is replaced by the encoded one. So everything that the client
//! does for a request (requiring a leader, errors) is done for these too. It also puts the engine's own token
//! on every request, and answers a client that asks for one.

use super::connection::{Activity, ConnectionOver, Listened};
use super::token::{AUTHENTICATE, Token};
use super::wire::Wire;
use bytes::Bytes;
use etcd_client::{BalancedChannelBuilder, Channel};
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response, Uri};
use http_body::{Body as HttpBody, Frame};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
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

/// Runs a request of a transaction with this body instead of its own. `None`: it was not sent in its place,
/// so that the answer is about something else; for then the client's channel is no [`TxnChannel`].
pub(super) async fn with_body<T>(body: Bytes, request: impl Future<Output = T>) -> Option<T> {
    let body = EncodedBody { body, sent: Cell::new(false) };
    let running = async {
        let answer = request.await;
        BODY.with(|body| body.sent.get()).then_some(answer)
    };
    BODY.scope(body, running).await
}

/// See the [module](self).
#[derive(Clone)]
pub(super) struct TxnChannel {
    over: Over,
    token: Arc<Token>,
}

#[derive(Clone)]
enum Over {
    /// The application's channel.
    Given(Channel),
    /// A connection of the engine's own, and the channel over it once the client has told how it is to be
    /// used.
    Own(Arc<OwnConnection>, Option<Channel>),
}

/// A TCP connection that a channel is made over, once.
struct OwnConnection {
    endpoints: Mutex<mpsc::Receiver<Change<Uri, Endpoint>>>,
    stream: Mutex<Option<Listened>>,
    channel: OnceLock<Channel>,
}

impl OwnConnection {
    fn channel(&self) -> Result<Channel, BoxError> {
        if let Some(channel) = self.channel.get() {
            return Ok(channel.clone());
        }
        let told = self.endpoints.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).try_recv();
        let Ok(Change::Insert(_, endpoint)) = told else {
            return self.channel.get().cloned().ok_or_else(|| ConnectionOver.into());
        };
        let stream = self.stream.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let channel = Channel::Tonic(endpoint.connect_with_connector_lazy(Once(stream)));
        Ok(self.channel.get_or_init(|| channel).clone())
    }
}

/// Hands out the connection once: after its end there is none.
struct Once(Option<Listened>);

impl Service<Uri> for Once {
    type Response = TokioIo<Listened>;
    type Error = ConnectionOver;
    type Future = Ready<Result<Self::Response, ConnectionOver>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionOver>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or(ConnectionOver))
    }
}

impl TxnChannel {
    /// Over the application's channel.
    pub(super) fn given(channel: Channel, token: Arc<Token>) -> Self {
        Self { over: Over::Given(channel), token }
    }

    pub(super) fn into_channel(self) -> Channel {
        Channel::Custom(BoxCloneSyncService::new(self))
    }

    /// The channel below.
    pub(super) fn below(&mut self) -> Result<&mut Channel, BoxError> {
        match &mut self.over {
            Over::Given(channel) => Ok(channel),
            Over::Own(own, channel) => {
                if channel.is_none() {
                    *channel = Some(own.channel()?);
                }
                channel.as_mut().ok_or_else(|| ConnectionOver.into())
            }
        }
    }
}

/// Makes the channel of one connection.
pub(super) struct TxnChannelBuilder {
    channel: TxnChannel,
    endpoints: mpsc::Sender<Change<Uri, Endpoint>>,
}

impl TxnChannelBuilder {
    /// Over this connection. Returns the channel too, for what the client does not know.
    pub(super) fn over(stream: Wire, activity: Arc<Activity>, token: Arc<Token>) -> (Self, TxnChannel) {
        // The client was given one endpoint.
        let (endpoints, told) = mpsc::channel(1);
        let own = OwnConnection {
            endpoints: Mutex::new(told),
            stream: Mutex::new(Some(Listened::new(stream, activity))),
            channel: OnceLock::new(),
        };
        let channel = TxnChannel { over: Over::Own(Arc::new(own), None), token };
        (Self { channel: channel.clone(), endpoints }, channel)
    }
}

impl BalancedChannelBuilder for TxnChannelBuilder {
    type Error = etcd_client::Error;

    fn balanced_channel(
        self,
        _: usize,
    ) -> Result<(Channel, mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        Ok((self.channel.into_channel(), self.endpoints))
    }
}

impl Service<Request<Body>> for TxnChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<
        <Channel as Service<Request<Body>>>::Future,
        BoxFuture<'static, Result<Response<Body>, BoxError>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.below()?.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match request.uri().path() {
            TXN => {
                // There is none around a transaction of another kind.
                let _ = BODY.try_with(|body| {
                    *request.body_mut() = Body::new(Whole(Some(body.body.clone())));
                    body.sent.set(true);
                });
            }
            AUTHENTICATE => {
                let token = self.token.clone();
                return match self.below() {
                    Ok(channel) => {
                        let channel = channel.clone();
                        Either::Right(Box::pin(async move { token.answer(request, channel).await }))
                    }
                    Err(error) => Either::Right(Box::pin(ready(Err(error)))),
                };
            }
            _ => {}
        }
        self.token.put_on(&mut request);
        match self.below() {
            Ok(channel) => Either::Left(channel.call(request)),
            Err(error) => Either::Right(Box::pin(ready(Err(error)))),
        }
    }
}

/// A body of one piece. Like tonic's own it does not tell its length beforehand.
pub(super) struct Whole(pub(super) Option<Bytes>);

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
        txn.compare("/a", Sign::Equal, Target::Created(crate::change::Revision::NONE));
        txn.then_put("/a", b"1", None);
        alone(&txn, &EncodedTxn::default())
    }

    #[tokio::test]
    async fn what_is_carried_is_sent_in_place_of_the_clients_own() {
        let etcd = EmbeddedEtcd::start().await.unwrap();
        let stream = Wire::Tcp(tokio::net::TcpStream::connect(etcd.endpoint()).await.unwrap());
        let activity = Arc::new(Activity::new(tokio::time::Instant::now()));
        let (builder, _) = TxnChannelBuilder::over(stream, activity, Arc::default());
        let endpoint = format!("http://{}", etcd.endpoint());
        let mut client = Client::connect_with_balanced_channel([endpoint], None, builder).await.unwrap();
        let first = with_body(body(), client.txn(Txn::new())).await.expect("it was sent").unwrap();
        assert!(first.succeeded());
        let second = with_body(body(), client.txn(Txn::new())).await.expect("it was sent").unwrap();
        assert!(!second.succeeded(), "the key is there now");
        // Requests without a replacement pass unchanged, and so do other methods.
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
