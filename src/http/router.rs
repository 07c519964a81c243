//! Which path answers what.

use super::Shared;
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
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Answer {
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
    Probe(Answer),
    /// Its answer may be large, and may take time to be made.
    Page(Page),
    /// Its answer goes on.
    Events(Parameters),
}

/// A page to be made. It may be JSON or metrics as well.
pub(super) struct Page {
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
pub(super) fn route(path: &str, query: &str, shared: &Shared) -> Asked {
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
            return Asked::Probe(Answer { status, kind, body: page::STYLE.into() });
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
    Asked::Page(Page { what, parameters })
}

fn not_found(text: &str) -> Asked {
    Asked::Probe(Answer::text(StatusCode::NOT_FOUND, text))
}

impl Page {
    pub(super) async fn make(self, shared: &Arc<Shared>) -> Answer {
        let Self { what, parameters } = self;
        match what {
            What::Metrics => {
                let shared = shared.clone();
                write(move || {
                    let body = shared.metrics.as_ref().map(|render| render()).unwrap_or_default();
                    Answer { status: StatusCode::OK, kind: METRICS, body }
                })
                .await
            }
            What::Overview => {
                let engines = handler::engines(shared).await;
                write(move || Answer::html(StatusCode::OK, page::overview(&engines, &parameters))).await
            }
            What::Engines => {
                let engines = handler::engines(shared).await;
                write(move || Answer::json(Ok(engines))).await
            }
            What::Instances(as_json) => instances(as_json, parameters, shared).await,
            What::Explanation(as_json) => explain(as_json, parameters, shared).await,
        }
    }
}

/// Writes an answer on another thread, because a large one takes time, and probes don't wait.
async fn write(text: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    spawn_blocking(text).await.unwrap_or_else(|_| {
        Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "what writes this page has panicked\n")
    })
}

/// The events that are asked for.
pub(super) async fn events(parameters: &Parameters, shared: &Shared) -> Result<EventBody, Answer> {
    let told = async { handler::events(&handler::engine(shared, parameters)?, parameters).await };
    told.await.map_err(|refused| Answer::json::<()>(Err(refused)))
}

fn probes(which: Probe, parameters: &Parameters, shared: &Shared) -> Answer {
    let checked = shared
        .engines()
        .into_iter()
        .map(|engine| Checked { name: engine.handle.name().to_owned(), health: engine.handle.health() });
    let exclude: Vec<String> = parameters.all("exclude").map(str::to_owned).collect();
    let verdict = probe(which, &checked.collect::<Vec<_>>(), parameters.has("verbose"), &exclude);
    let status = if verdict.passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::text(status, verdict.text)
}

async fn instances(as_json: bool, parameters: Parameters, shared: &Shared) -> Answer {
    let engine = match handler::engine(shared, &parameters) {
        Ok(engine) => engine,
        Err(error) => return if as_json { Answer::json::<()>(Err(error)) } else { refused(error) },
    };
    let found = handler::instances(&engine, &parameters).await;
    if as_json {
        return write(move || Answer::json(found)).await;
    }
    let status = found.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK);
    let engines = handler::engines(shared).await;
    let reveals = engine.reveal >= Reveal::Keys;
    let page = move || {
        Answer::html(status, page::instances(engine.handle.name(), &engines, found, &parameters, reveals))
    };
    write(page).await
}

async fn explain(as_json: bool, parameters: Parameters, shared: &Shared) -> Answer {
    let found = match handler::engine(shared, &parameters) {
        Ok(engine) => handler::explain(&engine, &parameters).await,
        Err(error) => Err(error),
    };
    match found {
        _ if as_json => write(move || Answer::json(found)).await,
        Ok(found) => {
            write(move || Answer::html(StatusCode::OK, page::explanation(&found, &parameters))).await
        }
        Err(error) => refused(error),
    }
}

fn refused(error: ApiError) -> Answer {
    Answer::html(error.status, page::refused(&error))
}
