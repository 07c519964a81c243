//! Every metric must have the value that a scenario implies. Engines on an embedded etcd, under a paused
//! clock, go through firing, retry, time-out, panic, lock loss, resync, drift and more.
//!
//! Each act has an engine of its own. It says which series must have changed in the scrape and by how much.
//! No other series may have changed.
//!
//! An ordinary firing counts as follows. The instance is decided when its key is put (true), and twice after
//! the commit (false): once for the commit's own changes, and once when the watch delivers them. It is
//! decided once more before the lock if it has waited. There are two requests, for the lock and for the
//! commit. In each act the first request makes a connection. The mirror's bytes are those of a key
//! (`/jobs/1`: 7) and its value. What an engine counts periodically, it counts at whole seconds.
//!
//! | file | subject |
//! |---|---|
//! | [`stage`] | the engine, the clock, what can be done in an act |
//! | [`scrape`] | scrapes, their differences, the text of what is expected |
//! | [`firings`] | acts of firings, from the decision to the commit |
//! | [`failures`] | acts of firings that fail, and of locks |
//! | [`watching`] | acts of watches, crawls and the index |
//! | [`fleets`] | acts of an engine that is not alone |
//! | [`engines`] | acts of leases, requests, health, start and end |

mod engines;
mod failures;
mod firings;
mod fleets;
mod scrape;
mod stage;
mod watching;

use crate::metrics::METRICS;
use scrape::is_of;
use stage::play;
use std::collections::BTreeSet;

/// Plays acts one after the other.
macro_rules! acts {
    ($moved:ident, $wrong:ident: $($act:path),* $(,)?) => {$({
        let (moved, wrong) = play($act);
        $moved.extend(moved);
        let name = stringify!($act).replace("::", ", ").replace('_', " ");
        $wrong.extend(wrong.into_iter().map(|text| format!("{name}: {text}")));
    })*};
}

#[test]
fn every_metric_has_the_value_that_the_scenario_implies() {
    let (mut moved, mut wrong) = (BTreeSet::new(), Vec::new());
    acts!(moved, wrong:
        firings::a_firing,
        firings::blocked_threads,
        firings::a_queue,
        firings::a_rate_limit,
        firings::a_dry_run,
        firings::a_retry_that_was_asked_for,
        firings::giving_up,
        firings::no_effect,
        firings::too_often,
        firings::an_expectation_that_fails,
        firings::an_optimistic_firing,
        failures::an_error,
        failures::a_panic,
        failures::a_time_out,
        failures::failing_for_long,
        failures::a_lost_lease,
        failures::a_lost_lock,
        failures::a_lock_that_is_held,
        failures::a_mark_of_another_engine,
        failures::a_condition_that_is_over,
        failures::a_shown_key_that_changed,
        failures::a_lock_that_is_refused,
        failures::a_commit_that_is_refused,
        failures::a_commit_that_is_too_large,
        failures::a_lock_that_is_too_large,
        failures::a_commit_that_is_held_back,
        failures::a_commit_that_fails,
        failures::a_commit_in_doubt,
        failures::a_commit_that_is_unknown,
        failures::an_orphan,
        failures::a_stuck_callback,
        watching::a_broken_stream,
        watching::an_outage,
        watching::a_resync,
        watching::history,
        watching::drift,
        watching::an_orphan_found_by_a_crawl,
        watching::a_crawl_that_fails,
        watching::a_comparison_that_panics,
        watching::a_pause,
        engines::a_start,
        engines::a_start_without_etcd,
        engines::a_start_on_another_cluster,
        engines::renewals,
        engines::refusals,
        engines::refused_watches,
        engines::another_form_of_keys,
        engines::no_lease,
        engines::lagging,
        engines::a_restart,
        engines::a_failure,
        engines::an_end,
        fleets::a_takeover,
        fleets::an_overdue_instance,
        fleets::a_help,
    );
    for metric in METRICS {
        let series: Vec<&String> = moved.iter().filter(|series| is_of(series, metric)).collect();
        if series.is_empty() {
            wrong.push(format!("{} never moves", metric.name));
        }
        for value in metric.values {
            if !series.iter().any(|series| series.contains(&format!("={value}}}"))) {
                wrong.push(format!("{} never moves for {value}", metric.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
