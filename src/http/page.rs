//! The pages. Plain HTML without scripts; the templates escape everything that is put into them. Pure.

use super::handler::ApiError;
use super::query::{ATTRIBUTE, Parameters};
use super::view::{EngineView, ExplanationView, PageView};
use crate::condition::{Explanation, SeenKey};
use crate::health::Health;
use crate::inspect::{Instance, InstanceState, RuleStatus, StateKind, WaitReason};
use crate::trace::hide::HIDDEN;
use crate::trace::reveal::Reveal;
use maud::{DOCTYPE, Markup, html};
use std::time::Duration;

/// The style sheet, which all pages share.
pub(super) const STYLE: &str = include_str!("style.css");

/// Rules of an engine that the overview lists at most; a filter finds the others.
const RULES: usize = 200;

/// States in the order in which they are of interest.
const STATES: [StateKind; 9] = [
    StateKind::Queued,
    StateKind::Running,
    StateKind::Waiting,
    StateKind::Held,
    StateKind::GivenUp,
    StateKind::WouldFire,
    StateKind::Yielded,
    StateKind::Idle,
    StateKind::Untrue,
];

fn layout(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · etcd-rules" }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    a.brand href="/" { "etcd-rules" }
                    nav { a href="/" { "Rules" } a href="/instances" { "Instances" } }
                }
                main { (body) }
                footer { "etcd-rules " (env!("CARGO_PKG_VERSION")) " · read-only · as of this request" }
            }
        }
    }
}

/// A name of a state for people.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn pill(name: &str) -> Markup {
    html! { span class={ "pill " (name) } { (words(name)) } }
}

/// Numbers with a thin space between thousands.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time for people: two units at most.
fn time(time: Duration) -> String {
    let (seconds, whole) = (time.as_secs_f64(), time.as_secs());
    match whole {
        0 => format!("{:.0} ms", seconds * 1000.0),
        1..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

pub(super) fn overview(engines: &[EngineView], parameters: &Parameters) -> Markup {
    let filter = parameters.get("rule").unwrap_or("");
    let many = engines.iter().any(|engine| engine.rules.len() > 10) || !filter.is_empty();
    layout(
        "Rules",
        html! {
            h1 { "Rules" }
            @if many {
                form.filter method="get" action="/" {
                    label { "Rule contains " input type="search" name="rule" value=(filter); }
                    button { "Show" }
                }
            }
            @if engines.is_empty() { p.empty { "No engine is running." } }
            @for engine in engines { (engine_section(engine, filter)) }
        },
    )
}

fn engine_section(engine: &EngineView, filter: &str) -> Markup {
    let found: Vec<&RuleStatus> = engine.rules.iter().filter(|rule| rule.id.contains(filter)).collect();
    html! {
        section {
            h2 { (engine.name) " " (pill(engine.health.name())) }
            @if !engine.key_prefix.is_empty() { p { "All keys are below " code { (engine.key_prefix) } "." } }
            @if engine.members > 0 {
                p {
                    "Engines alive, as this one sees them: " (engine.members)
                    @if engine.members_differing > 0 {
                        " (" (engine.members_differing) " with other rules than this one)"
                    }
                    "."
                }
            }
            @if !engine.health.problems().is_empty() {
                ul.problems {
                    @for problem in engine.health.problems() {
                        li { (pill(problem.reason.name())) " " b { (problem.part) } ": " (problem.message) }
                    }
                }
            }
            @if let Health::Failed { reason } = &engine.health { p.error { (told(reason)) } }
            @if let Some(error) = &engine.error { p.error { (error) } }
            @if !found.is_empty() {
                div.table { table {
                    thead { tr {
                        th { "rule" } th { "condition" } th.number { "true" }
                        @for state in STATES { th.number { (words(state.name())) } }
                        th.number title="callbacks started in this engine since its last start" { "fired" }
                    } }
                    tbody { @for rule in found.iter().take(RULES) { (rule_row(&engine.name, rule)) } }
                } }
            } @else if engine.live && engine.error.is_none() {
                p.empty { "No rule contains this text." }
            }
            @if found.len() > RULES {
                p.empty { (found.len() - RULES) " more rules: look for them by a part of their id." }
            }
        }
    }
}

fn rule_row(engine: &str, rule: &RuleStatus) -> Markup {
    let link = Parameters::default().with("engine", engine).with("rule", &rule.id);
    html! {
        tr {
            td.name data-label="rule" {
                a href=(link.link("/instances")) { (rule.id) }
                @if rule.optimistic { " " span.note title="runs without a lock" { "optimistic" } }
                @if rule.paused { " " span.note title="nothing of it starts in this engine" { "paused" } }
                @if rule.dry_run { " " span.note title="no callback starts in this engine" { "dry run" } }
                @if let Some(interval) = rule.min_interval {
                    " " span.note title="least time between two firings of an instance in this engine" {
                        "interval " (time(interval))
                    }
                }
                @if let Some(limit) = &rule.rate_limit {
                    " " span.note title="no more than so many start in this engine" { "limit " (limit) }
                }
            }
            td.condition data-label="condition" { code { (rule.condition) } }
            td.number data-label="true" { (number(rule.counts.all_true() as u64)) }
            @for state in STATES {
                @let count = rule.counts.get(state);
                td.number data-label=(words(state.name())) {
                    @if count == 0 { span.zero { "0" } } @else {
                        a class=(state.name()) href=(link.with("state", state).link("/instances")) {
                            (number(count as u64))
                        }
                    }
                }
            }
            td.number data-label="fired" { (number(rule.fired)) }
        }
    }
}

pub(super) fn instances(
    engine: &str,
    engines: &[EngineView],
    found: Result<PageView, ApiError>,
    parameters: &Parameters,
    reveals: bool,
) -> Markup {
    layout(
        "Instances",
        html! {
            h1 { "Instances" }
            (filters(engine, engines, parameters, reveals))
            @match found {
                Err(refused) => p.error { (refused.message) },
                Ok(page) => (listed(&page, parameters)),
            }
            @if !reveals {
                p.empty { "Which instances these are is not revealed by this engine." }
            }
        },
    )
}

fn filters(engine: &str, engines: &[EngineView], parameters: &Parameters, reveals: bool) -> Markup {
    let rules = engines.iter().find(|known| known.name == engine).map_or(&[][..], |known| &known.rules);
    let rule = parameters.get("rule").unwrap_or("");
    let state = parameters.get("state").unwrap_or("");
    let attributes = rules.iter().find(|known| *known.id == *rule).map_or(&[][..], |known| &known.attributes);
    let given = parameters.attributes();
    html! {
        form.filter method="get" action="/instances" {
            @if engines.len() > 1 {
                label { "Engine " select name="engine" {
                    @for known in engines {
                        option value=(known.name) selected[known.name == engine] { (known.name) }
                    }
                } }
            }
            label { "Rule " select name="rule" {
                option value="" { "all" }
                @for known in rules { option value=(known.id) selected[*known.id == *rule] { (known.id) } }
            } }
            label { "State " select name="state" {
                option value="" { "all" }
                @for known in STATES {
                    option value=(known) selected[known.name() == state] { (words(known.name())) }
                }
            } }
            @if reveals {
                @for name in attributes {
                    label { ":" (name) " " input name={ (ATTRIBUTE) (name) } value=(given.get(name).unwrap_or("")); }
                }
            }
            button { "Show" }
        }
    }
}

fn listed(page: &PageView, parameters: &Parameters) -> Markup {
    let paged = parameters.get("after").is_some();
    html! {
        @if page.instances.is_empty() {
            p.empty { @if paged { "No more instances." } @else { "No such instance." } }
        } @else {
            div.table { table {
                thead { tr {
                    th { "rule" } th { "instance" } th { "state" } th { "what is done about it" }
                    th.number { "for" } th.number { "failures" } th { "last error" }
                } }
                tbody { @for instance in &page.instances { (instance_row(page, instance)) } }
            } }
        }
        p.pages {
            @if paged { a href=(parameters.without("after").link("/instances")) { "First page" } }
            @if let Some(next) = &page.next {
                a rel="next" href=(parameters.with("after", next).link("/instances")) { "Next page" }
            }
        }
    }
}

fn instance_row(page: &PageView, instance: &Instance) -> Markup {
    html! {
        tr {
            td.name data-label="rule" { (instance.rule) }
            td.name data-label="instance" { (attributes(page, instance)) }
            td data-label="state" { (pill(instance.state.kind().name())) }
            td data-label="what is done" { (detail(instance)) }
            td.number data-label="for" { @if is_true(instance) { (time(instance.lasting)) } }
            td.number data-label="failures" { @if instance.failures > 0 { (instance.failures) } }
            td.message data-label="last error" {
                @if let Some(error) = error(instance) { (told(error)) }
            }
        }
    }
}

fn is_true(instance: &Instance) -> bool {
    instance.state != InstanceState::Untrue
}

/// A text, unless it is not revealed.
fn told(text: &str) -> Markup {
    html! { @if text == HIDDEN { span.zero { "not revealed" } } @else { (text) } }
}

fn attributes(page: &PageView, instance: &Instance) -> Markup {
    if page.reveal < Reveal::Keys {
        return html! { span.zero { "not revealed" } };
    }
    let attributes = &instance.attributes;
    let link = attributes.iter().fold(
        Parameters::default().with("engine", &page.engine).with("rule", &instance.rule),
        |link, (name, value)| link.with(&format!("{ATTRIBUTE}{name}"), value),
    );
    html! {
        a href=(link.link("/explain")) {
            @if attributes.is_empty() { "explain" }
            @for (number, (name, value)) in attributes.iter().enumerate() {
                @if number > 0 { " " }
                span.attribute { (name) "=" } (value)
            }
        }
    }
}

fn detail(instance: &Instance) -> Markup {
    let (what, by) = what_is_done(&instance.state);
    html! {
        (what)
        @if let Some(by) = by { ": " b { (by) } }
        @if let InstanceState::Waiting { remaining, .. } = &instance.state { ", in " (time(*remaining)) }
    }
}

/// What went wrong, here or in another engine.
fn error(instance: &Instance) -> Option<&str> {
    let elsewhere = match &instance.state {
        InstanceState::HeldBack { error, .. } => Some(error),
        InstanceState::GivenUp { reason, .. } => Some(reason),
        _ => None,
    };
    elsewhere.map(String::as_str).or(instance.last_error.as_deref()).filter(|text| !text.is_empty())
}

/// A state in words, and which other engine it is about.
fn what_is_done(state: &InstanceState) -> (&'static str, Option<&str>) {
    match state {
        InstanceState::Waiting { reason, .. } => {
            let text = match reason {
                WaitReason::Backoff => "retried after a failure",
                WaitReason::RetryAfter => "run again as its callback asked",
                WaitReason::Ineffective => "slowed down: its callback leaves it true",
                WaitReason::Trouble => "tried again after trouble with etcd",
                WaitReason::Released => "tried again after a release",
                WaitReason::Settle => "settles: its keys may change again",
                WaitReason::TooOften => "slowed down: it fires too often, so another rule may undo its work",
                WaitReason::Interval => "fired less than its rule's interval ago",
            };
            (text, None)
        }
        InstanceState::Locked { engine, .. } => ("locked by another engine", engine.as_deref()),
        InstanceState::Yielded { engine } => ("left to the engine that owns it", engine.as_deref()),
        InstanceState::HeldBack { engine, error, .. } if error.is_empty() => {
            ("held back by another engine, as its callback asked", engine.as_deref())
        }
        InstanceState::HeldBack { engine, .. } => {
            ("held back by another engine after a failure", engine.as_deref())
        }
        InstanceState::GivenUp { engine, .. } => ("given up", engine.as_deref()),
        InstanceState::Untrue
        | InstanceState::Queued(_)
        | InstanceState::Running(_)
        | InstanceState::WouldFire
        | InstanceState::Idle => (state.words().unwrap_or_default(), None),
    }
}

pub(super) fn explanation(found: &ExplanationView, parameters: &Parameters) -> Markup {
    let list = Parameters::default().with("engine", &found.engine).with("rule", &found.rule);
    layout(
        "Explanation",
        html! {
            h1 {
                a href=(list.link("/instances")) { (found.rule) }
                @for (name, value) in found.attributes.iter() { " " span.attribute { (name) "=" } (value) }
            }
            @match &found.instance {
                None => p.empty { "No existing key has these attributes: the engine does not know this instance." },
                Some(instance) => {
                    dl {
                        dt { "engine" } dd { (found.engine) }
                        dt { "state" } dd { (pill(instance.state.kind().name())) " " (detail(instance)) }
                        @if is_true(instance) { dt { "for" } dd { (time(instance.lasting)) } }
                        @if instance.failures > 0 { dt { "failures" } dd { (instance.failures) " in a row" } }
                        @if let Some(error) = error(instance) { dt { "last error" } dd.message { (told(error)) } }
                    }
                }
            }
            h2 { "Condition" }
            ul.tree { (tree(&found.condition)) }
            p.pages {
                a href=(parameters.link("/explain")) { "Look again" }
                a href=(parameters.link("/api/explain")) { "JSON" }
            }
        },
    )
}

fn tree(part: &Explanation) -> Markup {
    html! {
        li class=(if part.truth { "true" } else { "false" }) {
            span.truth title=(if part.truth { "true" } else { "false" }) {
                @if part.truth { "✓" } @else { "✗" }
            }
            " " code { (part.text) }
            @if !part.seen.is_empty() { ul.seen { @for seen in &part.seen { (seen_key(seen)) } } }
            @if !part.children.is_empty() { ul { @for child in &part.children { (tree(child)) } } }
        }
    }
}

fn seen_key(seen: &SeenKey) -> Markup {
    html! {
        li {
            code { (seen.key) }
            @if let Some(value) = &seen.value {
                " is " code.value { (value.to_string_lossy()) }
                @if let Some(revision) = seen.mod_revision { ", revision " (revision) }
                @if let Some(obstacle) = &seen.obstacle { ", " (obstacle) }
            } @else { " is absent" }
        }
    }
}

pub(super) fn refused(refused: &ApiError) -> Markup {
    layout(
        refused.status.as_str(),
        html! {
            h1 { (refused.status) }
            p.error { (refused.message) }
            p.pages { a href="/" { "To the rules" } }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        for (value, text) in
            [(0, "0"), (999, "999"), (1000, "1\u{202f}000"), (1_234_567, "1\u{202f}234\u{202f}567")]
        {
            assert_eq!(number(value), text);
        }
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.25, "250 ms"),
            (2.5, "2.5 s"),
            (75.0, "1 min 15 s"),
            (7260.0, "2 h 1 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text);
        }
    }
}
