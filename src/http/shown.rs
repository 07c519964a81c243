//! What of an engine is shown, and in which words: everything passes through here, and what may not be told
//! stays here. Pure.

use crate::condition::{Explanation, SeenKey};
use crate::health::Health;
use crate::inspect::{
    Instance, InstanceExplanation, InstancePage, InstanceState, RuleStatus, StateKind, WaitReason,
};
use crate::pattern::Attributes;
use crate::trace::reveal::Reveal;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Bytes of a value that are shown at most.
const VALUE: usize = 4096;

#[derive(Debug, Serialize)]
pub(super) struct EngineShown {
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) live: bool,
    pub(super) ready: bool,
    pub(super) problems: Vec<ProblemShown>,
    /// Why it failed, or why its rules are not known.
    pub(super) error: Option<String>,
    pub(super) rules: Vec<RuleShown>,
}

#[derive(Debug, Serialize)]
pub(super) struct ProblemShown {
    pub(super) part: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Serialize)]
pub(super) struct RuleShown {
    pub(super) id: String,
    pub(super) condition: String,
    pub(super) attributes: Vec<String>,
    pub(super) optimistic: bool,
    pub(super) paused: bool,
    pub(super) dry_run: bool,
    /// Such as `10 in 60s`.
    pub(super) rate_limit: Option<String>,
    pub(super) min_interval_seconds: Option<f64>,
    pub(super) concurrency: usize,
    pub(super) time_limit_seconds: f64,
    pub(super) lock_ttl_seconds: f64,
    /// Callbacks started.
    pub(super) fired: u64,
    /// Times that one would have been, but for a dry run.
    pub(super) would_have_fired: u64,
    /// Instances whose condition was found true.
    pub(super) true_instances: usize,
    #[serde(serialize_with = "by_name")]
    pub(super) instances: Vec<(StateKind, usize)>,
}

fn by_name<S: Serializer>(counts: &[(StateKind, usize)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().map(|(kind, count)| (kind.name(), count)))
}

#[derive(Debug, Serialize)]
pub(super) struct PageShown {
    pub(super) engine: String,
    pub(super) instances: Vec<InstanceShown>,
    /// `after` of the next page.
    pub(super) next: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceShown {
    pub(super) rule: String,
    /// `None`: they may not be told.
    pub(super) attributes: Option<BTreeMap<String, String>>,
    pub(super) state: &'static str,
    pub(super) detail: String,
    /// The engine that has the lock, holds the instance back, or gave it up, if it is another one.
    pub(super) by: Option<String>,
    pub(super) lasting_seconds: f64,
    pub(super) remaining_seconds: Option<f64>,
    pub(super) failures: u32,
    /// What went wrong last.
    pub(super) error: Option<String>,
    /// Something went wrong, and what it says may not be told.
    pub(super) error_hidden: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplanationShown {
    pub(super) engine: String,
    pub(super) rule: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) condition: PartShown,
    /// `None`: the engine knows no such instance.
    pub(super) instance: Option<InstanceShown>,
}

#[derive(Debug, Serialize)]
pub(super) struct PartShown {
    pub(super) truth: bool,
    pub(super) text: String,
    pub(super) seen: Vec<SeenShown>,
    pub(super) children: Vec<PartShown>,
}

#[derive(Debug, Serialize)]
pub(super) struct SeenShown {
    pub(super) key: String,
    pub(super) exists: bool,
    pub(super) revision: Option<i64>,
    pub(super) bytes: usize,
    /// Its text, or its beginning; `None` if it is absent or may not be told.
    pub(super) value: Option<String>,
}

pub(super) fn engine(name: &str, health: &Health, reveal: Reveal) -> EngineShown {
    let problem = |problem: &crate::health::Problem| ProblemShown {
        part: problem.part.clone(),
        reason: problem.reason.name(),
        message: problem.message.clone(),
    };
    let error = match health {
        Health::Failed { reason } if reveal >= Reveal::Keys => Some(reason.clone()),
        _ => None,
    };
    EngineShown {
        name: name.to_owned(),
        state: health.name(),
        live: health.is_live(),
        ready: health.is_ready(),
        problems: health.problems().iter().map(problem).collect(),
        error,
        rules: Vec::new(),
    }
}

pub(super) fn rule(rule: RuleStatus) -> RuleShown {
    RuleShown {
        id: rule.id.to_string(),
        condition: rule.condition,
        attributes: rule.attributes.iter().map(ToString::to_string).collect(),
        optimistic: rule.optimistic,
        paused: rule.paused,
        dry_run: rule.dry_run,
        rate_limit: rule.rate_limit.map(|limit| limit.to_string()),
        min_interval_seconds: rule.min_interval.map(|interval| interval.as_secs_f64()),
        concurrency: rule.concurrency,
        time_limit_seconds: rule.time_limit.as_secs_f64(),
        lock_ttl_seconds: rule.lock_ttl.as_secs_f64(),
        fired: rule.fired,
        would_have_fired: rule.would_have_fired,
        true_instances: rule.counts.all_true(),
        instances: rule.counts.iter().collect(),
    }
}

pub(super) fn page(engine: &str, page: InstancePage, reveal: Reveal) -> PageShown {
    PageShown {
        engine: engine.to_owned(),
        instances: page.instances.into_iter().map(|found| instance(found, reveal)).collect(),
        next: page.next.map(|cursor| cursor.to_string()),
    }
}

pub(super) fn instance(instance: Instance, reveal: Reveal) -> InstanceShown {
    let Instance { rule, attributes, state, lasting, failures, last_error } = instance;
    let (detail, by, elsewhere, remaining) = words(&state);
    let error = elsewhere.or(last_error.as_deref()).filter(|text| !text.is_empty());
    let tells = reveal >= Reveal::Keys;
    InstanceShown {
        rule: rule.to_string(),
        attributes: tells.then(|| map(&attributes)),
        state: state.kind().name(),
        detail: detail.to_owned(),
        by: by.map(str::to_owned),
        lasting_seconds: seconds(lasting),
        remaining_seconds: remaining.map(seconds),
        failures,
        error: error.filter(|_| tells).map(str::to_owned),
        error_hidden: error.is_some() && !tells,
    }
}

/// To milliseconds: more is noise.
fn seconds(duration: std::time::Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

fn map(attributes: &Attributes) -> BTreeMap<String, String> {
    attributes.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

type Words<'a> = (&'static str, Option<&'a str>, Option<&'a str>, Option<std::time::Duration>);

/// A state in words, which other engine it is about, what that says went wrong, and how long it will last.
fn words(state: &InstanceState) -> Words<'_> {
    match state {
        InstanceState::Waiting { reason, remaining } => {
            let text = match reason {
                WaitReason::Backoff => "retried after a failure",
                WaitReason::RetryAfter => "run again as its callback asked",
                WaitReason::Ineffective => "slowed down: its callback leaves it true",
                WaitReason::Trouble => "tried again after trouble with etcd",
                WaitReason::Released => "tried again after a release",
                WaitReason::Settle => "settles: its keys may change again",
                WaitReason::Interval => "fired less than its rule's interval ago",
            };
            (text, None, None, Some(*remaining))
        }
        InstanceState::Locked { engine, .. } => ("locked by another engine", engine.as_deref(), None, None),
        InstanceState::HeldBack { engine, error, .. } if error.is_empty() => {
            ("held back by another engine, as its callback asked", engine.as_deref(), None, None)
        }
        InstanceState::HeldBack { engine, error, .. } => {
            ("held back by another engine after a failure", engine.as_deref(), Some(error), None)
        }
        InstanceState::GivenUp { engine, reason } => ("given up", engine.as_deref(), Some(reason), None),
        InstanceState::Untrue
        | InstanceState::Queued(_)
        | InstanceState::Running(_)
        | InstanceState::WouldFire
        | InstanceState::Idle => (state.words().unwrap_or_default(), None, None, None),
    }
}

/// For [`Reveal::Keys`] and more.
pub(super) fn explanation(
    engine: &str,
    rule: &str,
    attributes: &Attributes,
    found: InstanceExplanation,
    reveal: Reveal,
) -> ExplanationShown {
    ExplanationShown {
        engine: engine.to_owned(),
        rule: rule.to_owned(),
        attributes: map(attributes),
        condition: part(found.condition, reveal),
        instance: found.instance.map(|found| instance(found, reveal)),
    }
}

fn part(part_of: Explanation, reveal: Reveal) -> PartShown {
    let Explanation { truth, text, seen, children } = part_of;
    PartShown {
        truth,
        text,
        seen: seen.into_iter().map(|key| seen_key(key, reveal)).collect(),
        children: children.into_iter().map(|child| part(child, reveal)).collect(),
    }
}

fn seen_key(seen: SeenKey, reveal: Reveal) -> SeenShown {
    let bytes = seen.value.as_ref().map_or(0, |value| value.len());
    let beginning = |value: &crate::Value| {
        String::from_utf8_lossy(&value.as_bytes()[..value.len().min(VALUE)]).into_owned()
    };
    SeenShown {
        exists: seen.value.is_some(),
        revision: seen.mod_revision,
        bytes,
        value: seen.value.as_ref().filter(|_| reveal >= Reveal::Values).map(beginning),
        key: seen.key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn waiting() -> Instance {
        Instance {
            rule: "poll".into(),
            attributes: [("id", "web-1")].into(),
            state: InstanceState::Waiting {
                reason: WaitReason::Backoff,
                remaining: Duration::from_millis(2500),
            },
            lasting: Duration::from_micros(1_234_567),
            failures: 3,
            last_error: Some("web-1 says: secret".into()),
        }
    }

    #[test]
    fn each_level_shows_more_of_an_instance() {
        for (reveal, id, error) in [
            (Reveal::Nothing, None, None),
            (Reveal::Keys, Some("web-1"), Some("web-1 says: secret")),
            (Reveal::Values, Some("web-1"), Some("web-1 says: secret")),
        ] {
            let shown = instance(waiting(), reveal);
            assert_eq!(shown.attributes.as_ref().map(|attributes| &*attributes["id"]), id);
            assert_eq!(shown.error.as_deref(), error);
            assert_eq!(shown.error_hidden, error.is_none());
            assert_eq!((shown.state, shown.failures), ("waiting", 3));
            assert_eq!((shown.lasting_seconds, shown.remaining_seconds), (1.234, Some(2.5)));
            let json = serde_json::to_string(&shown).unwrap();
            assert_eq!(json.contains("web-1"), id.is_some(), "{json}");
        }
    }

    #[test]
    fn what_another_engine_says_is_as_secret() {
        let back = InstanceState::HeldBack {
            engine: Some("other".into()),
            until: None,
            error: "web-1 says: secret".into(),
        };
        let gave_up = InstanceState::GivenUp { engine: None, reason: "secret".into() };
        for (state, by) in [(back, Some("other")), (gave_up, None)] {
            let held = || Instance { state: state.clone(), last_error: None, ..waiting() };
            let shown = instance(held(), Reveal::Nothing);
            assert!(shown.error_hidden && !serde_json::to_string(&shown).unwrap().contains("secret"));
            assert_eq!(shown.by.as_deref(), by);
            assert!(instance(held(), Reveal::Keys).error.unwrap().contains("secret"));
        }
    }

    #[test]
    fn a_value_is_shown_only_if_it_may_be_and_only_its_beginning() {
        let seen = |value: &str| SeenKey {
            key: "/servers/web-1/ip".into(),
            value: Some(value.into()),
            mod_revision: Some(7),
            obstacle: None,
        };
        let hidden = seen_key(seen("secret"), Reveal::Keys);
        assert_eq!((hidden.value, hidden.exists, hidden.bytes), (None, true, 6));
        assert_eq!(seen_key(seen("secret"), Reveal::Values).value.as_deref(), Some("secret"));
        let long = seen_key(seen(&"ü".repeat(10_000)), Reveal::Values);
        assert_eq!((long.bytes, long.value.unwrap().len()), (20_000, VALUE));
    }
}
