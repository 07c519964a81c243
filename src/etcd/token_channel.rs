//! The channel under every client of the engine. It puts the engine's own token on every request, and answers a client
//! that asks for one.

use super::connection::{Activity, ConnectionOver, Listened};
use super::token::{AUTHENTICATE, Token};
use super::wire::Wire;
use bytes::Bytes;
use etcd_client::{BalancedChannelBuilder, Channel};
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response, Uri};
use http_body::{Body as HttpBody, Frame};
use hyper_util::rt::TokioIo;
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

/// See the [module](self).
#[derive(Clone)]
pub(super) struct TokenChannel {
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
        let changes = self.endpoints.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).try_recv();
        let Ok(Change::Insert(_, endpoint)) = changes else {
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

impl TokenChannel {
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
pub(super) struct TokenChannelBuilder {
    channel: TokenChannel,
    endpoints: mpsc::Sender<Change<Uri, Endpoint>>,
}

impl TokenChannelBuilder {
    /// Over this connection. Returns the channel too, for what the client does not know.
    pub(super) fn over(stream: Wire, activity: Arc<Activity>, token: Arc<Token>) -> (Self, TokenChannel) {
        // The client was given one endpoint.
        let (endpoints, changes) = mpsc::channel(1);
        let own = OwnConnection {
            endpoints: Mutex::new(changes),
            stream: Mutex::new(Some(Listened::new(stream, activity))),
            channel: OnceLock::new(),
        };
        let channel = TokenChannel { over: Over::Own(Arc::new(own), None), token };
        (Self { channel: channel.clone(), endpoints }, channel)
    }
}

impl BalancedChannelBuilder for TokenChannelBuilder {
    type Error = etcd_client::Error;

    fn balanced_channel(
        self,
        _: usize,
    ) -> Result<(Channel, mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        Ok((self.channel.into_channel(), self.endpoints))
    }
}

impl Service<Request<Body>> for TokenChannel {
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
        if request.uri().path() == AUTHENTICATE {
            let token = self.token.clone();
            return match self.below() {
                Ok(channel) => {
                    let channel = channel.clone();
                    Either::Right(Box::pin(async move { token.answer(request, channel).await }))
                }
                Err(error) => Either::Right(Box::pin(ready(Err(error)))),
            };
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
