//! Events of an engine over HTTP, as server-sent events: one line of JSON each.
//!
//! A client has the engine's own buffer of events and nothing else, so whoever reads slowly misses the oldest, and is
//! told how many. What is not read at all is closed, see [`Reading`].

use super::query::Parameters;
use super::view::EventView;
use crate::events::{Event, EventKind, EventStream, Lagged};
use crate::firing::FiringOutcome;
use crate::pattern::Attributes;
use crate::trace::reveal::Reveal;
use futures_core::Stream;
use hyper::body::{Body, Bytes, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Interval, interval};

/// How long nothing may be sent. So a client knows that the stream is alive, and the endpoint that the client is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Which events are wanted. What is not named is not asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EventFilter {
    rules: Vec<String>,
    kinds: Vec<String>,
    outcomes: Vec<String>,
    attributes: Attributes,
}

impl EventFilter {
    /// Which events a request asks for, or what is wrong with that.
    pub(super) fn of(parameters: &Parameters) -> Result<Self, String> {
        let all = |name: &str, known: &[&str]| {
            let wanted: Vec<String> = parameters.all(name).map(str::to_owned).collect();
            match wanted.iter().find(|wanted| !known.contains(&wanted.as_str())) {
                Some(_) => Err(format!("the values of {name} are {}", known.join(", "))),
                None => Ok(wanted),
            }
        };
        Ok(Self {
            rules: parameters.all("rule").map(str::to_owned).collect(),
            kinds: all("kind", &EventKind::NAMES)?,
            outcomes: all("outcome", &FiringOutcome::NAMES)?,
            attributes: parameters.attributes(),
        })
    }

    pub(super) fn rules(&self) -> &[String] {
        &self.rules
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    fn wants(&self, event: &Event) -> bool {
        let outcome = match &event.kind {
            EventKind::Ended { outcome, .. } | EventKind::Closed { outcome, .. } => Some(outcome.name()),
            _ => None,
        };
        let is_one_of = |wanted: &[String], name: Option<&str>| {
            wanted.is_empty() || name.is_some_and(|name| wanted.iter().any(|wanted| wanted == name))
        };
        is_one_of(&self.rules, Some(&event.rule))
            && is_one_of(&self.kinds, Some(event.kind.name()))
            && is_one_of(&self.outcomes, outcome)
            && self.attributes.iter().all(|(name, value)| event.attributes.get(name) == Some(value))
    }
}

/// When the client last took something. A connection whose client takes nothing is closed after a while.
#[derive(Clone, Debug)]
pub(super) struct Reading(Arc<Mutex<Instant>>);

impl Reading {
    fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn goes_on(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn since(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer that goes on for as long as the engine and the client do.
pub(super) struct EventBody {
    /// What is sent before all else.
    first: Option<Bytes>,
    events: EventStream,
    filter: EventFilter,
    reveal: Reveal,
    signs_of_life: Interval,
    reading: Reading,
}

impl EventBody {
    /// Events from now on.
    pub(super) fn new(engine: &str, events: EventStream, filter: EventFilter, reveal: Reveal) -> Self {
        let listening = serde_json::json!({ "engine": engine, "reveal": reveal });
        let first = Some(frame("listening", &listening.to_string()));
        let signs_of_life = interval(SIGN_OF_LIFE);
        Self { first, events, filter, reveal, signs_of_life, reading: Reading::begin() }
    }

    pub(super) fn reading(&self) -> Reading {
        self.reading.clone()
    }

    /// What is to be sent for the next event that is wanted.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match std::task::ready!(Pin::new(&mut self.events).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Ok(event)) if !self.filter.wants(&event) => {}
                Some(Ok(event)) => {
                    let shown = EventView::new(&event, self.reveal);
                    // Numbers and texts can always be written.
                    let Ok(json) = serde_json::to_string(&shown) else { continue };
                    return Poll::Ready(Some(frame(event.kind.name(), &json)));
                }
                Some(Err(Lagged(missed))) => {
                    let json = serde_json::json!({ "missed": missed });
                    return Poll::Ready(Some(frame("lagged", &json.to_string())));
                }
            }
        }
    }
}

/// JSON has no line breaks of its own, so one line is enough.
fn frame(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    /// It is asked only if there is room for more.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        this.reading.goes_on();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let next = match this.poll_event(context) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                std::task::ready!(this.signs_of_life.poll_tick(context));
                Some(Bytes::from_static(b":\n\n"))
            }
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{CommitResult, Events};
    use crate::trace::hide::HIDDEN;
    use http_body_util::BodyExt;

    fn closed(rule: &str, id: &str, outcome: FiringOutcome) -> Event {
        let result = CommitResult::Committed { revision: 7 };
        let kind = EventKind::Closed { outcome, result, took: Duration::from_millis(1500) };
        Event { at: Instant::now(), rule: rule.into(), attributes: [("id", id)].into(), kind }
    }

    fn filter(query: &str) -> Result<EventFilter, String> {
        EventFilter::of(&Parameters::parse(query))
    }

    #[test]
    fn only_what_is_asked_for_is_wanted() {
        let started =
            Event { kind: EventKind::Started { attempt: 1 }, ..closed("a", "7", FiringOutcome::Done) };
        let failed = closed("a", "7", FiringOutcome::Failed("no".into()));
        let done = closed("b", "8", FiringOutcome::Done);
        for (query, wanted) in [
            ("", [true, true, true]),
            ("rule=a", [true, true, false]),
            ("rule=a&rule=b", [true, true, true]),
            ("kind=closed", [false, true, true]),
            ("outcome=done", [false, false, true]),
            ("outcome=error&outcome=done&rule=a", [false, true, false]),
            ("attr.id=7", [true, true, false]),
            ("attr.id=7&attr.x=y", [false, false, false]),
        ] {
            let filter = filter(query).unwrap();
            assert_eq!([&started, &failed, &done].map(|event| filter.wants(event)), wanted, "{query}");
        }
        assert!(
            filter("kind=close").unwrap_err().contains("state, locked, not_locked, started, ended, closed")
        );
        assert!(filter("outcome=ok").unwrap_err().contains("done, retry_after, gave_up, error"));
    }

    #[tokio::test(start_paused = true)]
    async fn events_become_lines_and_who_is_slow_is_told() {
        let events = Events::new(2);
        let mut body = EventBody::new("e", events.subscribe(), filter("rule=a").unwrap(), Reveal::Nothing);
        let reading = body.reading();
        let next = async |body: &mut EventBody| {
            let frame = body.frame().await?.unwrap();
            Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
        };
        assert!(next(&mut body).await.unwrap().starts_with("event: listening\ndata: {\"engine\":\"e\""));
        assert_eq!(next(&mut body).await.unwrap(), ":\n\n", "the first sign of life is at once");
        let began = Instant::now();
        assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
        assert_eq!(began.elapsed(), SIGN_OF_LIFE);
        assert_eq!(reading.since(), Instant::now());
        events.emit(|| closed("b", "secret", FiringOutcome::Done));
        events.emit(|| closed("a", "secret", FiringOutcome::Done));
        let text = next(&mut body).await.unwrap();
        assert!(text.starts_with("event: closed\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert!(!text.contains("secret") && text.contains(HIDDEN), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(text.trim().rsplit_once("data: ").unwrap().1).unwrap();
        assert_eq!(json["kind"]["detail"]["outcome"]["kind"], "done");
        for _ in 0..5 {
            events.emit(|| closed("a", "x", FiringOutcome::Done));
        }
        assert_eq!(next(&mut body).await.unwrap(), "event: lagged\ndata: {\"missed\":3}\n\n");
        events.close();
        assert!(next(&mut body).await.is_some() && next(&mut body).await.is_some());
        assert_eq!(next(&mut body).await, None, "it ends with the engine");
    }
}
