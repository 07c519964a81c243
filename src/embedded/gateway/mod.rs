//! What answers HTTP without gRPC on the server's port: `/health`, `/version`, and the methods in JSON below `/v3`,
//! as etcd's grpc-gateway does. A request in JSON becomes one of gRPC to the server itself, so that faults, users and
//! tokens concern it like any other.

mod methods;
mod schema;
mod translate;

use super::check::{GRPC_OVERHEAD_BYTES, MAX_REQUEST_BYTES};
use super::shared::Shared;
use crate::raw_codec::RawCodec;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use methods::Method;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode};
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::service::Routes;
use tonic::{Code, Status};

/// The largest body. Base64 makes a third more of what etcd takes.
const MAX_BODY_BYTES: usize = (MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES) / 3 * 4 + 4096;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers what no service of gRPC answers.
#[derive(Clone)]
pub(super) struct Gateway {
    shared: Arc<Shared>,
    /// The number of the member.
    member: usize,
    /// What it says that it is.
    version: &'static str,
    services: Routes,
}

/// The services of a member, and its gateway.
pub(super) fn beside(
    mut services: Routes,
    shared: &Arc<Shared>,
    member: usize,
    version: &'static str,
) -> Routes {
    let gateway = Gateway { shared: shared.clone(), member, version, services: services.clone() };
    let router = services.axum_router_mut();
    *router = std::mem::take(router).fallback_service(gateway);
    services
}

impl<B> Service<Request<B>> for Gateway
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let gateway = self.clone();
        Box::pin(async move {
            let grpc = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            if grpc.is_some_and(|of| of.starts_with(b"application/grpc")) {
                return Ok(Status::unimplemented("unknown service").into_http());
            }
            let mut response = gateway.answer(request).await;
            allow_other_origins(response.headers_mut());
            Ok(response)
        })
    }
}

/// As etcd does, which lets pages of any site in.
fn allow_other_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        ("access-control-allow-headers", "accept, content-type, authorization"),
        ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("access-control-allow-origin", "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

impl Gateway {
    async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        if request.method() == Verb::OPTIONS {
            return response(StatusCode::OK, TEXT, "");
        }
        let path = request.uri().path();
        match (path, path.strip_prefix("/v3")) {
            ("/health" | "/version", _) if request.method() != Verb::GET => {
                let mut refused = wrong_verb();
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                refused
            }
            ("/version", _) => {
                let text = json!({"etcdserver": self.version, "etcdcluster": "3.4.0"}).to_string();
                response(StatusCode::OK, JSON, text)
            }
            ("/health", _) => self.health().await,
            (_, Some(below)) if below.is_empty() || below.starts_with('/') => match methods::find(below) {
                None => response(StatusCode::NOT_FOUND, TEXT, "Not Found\n"),
                Some(_) if request.method() != Verb::POST => wrong_verb(),
                Some(method) => self.call(method, request).await.unwrap_or_else(|refusal| refused(&refusal)),
            },
            _ => response(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
        }
    }

    /// As etcd sees it: no alarm, a leader, and an answer.
    async fn health(&self) -> Response<Body> {
        self.shared.wait_until_thawed().await;
        let well =
            self.shared.look(|inner| inner.member.alarms.is_empty() && !inner.is_leaderless(self.member));
        match well {
            true => response(StatusCode::OK, TEXT, r#"{"health":"true"}"#),
            false => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "{\"health\":\"false\"}\n"),
        }
    }

    async fn call<B>(&self, method: &'static Method, request: Request<B>) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => Status::resource_exhausted(format!("more than {MAX_BODY_BYTES} bytes")),
            false => Status::invalid_argument(format!("the body did not arrive: {error}")),
        })?;
        let requests = messages(method, &body.to_bytes()).map_err(Status::invalid_argument)?;
        let mut grpc_request = tonic::Request::new(stream::iter(requests));
        if let Some(token) = head.headers.get(AUTHORIZATION) {
            let token = token.to_str().ok().and_then(|token| token.parse().ok());
            let token =
                token.ok_or_else(|| Status::invalid_argument("a token in other letters than ASCII"))?;
            grpc_request.metadata_mut().insert("authorization", token);
        }
        let mut grpc = Grpc::new(self.services.clone()).max_decoding_message_size(usize::MAX);
        let Ok(()) = grpc.ready().await;
        let path = PathAndQuery::from_static(method.method);
        if method.streams {
            let answers = grpc.streaming(grpc_request, path, RawCodec).await?.into_inner();
            let lines = answers.map(|answer| {
                let line = match answer.and_then(|answer| in_json(method, &answer)) {
                    Ok(answer) => json!({"result": answer}),
                    Err(refusal) => json!({"error": {
                        "grpc_code": refusal.code() as i32,
                        "http_code": status_of(refusal.code()).as_u16(),
                        "http_status": status_of(refusal.code()).canonical_reason(),
                        "message": refusal.message(),
                    }}),
                };
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(format!("{line}\n"))))
            });
            let lines: BoxStream<'static, _> = lines.boxed();
            return Ok(with_type(StatusCode::OK, JSON, Body::new(StreamBody::new(lines))));
        }
        let answer = grpc.client_streaming(grpc_request, path, RawCodec).await?.into_inner();
        Ok(response(StatusCode::OK, JSON, in_json(method, &answer)?.to_string()))
    }
}

/// The messages of a body: one, or for a stream one after the other. No body is an empty message.
fn messages(method: &Method, body: &[u8]) -> Result<Vec<Bytes>, String> {
    let mut messages = Vec::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
        let value = value.map_err(|error| error.to_string())?;
        messages.push(Bytes::from(translate::to_bytes(method.request, &value)?));
        if !method.streams {
            break;
        }
    }
    if messages.is_empty() && !method.streams {
        messages.push(Bytes::new());
    }
    Ok(messages)
}

fn in_json(method: &Method, answer: &[u8]) -> Result<Value, Status> {
    translate::to_json(method.response, answer).map_err(|error| Status::internal(error.to_string()))
}

fn response(status: StatusCode, of: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, of, Body::new(Full::new(text.into())))
}

fn with_type(status: StatusCode, of: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(of));
    response
}

fn wrong_verb() -> Response<Body> {
    response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n")
}

fn refused(refusal: &Status) -> Response<Body> {
    let message = refusal.message();
    let text = json!({"error": message, "message": message, "code": refusal.code() as i32});
    response(status_of(refusal.code()), JSON, text.to_string())
}

/// As grpc-gateway translates them.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
