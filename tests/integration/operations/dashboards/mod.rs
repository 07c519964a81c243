//! The dashboards: made here, kept as files that Grafana imports as they are.

mod engine;
pub(crate) mod model;
mod overview;
mod rule;

use super::expressions;
use etcd_rules::metrics::METRICS;
use model::Dashboard;
use std::collections::BTreeSet;

/// All of them, with their files.
pub(crate) fn all() -> Vec<(&'static str, Dashboard)> {
    vec![
        ("dashboards/overview.json", overview::dashboard()),
        ("dashboards/rule.json", rule::dashboard()),
        ("dashboards/engine.json", engine::dashboard()),
    ]
}

#[test]
fn the_files_are_what_is_generated() {
    for (file, dashboard) in all() {
        super::assert_generated(file, &dashboard.json());
    }
}

#[test]
fn every_panel_asks_for_what_exists_and_explains_itself() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in all() {
        assert!(uids.insert(dashboard.uid));
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels() {
            assert!(titles.insert(panel.title), "{file}: two panels are called {}", panel.title);
            assert!(panel.description.len() > 20, "{file}: {} does not explain itself", panel.title);
            for target in &panel.targets {
                let asked = expressions::check(&target.expression);
                assert!(!asked.is_empty(), "{file}: {} asks for nothing of ours", panel.title);
                let selectors = target.expression.matches("etcd_rules_").count();
                let by_target = target.expression.matches("{job=~\"$job\",instance=~\"$instance\"").count();
                assert_eq!(selectors, by_target, "{file}: {} ignores the variables", panel.title);
            }
        }
    }
}

#[test]
fn every_metric_is_on_some_dashboard() {
    let mut shown = BTreeSet::new();
    for (_, dashboard) in all() {
        for panel in dashboard.panels() {
            shown.extend(panel.targets.iter().flat_map(|target| expressions::check(&target.expression)));
        }
    }
    let hidden: Vec<&str> =
        METRICS.iter().map(|metric| metric.name).filter(|name| !shown.contains(name)).collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
}
