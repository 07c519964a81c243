//! The alert and recording rules: what they ask for exists, each is tested and explained, and promtool agrees.

use super::{expressions, project_file, read};
use std::process::Command;

pub(crate) const RULES: &str = "dashboards/alerts.yml";
const TESTS: &str = "dashboards/alerts_test.yml";

fn promtool(arguments: &[&str], folder: &std::path::Path) -> Result<String, String> {
    let output = Command::new("promtool").args(arguments).current_dir(folder).output();
    let output = output.expect("promtool is on the PATH (Debian: prometheus)");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text.into_owned()) } else { Err(text.into_owned()) }
}

fn alerts() -> Vec<String> {
    let text = read(RULES);
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn rules_ask_for_metrics_and_labels_that_exist() {
    let text = read(RULES).replace("rule:etcd_rules_", "");
    let lines = text.lines().filter(|line| line.contains("etcd_rules_") && !line.trim().starts_with('#'));
    let asked: Vec<&str> = lines.flat_map(expressions::check).collect();
    assert!(asked.len() > 20, "{asked:?}");
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_a_test_for_firing_and_for_silence() {
    let (text, runbook, tests) = (read(RULES), read("docs/runbook.md"), read(TESTS));
    let alerts = alerts();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in &alerts {
        assert!(text.contains(&format!("docs/runbook.md#{}\n", alert.to_lowercase())), "{alert} has no link");
        let section = runbook.split(&format!("\n## {alert}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("the runbook has no section {alert}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        assert!(section.len() > 200, "the runbook hardly says anything about {alert}");
        for case in ["fires", "is silent"] {
            assert!(tests.contains(&format!("- name: {alert} {case}\n")), "{TESTS}: {alert} {case}");
        }
    }
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let unknown: Vec<&str> =
        sections.filter(|section| !alerts.iter().any(|alert| alert == section)).collect();
    assert!(unknown.is_empty(), "the runbook explains alerts that there are not: {unknown:?}");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let folder = project_file("dashboards");
    promtool(&["check", "rules", "alerts.yml"], &folder).unwrap();
    promtool(&["test", "rules", "alerts_test.yml"], &folder).unwrap();
}

/// A rule and the text of its section in the file of rules.
struct Section<'a> {
    name: &'a str,
    text: &'a str,
}

/// The recording rules and the alerts, in their order.
fn sections(rules: &str) -> Vec<Section<'_>> {
    let starts = |text: &str| {
        text.trim_start().starts_with("- alert: ") || text.trim_start().starts_with("- record: ")
    };
    let mut at: Vec<usize> = rules.match_indices("      - ").map(|(at, _)| at).collect();
    at.retain(|at| starts(&rules[*at..]));
    let ends = at.iter().copied().skip(1).chain([rules.len()]);
    let section = |(start, end): (usize, usize)| {
        let text = &rules[start..end];
        let name = text.lines().next().and_then(|line| line.split(": ").nth(1)).expect("a name");
        Section { name, text }
    };
    at.iter().copied().zip(ends).map(section).collect()
}

/// What can be wrong in a section, one at a time: a comparison that is always or never true, no selection by label, no
/// time that it must last.
fn mistakes(section: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let expression = section.find("annotations:").unwrap_or(section.len());
    for (operator, always, never) in [
        (" > ", " > -1 + 0 * ", " > 1e9 + "),
        (" >= ", " >= -1 + 0 * ", " >= 1e9 + "),
        (" == ", " >= ", " == 2 + "),
    ] {
        for (at, _) in section[..expression].match_indices(operator) {
            // `rate(x) > 0` in a divisor only avoids 0 / 0.
            if section[at..].starts_with(" > 0)") {
                continue;
            }
            for instead in [always, never] {
                mistakes.push(format!("{}{instead}{}", &section[..at], &section[at + operator.len()..]));
            }
        }
    }
    for (at, _) in section[..expression].match_indices('{') {
        let end = at + section[at..].find('}').expect("an end") + 1;
        if !section[..at].ends_with(' ') {
            mistakes.push(format!("{}{}", &section[..at], &section[end..]));
        }
    }
    if let Some(at) = section.find("        for: ") {
        let end = at + section[at..].find('\n').expect("a line");
        mistakes.push(format!("{}{}", &section[..at], &section[end + 1..]));
    }
    mistakes
}

/// The tests of an alert; all tests for a recording rule, which alerts build on.
fn tests_of(name: &str, tests: &str) -> String {
    let (head, tests) = tests.split_once("tests:\n").expect("tests");
    let own = |test: &&str| {
        name.starts_with("rule:") && (test.contains("Latency") || test.contains("CallbacksFail"))
            || test.starts_with(&format!("{name} "))
    };
    let tests: Vec<&str> = tests.split("  - name: ").filter(own).collect();
    assert!(tests.len() >= 2, "{name}");
    format!("{head}tests:\n  - name: {}", tests.join("  - name: "))
}

/// Each rule is made wrong in every way, one at a time, and the tests notice.
#[test]
fn the_tests_notice_whatever_is_wrong_with_a_rule() {
    let (rules, tests) = (read(RULES), read(TESTS));
    let folder = tempfile::tempdir().unwrap();
    let (mut tried, mut unnoticed) = (0, Vec::new());
    for Section { name, text } in sections(&rules) {
        std::fs::write(folder.path().join("alerts_test.yml"), tests_of(name, &tests)).unwrap();
        promtool_test(&rules, folder.path()).unwrap_or_else(|failed| panic!("{name}: {failed}"));
        for mistake in mistakes(text) {
            tried += 1;
            if promtool_test(&rules.replace(text, &mistake), folder.path()).is_ok() {
                unnoticed.push(mistake);
            }
        }
    }
    assert!(tried > 50, "only {tried} mistakes");
    assert!(unnoticed.is_empty(), "{} of {tried} went unnoticed:\n{}", unnoticed.len(), unnoticed.join("\n"));
}

/// Runs the tests in the folder against these rules. They must be rules: a mistake that is none would be noticed
/// anyway.
fn promtool_test(rules: &str, folder: &std::path::Path) -> Result<String, String> {
    std::fs::write(folder.join("alerts.yml"), rules).unwrap();
    let tested = promtool(&["test", "rules", "alerts_test.yml"], folder);
    if tested.as_ref().is_err_and(|failed| !failed.contains("alertname: ")) {
        promtool(&["check", "rules", "alerts.yml"], folder).expect("rules");
    }
    tested
}
