//! Streams of watches.

use super::lease::leader_lost;
use super::{Service, check_message, requires_leader, token};
use crate::embedded::plan::{Action, HistoryReader, RequestKind};
use crate::embedded::refusal::RpcError;
use crate::embedded::shared::Shared;
use crate::embedded::watch::{Answer, Watches};
use crate::watch_cell::WatchCell;
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// How often watches that want it are told their progress, as in etcd.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// The service of watches. Its answers are no messages of etcd-client, so that it has no stub of the service.
#[derive(Clone)]
pub(super) struct WatchService(pub(super) Service);

impl NamedService for WatchService {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl tonic::codegen::Service<http::Request<Body>> for WatchService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/etcdserverpb.Watch/Watch" => Grpc::new(AnswerCodec).streaming(service, request).await,
                _ => Status::unimplemented("the service of watches watches").into_http(),
            })
        })
    }
}

impl StreamingService<PbWatchRequest> for WatchService {
    type Response = Answer;
    type ResponseStream = BoxStream<'static, Result<Answer, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<PbWatchRequest>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.watch(request).await })
    }
}

/// Takes requests as etcd-client decodes them, and gives answers whose events are bytes already.
#[derive(Clone, Copy)]
struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = Answer;
    type Decode = PbWatchRequest;
    type Encoder = Self;
    type Decoder = <ProstCodec<PbWatchResponse, PbWatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<PbWatchResponse, PbWatchRequest>::default().decoder()
    }
}

impl Encoder for AnswerCodec {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Service {
    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<BoxStream<'static, Result<Answer, Status>>>, Status> {
        let leader_required = requires_leader(request.metadata());
        let token = token(request.metadata());
        let action = self.0.arrive(RequestKind::Watch);
        self.0.wait_until_thawed().await;
        if leader_required {
            self.0.wait_for_leader(self.1, true).await.map_err(RpcError::status)?;
        }
        match action {
            Some(Action::Fail(refusal) | Action::FailAfter(refusal)) => return Err(refusal.status()),
            Some(Action::Lose | Action::LoseAnswer) => pending().await,
            Some(Action::Delay(delay) | Action::DelayRegardless(delay) | Action::DelayAnswer(delay)) => {
                sleep(delay).await
            }
            Some(Action::Duplicate) | None => {}
        }
        let stream = WatchStream {
            requests: request.into_inner(),
            requests_open: true,
            leader_required,
            token,
            watches: Watches::default(),
            ready: VecDeque::new(),
            changes: self.0.changes(),
            cut: self.0.streams(),
            next_tick: Instant::now() + PROGRESS_INTERVAL,
            end: None,
            ended: false,
            member: self.1,
            shared: self.0.clone(),
        };
        let responses = unfold(stream, |mut stream| async move {
            let response = stream.next().await?;
            stream.ended = response.is_err();
            Some((response, stream))
        });
        Ok(Response::new(responses.boxed()))
    }
}

/// One stream: it produces a response only when the client's side takes one.
struct WatchStream {
    shared: Arc<Shared>,
    member: usize,
    requests: Streaming<PbWatchRequest>,
    requests_open: bool,
    leader_required: bool,
    /// It is looked at when a watch is created, and never again.
    token: Option<String>,
    watches: Watches,
    /// What is to be sent next; bounded by what `Watches` hands out at once.
    ready: VecDeque<Answer>,
    changes: WatchCell<()>,
    cut: CancellationToken,
    next_tick: Instant,
    /// Why the stream ends after the response that goes out now.
    end: Option<RpcError>,
    ended: bool,
}

impl WatchStream {
    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        if self.ended {
            return None;
        }
        if let Some(refusal) = self.end {
            return Some(Err(refusal.status()));
        }
        let (cut, shared, required) = (self.cut.clone(), self.shared.clone(), self.leader_required);
        tokio::select! {
            biased;
            () = cut.cancelled() => Some(Err(RpcError::STOPPED.status())),
            () = leader_lost(&shared, self.member, required) => Some(Err(RpcError::NO_LEADER.status())),
            response = self.respond() => response.transpose().map(|r| r.map_err(RpcError::status)),
        }
    }

    /// The next response; `None` ends the stream, because the client has gone.
    async fn respond(&mut self) -> Result<Option<Answer>, RpcError> {
        loop {
            self.shared.wait_until_thawed().await;
            self.changes.mark_seen();
            if self.ready.is_empty() {
                let Self { shared, member, watches, ready, .. } = self;
                shared.apply(|inner, _| {
                    inner
                        .at(*member, |inner| watches.collect(&inner.member, inner.applied_by(*member), ready))
                });
            }
            if let Some(response) = self.ready.pop_front() {
                match self.deliver(response).await? {
                    Some(response) => return Ok(Some(response)),
                    None => continue,
                }
            }
            tokio::select! {
                biased;
                request = self.requests.message(), if self.requests_open => match request {
                    Ok(Some(request)) => self.take(request).await?,
                    // As in etcd, a client that says nothing more still gets its events.
                    Ok(None) => self.requests_open = false,
                    Err(_) => return Ok(None),
                },
                // The sender lives as long as `shared`.
                _ = self.changes.changed() => {}
                () = sleep_until(self.next_tick) => {
                    self.next_tick += PROGRESS_INTERVAL;
                    let Self { shared, member, watches, ready, .. } = self;
                    shared.look(|inner| {
                        inner.at(*member, |inner| watches.tick(&inner.member, inner.applied_by(*member), ready))
                    });
                }
            }
        }
    }

    async fn take(&mut self, request: PbWatchRequest) -> Result<(), RpcError> {
        let action = self.shared.arrive(RequestKind::WatchRequest);
        match action {
            Some(Action::Fail(refusal)) => return Err(refusal),
            Some(Action::Lose) => return Ok(()),
            Some(Action::Delay(delay) | Action::DelayRegardless(delay) | Action::DelayAnswer(delay)) => {
                sleep(delay).await
            }
            _ => {}
        }
        if check_message(&request).is_err() {
            return Err(RpcError::REQUEST_TOO_LARGE);
        }
        self.shared.wait_until_thawed().await;
        let Some(request) = request.request_union else { return Ok(()) };
        let Self { shared, member, watches, ready, token, .. } = self;
        shared.apply(|inner, now| {
            if let PbWatchRequestUnion::CreateRequest(create) = &request {
                inner.needs_history(HistoryReader::Watch, create.start_revision);
            }
            let caller = inner.member.auth.caller(token.as_deref(), now);
            let applied = inner.applied_by(*member);
            inner.at(*member, |inner| {
                if action == Some(Action::Duplicate) {
                    watches.request(request.clone(), &inner.member, applied, &caller, ready);
                }
                watches.request(request, &inner.member, applied, &caller, ready);
            });
        });
        match action {
            Some(Action::FailAfter(refusal)) => Err(refusal),
            Some(Action::LoseAnswer) => {
                self.ready.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The response, unless a fault takes it away.
    async fn deliver(&mut self, response: Answer) -> Result<Option<Answer>, RpcError> {
        match self.shared.arrive(RequestKind::WatchResponse) {
            None => {}
            Some(Action::Fail(refusal)) => return Err(refusal),
            Some(Action::FailAfter(refusal)) => self.end = Some(refusal),
            Some(Action::Lose | Action::LoseAnswer) => return Ok(None),
            Some(Action::Delay(delay) | Action::DelayRegardless(delay) | Action::DelayAnswer(delay)) => {
                sleep(delay).await
            }
            Some(Action::Duplicate) => self.ready.push_front(response.clone()),
        }
        self.shared.wait_until_thawed().await;
        Ok(Some(response))
    }
}
