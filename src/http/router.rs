//! Which path answers what.

use super::HttpState;
use super::events::EventBody;
use super::handler::{self, ApiError};
use super::page;
use super::probes::{Checked, Probe, probe};
use super::query::Parameters;
use crate::trace::reveal::Reveal;
use hyper::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// What is answered.
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl HttpResponse {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, kind: TEXT, body: body.into() }
    }

    fn html(status: StatusCode, page: maud::Markup) -> Self {
        Self { status, kind: HTML, body: page.into_string() }
    }

    fn json<T: Serialize>(found: Result<T, ApiError>) -> Self {
        let (status, body) = match found {
            Ok(found) => (StatusCode::OK, serde_json::to_string(&found)),
            Err(ApiError { status, message }) => {
                (status, serde_json::to_string(&serde_json::json!({ "error": message })))
            }
        };
        match body {
            Ok(body) => Self { status, kind: JSON, body },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// What a GET asks for.
pub(super) enum Asked {
    /// It is answered at once.
    Probe(HttpResponse),
    /// Its answer may be large, and may take time to be made.
    Page(PageRequest),
    /// Its answer goes on.
    Events(Parameters),
}

/// A page to be made. It may be JSON or metrics as well.
pub(super) struct PageRequest {
    what: What,
    parameters: Parameters,
}

#[derive(Clone, Copy)]
enum What {
    Metrics,
    Overview,
    Engines,
    /// As JSON or not.
    Instances(bool),
    Explanation(bool),
}

/// Finds out what a path asks for. What needs no work is answered.
pub(super) fn route(path: &str, query: &str, shared: &HttpState) -> Asked {
    let parameters = Parameters::parse(query);
    let what = match path {
        "/livez" => return Asked::Probe(probes(Probe::Live, &parameters, shared)),
        "/readyz" if parameters.has("strict") => {
            return Asked::Probe(probes(Probe::Strict, &parameters, shared));
        }
        "/readyz" => return Asked::Probe(probes(Probe::Ready, &parameters, shared)),
        "/metrics" if shared.metrics.is_some() => What::Metrics,
        "/metrics" => return not_found("this endpoint was not given metrics to serve\n"),
        _ if !shared.page => return not_found("only /livez, /readyz and /metrics\n"),
        "/style.css" => {
            let (status, kind) = (StatusCode::OK, "text/css; charset=utf-8");
            return Asked::Probe(HttpResponse { status, kind, body: page::STYLE.into() });
        }
        "/api/events" => return Asked::Events(parameters),
        "/" => What::Overview,
        "/api/engines" => What::Engines,
        "/instances" => What::Instances(false),
        "/api/instances" => What::Instances(true),
        "/explain" => What::Explanation(false),
        "/api/explain" => What::Explanation(true),
        _ => {
            let (status, message) = (StatusCode::NOT_FOUND, "there is nothing here".into());
            return Asked::Probe(refused(ApiError { status, message }));
        }
    };
    Asked::Page(PageRequest { what, parameters })
}

fn not_found(text: &str) -> Asked {
    Asked::Probe(HttpResponse::text(StatusCode::NOT_FOUND, text))
}

impl PageRequest {
    pub(super) async fn make(self, shared: &Arc<HttpState>) -> HttpResponse {
        let Self { what, parameters } = self;
        match what {
            What::Metrics => {
                let shared = shared.clone();
                write(move || {
                    let body = shared.metrics.as_ref().map(|render| render()).unwrap_or_default();
                    HttpResponse { status: StatusCode::OK, kind: METRICS, body }
                })
                .await
            }
            What::Overview => {
                let engines = handler::engines(shared).await;
                write(move || HttpResponse::html(StatusCode::OK, page::overview(&engines, &parameters))).await
            }
            What::Engines => {
                let engines = handler::engines(shared).await;
                write(move || HttpResponse::json(Ok(engines))).await
            }
            What::Instances(as_json) => instances(as_json, parameters, shared).await,
            What::Explanation(as_json) => explain(as_json, parameters, shared).await,
        }
    }
}

/// Writes an answer on another thread, because a large one takes time, and probes don't wait.
async fn write(text: impl FnOnce() -> HttpResponse + Send + 'static) -> HttpResponse {
    spawn_blocking(text).await.unwrap_or_else(|_| {
        HttpResponse::text(StatusCode::INTERNAL_SERVER_ERROR, "what writes this page has panicked\n")
    })
}

/// The events that are asked for.
pub(super) async fn events(parameters: &Parameters, shared: &HttpState) -> Result<EventBody, HttpResponse> {
    let told = async { handler::events(&handler::engine(shared, parameters)?, parameters).await };
    told.await.map_err(|refused| HttpResponse::json::<()>(Err(refused)))
}

fn probes(which: Probe, parameters: &Parameters, shared: &HttpState) -> HttpResponse {
    let checked = shared
        .engines()
        .into_iter()
        .map(|engine| Checked { name: engine.handle.name().to_owned(), health: engine.handle.health() });
    let exclude: Vec<String> = parameters.all("exclude").map(str::to_owned).collect();
    let verdict = probe(which, &checked.collect::<Vec<_>>(), parameters.has("verbose"), &exclude);
    let status = if verdict.passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::text(status, verdict.text)
}

async fn instances(as_json: bool, parameters: Parameters, shared: &HttpState) -> HttpResponse {
    let engine = match handler::engine(shared, &parameters) {
        Ok(engine) => engine,
        Err(error) => return if as_json { HttpResponse::json::<()>(Err(error)) } else { refused(error) },
    };
    let found = handler::instances(&engine, &parameters).await;
    if as_json {
        return write(move || HttpResponse::json(found)).await;
    }
    let status = found.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK);
    let engines = handler::engines(shared).await;
    let reveals = engine.reveal >= Reveal::Keys;
    let page = move || {
        HttpResponse::html(
            status,
            page::instances(engine.handle.name(), &engines, found, &parameters, reveals),
        )
    };
    write(page).await
}

async fn explain(as_json: bool, parameters: Parameters, shared: &HttpState) -> HttpResponse {
    let found = match handler::engine(shared, &parameters) {
        Ok(engine) => handler::explain(&engine, &parameters).await,
        Err(error) => Err(error),
    };
    match found {
        _ if as_json => write(move || HttpResponse::json(found)).await,
        Ok(found) => {
            write(move || HttpResponse::html(StatusCode::OK, page::explanation(&found, &parameters))).await
        }
        Err(error) => refused(error),
    }
}

fn refused(error: ApiError) -> HttpResponse {
    HttpResponse::html(error.status, page::refused(&error))
}
