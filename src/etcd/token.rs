//! The engine's token: asked for once for all its connections, put on every request, renewed when it is
//! refused.
//!
//! etcd-client authenticates each client anew. Here its request for a token is seen on its way: the first one
//! is sent on and remembered, and the channel itself answers the others. A token that a member refuses is
//! renewed by the remembered request. etcd is asked at most once a second, and less and less often while it
//! refuses the credentials.

use super::errors::is_authentication_off;
use super::failure::{Failure, FailureKind};
use super::numbers::TokenGeneration;
use super::token_channel::Whole;
use crate::mutants::{Mutant, is_active};
use crate::time::doubled;
use bytes::{BufMut, Bytes, BytesMut};
use etcd_client::Channel;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Code;
use tonic::body::Body;
use tower::{BoxError, Service};

/// The method that gives a token for a user and a password.
pub(super) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Between two questions for a token.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause while etcd refuses the credentials.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How long the answer may take: etcd hashes passwords one at a time, at the cost that it is configured with.
const LIMIT: Duration = Duration::from_secs(15);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Token {
    value: RwLock<Option<HeaderValue>>,
    /// Counts the tokens: 0 is before the first.
    generation: AtomicU64,
    state: Mutex<State>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What etcd-client asks, with the user's name and password in it.
    question: Option<Question>,
    /// When etcd may be asked again.
    not_before: Option<Instant>,
    refusals: u32,
    /// The last answer, if it was a refusal.
    refusal: Option<Failure>,
}

#[derive(Clone)]
struct Question {
    parts: Parts,
    body: Bytes,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There is a password in it.
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

/// `etcdserverpb.AuthenticateResponse`, without its header.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(string, tag = "2")]
    token: String,
}

/// `etcdserverpb.AuthenticateRequest`.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

/// A message as gRPC sends it.
fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(&message);
    frame.freeze()
}

impl Token {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Which token requests have now.
    pub(super) fn generation(&self) -> TokenGeneration {
        TokenGeneration::new(self.generation.load(Ordering::SeqCst))
    }

    /// Whether there are credentials, so that there can be a newer token.
    pub(super) fn can_be_renewed(&self) -> bool {
        self.state().question.is_some()
    }

    /// Puts the token on a request, in place of one that the client has.
    pub(super) fn put_on(&self, request: &mut Request<Body>) {
        const TOKEN: &str = "token";
        if self.generation() == TokenGeneration::NONE {
            return;
        }
        let value = self.value.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        match value {
            Some(value) => drop(request.headers_mut().insert(TOKEN, value)),
            None => drop(request.headers_mut().remove(TOKEN)),
        }
    }

    /// Answers a client's question for a token.
    pub(super) async fn answer(
        &self,
        request: Request<Body>,
        channel: Channel,
    ) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let question = Question { parts, body: collect(body).await?.0 };
        let answered = match self.is_known(&question) {
            true => self.renew(TokenGeneration::NONE, channel, || {}).await,
            // Other credentials than the token was given for need another token.
            false => self.try_others(question, channel).await,
        };
        match answered {
            Ok(()) => {
                let value = self.value.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
                let token =
                    value.and_then(|value| value.to_str().ok().map(str::to_owned)).unwrap_or_default();
                let frame = framed(&Answer { token });
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let frames = [Frame::data(frame), Frame::trailers(trailers)];
                let mut response = Response::new(Body::new(Frames(frames.into_iter())));
                response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                Ok(response)
            }
            Err(failure) => Err(tonic::Status::new(code_of(&failure), failure.message).into()),
        }
    }

    fn is_known(&self, question: &Question) -> bool {
        self.state().question.as_ref().is_some_and(|known| known.body == question.body)
    }

    /// Asks for a token of another user, or with another password, unless there is a newer one than `stale` already.
    /// `None`: those are in use already, or nobody has ever asked for a token.
    pub(super) async fn renew_as(
        &self,
        stale: TokenGeneration,
        name: &str,
        password: &str,
        channel: Channel,
    ) -> Option<Result<(), Failure>> {
        let known = self.state().question.clone()?;
        let message = Asked { name: name.to_owned(), password: password.to_owned() };
        let question = Question { parts: known.parts, body: framed(&message) };
        match question.body == known.body {
            // Another link has just asked with them.
            true => (self.generation() > stale).then_some(Ok(())),
            false => Some(self.try_others(question, channel).await),
        }
    }

    /// Asks a question that was not asked before. If it is refused, the one that was answered stays.
    async fn try_others(&self, question: Question, channel: Channel) -> Result<(), Failure> {
        let _asking = self.asking.lock().await;
        if self.generation() > TokenGeneration::NONE && self.is_known(&question) {
            return Ok(());
        }
        let asked = match timeout(LIMIT, request_token(question.clone(), channel)).await {
            Ok(asked) => asked,
            Err(_) => Err(Failure::timed_out(REQUEST, LIMIT)),
        };
        if asked.is_ok() || self.generation() == TokenGeneration::NONE {
            let mut state = self.state();
            state.question = Some(question);
            // Others deserve attempts of their own.
            state.refusals = 0;
        }
        match asked {
            Err(failure) if self.generation() > TokenGeneration::NONE => Err(failure),
            asked => self.answered(asked),
        }
    }

    /// Asks for a token unless there is a newer one than `stale` already. `asks` is called when the question is sent,
    /// which may be a while later.
    pub(super) async fn renew(
        &self,
        stale: TokenGeneration,
        channel: Channel,
        asks: impl FnOnce(),
    ) -> Result<(), Failure> {
        let _asking = self.asking.lock().await;
        if self.generation() > stale {
            return Ok(());
        }
        let (question, not_before, refusal) = {
            let state = self.state();
            (state.question.clone(), state.not_before, state.refusal.clone())
        };
        let Some(question) = question else {
            return Err(Failure::new(FailureKind::Authentication, REQUEST, "there are no credentials"));
        };
        if let Some(at) = not_before.filter(|at| *at > Instant::now() && !is_active(Mutant::TokenRate)) {
            match refusal {
                // Whoever asked meanwhile gets this answer too.
                Some(refusal) => return Err(refusal),
                None => sleep_until(at).await,
            }
        }
        asks();
        let asked = match timeout(LIMIT, request_token(question, channel)).await {
            Ok(asked) => asked,
            Err(_) => Err(Failure::timed_out(REQUEST, LIMIT)),
        };
        self.answered(asked)
    }

    fn answered(&self, asked: Result<Option<HeaderValue>, Failure>) -> Result<(), Failure> {
        let mut state = self.state();
        match asked {
            Ok(value) => {
                *self.value.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = value;
                self.generation.fetch_add(1, Ordering::SeqCst);
                state.refusals = 0;
                state.refusal = None;
                state.not_before = Some(Instant::now() + PAUSE);
                Ok(())
            }
            Err(failure) => {
                let refused = failure.kind == FailureKind::Authentication;
                state.refusals = if refused { state.refusals.saturating_add(1) } else { 0 };
                state.not_before = Some(Instant::now() + doubled(PAUSE, LONGEST_PAUSE, state.refusals));
                state.refusal = refused.then(|| failure.clone());
                Err(failure)
            }
        }
    }
}

/// The name of the request in metrics.
pub(super) const REQUEST: &str = "authenticate";

fn code_of(failure: &Failure) -> Code {
    match failure.kind {
        FailureKind::Authentication => Code::InvalidArgument,
        _ => Code::Unavailable,
    }
}

/// `None`: authentication is off, and no token is needed.
async fn request_token(
    Question { parts, body }: Question,
    mut channel: Channel,
) -> Result<Option<HeaderValue>, Failure> {
    let broken = |error: BoxError| {
        let status = tonic::Status::from_error(error);
        Failure::of_error(REQUEST, etcd_client::Error::GRpcStatus(status))
    };
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(broken)?;
    let request = Request::from_parts(parts, Body::new(Whole(Some(body))));
    let (head, body) = channel.call(request).await.map_err(broken)?.into_parts();
    let (bytes, trailers) = collect(body).await.map_err(broken)?;
    let status =
        tonic::Status::from_header_map(&trailers).or_else(|| tonic::Status::from_header_map(&head.headers));
    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
        if is_authentication_off(status.message()) {
            return Ok(None);
        }
        return Err(Failure::of_error(REQUEST, etcd_client::Error::GRpcStatus(status)));
    }
    let unreadable = || Failure::new(FailureKind::Unreachable, REQUEST, "the answer can't be read");
    let message = bytes.get(5..).ok_or_else(unreadable)?;
    let Answer { token } = Answer::decode(message).map_err(|_| unreadable())?;
    HeaderValue::from_str(&token).map(Some).map_err(|_| unreadable())
}

/// A body of an answer, and its trailers.
struct Frames(std::array::IntoIter<Frame<Bytes>, 2>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

/// All of a body, and its trailers.
async fn collect(body: Body) -> Result<(Bytes, HeaderMap), BoxError> {
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes.freeze(), trailers))
}
