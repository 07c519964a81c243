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

/// With the comparison of every alert turned round, the tests of every alert must fail.
#[test]
fn the_tests_of_each_alert_can_fail() {
    let (text, tests) = (read(RULES), read(TESTS));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("alerts_test.yml"), tests).unwrap();
    let mut parts = text.split("- alert: ");
    let mut turned = parts.next().unwrap().to_owned();
    for alert in parts {
        let (own, rest) = alert.split_once("        labels:").unwrap();
        let changed =
            if own.contains("== 0") { own.replace("== 0", "!= 0") } else { own.replace(" > ", " < ") };
        assert_ne!(own, changed);
        turned += &format!("- alert: {changed}        labels:{rest}");
    }
    std::fs::write(folder.path().join("alerts.yml"), turned).unwrap();
    let failed = promtool(&["test", "rules", "alerts_test.yml"], folder.path()).unwrap_err();
    for alert in alerts() {
        assert!(failed.contains(&format!("alertname: {alert},")), "{alert} passes: {failed}");
    }
}
