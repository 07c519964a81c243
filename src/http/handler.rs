//! Asks the engines of an endpoint, within a time, and says what may be shown of their answers.

use super::HttpState;
use super::events::{EventBody, EventFilter};
use super::query::Parameters;
use super::view::{EngineView, ExplanationView, PageView};
use crate::engine::observer::Observer;
use crate::error::EngineError;
use crate::trace::reveal::Reveal;
use hyper::StatusCode;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long an engine may take to answer: while its parts restart it does not.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a question has no answer.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::UnknownRule(_) => StatusCode::NOT_FOUND,
            EngineError::UnknownAttribute(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let message = match error {
            // A panic may say anything.
            EngineError::Comparison { rule, .. } => format!("a comparison of rule `{rule}` panicked"),
            other => other.to_string(),
        };
        Self { status, message }
    }
}

async fn within<T>(asking: impl Future<Output = Result<T, EngineError>>) -> Result<T, ApiError> {
    Ok(timeout(LIMIT, asking).await.map_err(|_| EngineError::NoAnswer { within: LIMIT })??)
}

/// All engines with their rules.
pub(super) async fn engines(shared: &HttpState) -> Vec<EngineView> {
    let asking = shared.engines().into_iter().map(|engine| async move {
        let handle = &engine.handle;
        let mut found = EngineView::new(handle.name(), handle.key_prefix(), handle.health(), engine.reveal);
        if found.live {
            match within(async { Ok((handle.rules().await?, handle.fleet().await?)) }).await {
                Ok((rules, fleet)) => {
                    found.rules = rules;
                    (found.members, found.members_differing) = (fleet.members, fleet.differing);
                }
                Err(refused) => found.error = Some(refused.message),
            }
        }
        found
    });
    // All at once, so that an engine that does not answer holds up no other.
    futures_util::future::join_all(asking).await
}

/// The engine that is asked for; the first if none is.
pub(super) fn engine(shared: &HttpState, parameters: &Parameters) -> Result<Observer, ApiError> {
    let name = parameters.get("engine");
    let mut engines = shared.engines().into_iter();
    let found = engines.find(|engine| name.is_none_or(|name| engine.handle.name() == name));
    found.ok_or_else(|| {
        let message =
            name.map_or("no engine is running".into(), |name| format!("there is no engine `{name}`"));
        ApiError::new(StatusCode::NOT_FOUND, message)
    })
}

pub(super) async fn instances(engine: &Observer, parameters: &Parameters) -> Result<PageView, ApiError> {
    let query = parameters.instances().map_err(|wrong| ApiError::new(StatusCode::BAD_REQUEST, wrong))?;
    if engine.reveal < Reveal::Keys && !parameters.attributes().is_empty() {
        return Err(hidden("instances can't be looked for by their attributes"));
    }
    let page = within(engine.handle.instances(query)).await?;
    Ok(PageView::new(engine.handle.name(), page, engine.reveal))
}

/// The events of an engine from now on.
pub(super) async fn events(engine: &Observer, parameters: &Parameters) -> Result<EventBody, ApiError> {
    let filter =
        EventFilter::of(parameters).map_err(|wrong| ApiError::new(StatusCode::BAD_REQUEST, wrong))?;
    if engine.reveal < Reveal::Keys && !filter.attributes().is_empty() {
        return Err(hidden("events can't be chosen by their attributes"));
    }
    // Whoever awaits a firing of a rule that there is not would wait for ever.
    if !filter.rules().is_empty() {
        let known = within(engine.handle.rules()).await?;
        let unknown = filter.rules().iter().find(|id| known.iter().all(|rule| *rule.id != **id));
        if let Some(id) = unknown {
            return Err(EngineError::UnknownRule(id.clone()).into());
        }
    }
    Ok(EventBody::new(engine.handle.name(), engine.handle.events(), filter, engine.reveal))
}

pub(super) async fn explain(engine: &Observer, parameters: &Parameters) -> Result<ExplanationView, ApiError> {
    if engine.reveal < Reveal::Keys {
        return Err(hidden("instances can't be explained"));
    }
    let missing = || ApiError::new(StatusCode::BAD_REQUEST, "give a rule, and its attributes as attr.NAME");
    let rule = parameters.get("rule").ok_or_else(missing)?;
    let attributes = parameters.attributes();
    // The rule's comparisons are the application's code, and may take long. Probes don't wait for them.
    let (handle, id, of) = (engine.handle.clone(), rule.to_owned(), attributes.clone());
    let explaining = spawn_blocking(move || Handle::current().block_on(handle.explain(&id, &of)));
    let found =
        within(async { explaining.await.map_err(|_| EngineError::Stopped("the endpoint ends".into()))? });
    let found = found.await?;
    Ok(ExplanationView::new(engine.handle.name(), rule, attributes, found, engine.reveal))
}

fn hidden(what: &str) -> ApiError {
    let message = format!("{what}: the engine does not reveal keys (see EngineBuilder::reveal)");
    ApiError::new(StatusCode::FORBIDDEN, message)
}
