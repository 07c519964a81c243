//! Which path answers what.

use super::Shared;
use super::handler::{self, ApiError};
use super::page;
use super::probes::{Checked, Probe, probe};
use super::query::Parameters;
use crate::trace::reveal::Reveal;
use hyper::StatusCode;
use serde::Serialize;

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

/// Answers a GET.
pub(super) async fn route(path: &str, query: &str, shared: &Shared) -> Answer {
    let parameters = Parameters::parse(query);
    match path {
        "/livez" => probes(Probe::Live, &parameters, shared),
        "/readyz" if parameters.has("strict") => probes(Probe::Strict, &parameters, shared),
        "/readyz" => probes(Probe::Ready, &parameters, shared),
        "/metrics" => match &shared.metrics {
            Some(render) => Answer { status: StatusCode::OK, kind: METRICS, body: render() },
            None => Answer::text(StatusCode::NOT_FOUND, "this endpoint was not given metrics to serve\n"),
        },
        _ if !shared.page => Answer::text(StatusCode::NOT_FOUND, "only /livez, /readyz and /metrics\n"),
        "/style.css" => {
            Answer { status: StatusCode::OK, kind: "text/css; charset=utf-8", body: page::STYLE.into() }
        }
        "/" => Answer::html(StatusCode::OK, page::overview(&handler::engines(shared).await, &parameters)),
        "/api/engines" => Answer::json(Ok(handler::engines(shared).await)),
        "/instances" | "/api/instances" => instances(path, &parameters, shared).await,
        "/explain" | "/api/explain" => explain(path, &parameters, shared).await,
        _ => refused(ApiError { status: StatusCode::NOT_FOUND, message: "there is nothing here".into() }),
    }
}

fn probes(which: Probe, parameters: &Parameters, shared: &Shared) -> Answer {
    let checked = shared.engines().into_iter().map(|engine| Checked {
        name: engine.handle.name().to_owned(),
        health: engine.handle.health(),
        tells: engine.reveal >= Reveal::Keys,
    });
    let exclude: Vec<String> = parameters.all("exclude").map(str::to_owned).collect();
    let verdict = probe(which, &checked.collect::<Vec<_>>(), parameters.has("verbose"), &exclude);
    let status = if verdict.passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::text(status, verdict.text)
}

async fn instances(path: &str, parameters: &Parameters, shared: &Shared) -> Answer {
    let engine = match handler::engine(shared, parameters) {
        Ok(engine) => engine,
        Err(error) => {
            return if path.starts_with("/api/") { Answer::json::<()>(Err(error)) } else { refused(error) };
        }
    };
    let found = handler::instances(&engine, parameters).await;
    if path.starts_with("/api/") {
        return Answer::json(found);
    }
    let status = found.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK);
    let engines = handler::engines(shared).await;
    let reveals = engine.reveal >= Reveal::Keys;
    Answer::html(status, page::instances(engine.handle.name(), &engines, found, parameters, reveals))
}

async fn explain(path: &str, parameters: &Parameters, shared: &Shared) -> Answer {
    let found = match handler::engine(shared, parameters) {
        Ok(engine) => handler::explain(&engine, parameters).await,
        Err(error) => Err(error),
    };
    match found {
        _ if path.starts_with("/api/") => Answer::json(found),
        Ok(found) => Answer::html(StatusCode::OK, page::explanation(&found, parameters)),
        Err(error) => refused(error),
    }
}

fn refused(error: ApiError) -> Answer {
    Answer::html(error.status, page::refused(&error))
}
