//! What is shown of engines, and what may be revealed of it. Everything that is shown passes through here.
//! Pure.

use crate::condition::{Explanation, SeenKey};
use crate::events::Event;
use crate::health::Health;
use crate::inspect::Cursor;
use crate::inspect::{Instance, InstanceExplanation, InstancePage, RuleStatus};
use crate::pattern::Attributes;
use crate::trace::hide::HIDDEN;
use crate::trace::reveal::Reveal;
use crate::value::Value;
use serde::Serialize;
use std::borrow::Cow;

/// Bytes of a value that are shown at most.
const VALUE: usize = 4096;

/// An engine with its rules.
#[derive(Debug, Serialize)]
pub(super) struct EngineView {
    pub(super) name: String,
    pub(super) health: Health,
    pub(super) live: bool,
    pub(super) ready: bool,
    pub(super) reveal: Reveal,
    /// What is before every key in etcd, and is not shown with any.
    pub(super) key_prefix: String,
    /// Engines that are alive, this one included. 0 unless it is a member.
    pub(super) members: usize,
    /// Of them, those that have other rules.
    pub(super) members_differing: usize,
    /// Why its rules are not known.
    pub(super) error: Option<String>,
    pub(super) rules: Vec<RuleStatus>,
}

/// An event of an engine. What its errors say was made fit to be shown when they happened, and is the same in the log.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct EventView<'a>(Cow<'a, Event>);

impl<'a> EventView<'a> {
    pub(super) fn new(event: &'a Event, reveal: Reveal) -> Self {
        if reveal >= Reveal::Keys {
            return Self(Cow::Borrowed(event));
        }
        let mut event = event.clone();
        event.attributes = hidden(&event.attributes);
        Self(Cow::Owned(event))
    }
}

/// A page of instances of an engine.
#[derive(Debug, Serialize)]
pub(super) struct PageView {
    pub(super) engine: String,
    pub(super) reveal: Reveal,
    pub(super) instances: Vec<Instance>,
    /// `after` of the next page.
    pub(super) next: Option<Cursor>,
}

/// Why an instance of an engine is true or false.
#[derive(Debug, Serialize)]
pub(super) struct ExplanationView {
    pub(super) engine: String,
    pub(super) reveal: Reveal,
    pub(super) rule: String,
    pub(super) attributes: Attributes,
    pub(super) condition: Explanation,
    /// `None`: the engine knows no such instance.
    pub(super) instance: Option<Instance>,
}

impl EngineView {
    pub(super) fn new(name: &str, key_prefix: &str, health: Health, reveal: Reveal) -> Self {
        let (live, ready) = (health.is_live(), health.is_ready());
        let (name, key_prefix) = (name.to_owned(), key_prefix.to_owned());
        Self {
            name,
            health,
            live,
            ready,
            reveal,
            key_prefix,
            members: 0,
            members_differing: 0,
            error: None,
            rules: Vec::new(),
        }
    }
}

impl PageView {
    pub(super) fn new(engine: &str, page: InstancePage, reveal: Reveal) -> Self {
        let InstancePage { mut instances, next } = page;
        instances.iter_mut().for_each(|instance| redact(instance, reveal));
        Self { engine: engine.to_owned(), reveal, instances, next }
    }
}

impl ExplanationView {
    pub(super) fn new(
        engine: &str,
        rule: &str,
        attributes: Attributes,
        found: InstanceExplanation,
        reveal: Reveal,
    ) -> Self {
        let InstanceExplanation { mut condition, mut instance } = found;
        redact_part(&mut condition, reveal);
        instance.iter_mut().for_each(|instance| redact(instance, reveal));
        let (engine, rule) = (engine.to_owned(), rule.to_owned());
        Self { engine, reveal, rule, attributes, condition, instance }
    }
}

/// Without [`Reveal::Keys`] it is not told which instance it is. What its errors say was made fit to be shown when they
/// happened, and is the same in the log.
fn redact(instance: &mut Instance, reveal: Reveal) {
    if reveal < Reveal::Keys {
        instance.attributes = hidden(&instance.attributes);
    }
}

/// Names without values.
fn hidden(attributes: &Attributes) -> Attributes {
    attributes.iter().map(|(name, _)| (name, HIDDEN)).collect()
}

fn redact_part(part: &mut Explanation, reveal: Reveal) {
    part.seen.iter_mut().for_each(|seen| redact_key(seen, reveal));
    part.children.iter_mut().for_each(|child| redact_part(child, reveal));
}

/// A value is shown if that may be, and of a long one its beginning.
fn redact_key(seen: &mut SeenKey, reveal: Reveal) {
    let Some(value) = &mut seen.value else { return };
    // An obstacle names a kind of mistake and a place, and nothing of the value.
    let shown = if reveal >= Reveal::Values { value.len().min(VALUE) } else { 0 };
    if shown < value.len() {
        let beginning = String::from_utf8_lossy(&value.as_bytes()[..shown]);
        *value = Value::from(format!("{beginning}{HIDDEN} ({} bytes)", value.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{InstanceState, WaitReason};
    use std::time::Duration;

    fn waiting() -> Instance {
        Instance {
            rule: "poll".into(),
            attributes: [("id", "web-1")].into(),
            state: InstanceState::Waiting {
                reason: WaitReason::Backoff,
                remaining: Duration::from_millis(2500),
            },
            lasting: Duration::from_millis(1234),
            failures: 3,
            last_error: Some("… says: …".into()),
        }
    }

    fn shown(mut instance: Instance, reveal: Reveal) -> Instance {
        redact(&mut instance, reveal);
        instance
    }

    #[test]
    fn each_level_shows_more_of_an_instance() {
        for (reveal, id) in [(Reveal::Nothing, HIDDEN), (Reveal::Keys, "web-1"), (Reveal::Values, "web-1")] {
            let shown = shown(waiting(), reveal);
            assert_eq!(shown.attributes.get("id"), Some(id));
            assert_eq!(shown.last_error.as_deref(), Some("… says: …"), "as it was when it happened");
            let json = serde_json::to_value(&shown).unwrap();
            assert_eq!(json["state"]["kind"], "waiting");
            assert_eq!(json["state"]["detail"]["remaining_seconds"], 2.5);
            assert_eq!((&json["failures"], &json["lasting_seconds"]), (&3.into(), &1.234.into()));
            assert_eq!(json.to_string().contains("web-1"), reveal >= Reveal::Keys, "{json}");
        }
    }

    #[test]
    fn a_value_is_shown_only_if_it_may_be_and_only_its_beginning() {
        let seen = |value: &str, reveal| {
            let mut seen = SeenKey {
                key: "/servers/web-1/ip".into(),
                value: Some(value.into()),
                mod_revision: Some(7),
                obstacle: None,
            };
            redact_key(&mut seen, reveal);
            seen.value.unwrap().to_string()
        };
        assert_eq!(seen("secret", Reveal::Keys), "… (6 bytes)");
        assert_eq!(seen("secret", Reveal::Values), "secret");
        let long = seen(&"ü".repeat(10_000), Reveal::Values);
        assert!(long.starts_with("üüü") && long.ends_with("ü… (20000 bytes)"), "{long}");
        assert!(long.len() < VALUE + 30);
    }
}
