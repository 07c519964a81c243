//! Tests of what is told of the ends of runs, and when a callback counts as stuck.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// Reads the number of calls, and has the ends of attempts.
fn ended() -> (Arc<AtomicUsize>, EndedRuns, impl Fn(u64) -> EndReporter) {
    let calls = Arc::new(AtomicUsize::new(0));
    let ended = EndedRuns::new({
        let calls = calls.clone();
        move || {
            calls.fetch_add(1, Ordering::SeqCst);
        }
    });
    let meters = metrics::with_local_recorder(&metrics::NoopRecorder, || Meters::new("e", &[], 1));
    let of = ended.clone();
    let instance = InstanceId { index: 0, generation: 0 };
    let telemetry =
        Arc::new(CallbackTelemetry { engine: "e".into(), telemetry: Telemetry::default(), meters });
    // No rule counts it: the tests tell every end.
    (calls, ended, move |nonce| of.end_of(instance, Nonce(nonce), telemetry.clone(), RuleIndex::default()))
}

#[test]
fn the_dispatcher_is_called_once_for_all_ends_since_it_looked() {
    let (calls, ended, end_of) = ended();
    for nonce in 1..=3 {
        end_of(nonce).report(CallbackEnd::of(FiringOutcome::TimedOut), None);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let reported: Vec<(Nonce, CallbackEnd)> =
        ended.take().into_iter().map(|end| (end.nonce, end.end)).collect();
    assert_eq!(reported, [1, 2, 3].map(|nonce| (Nonce(nonce), CallbackEnd::of(FiringOutcome::TimedOut))));
    assert!(ended.take().is_empty());
    end_of(4).report(CallbackEnd::of(FiringOutcome::TimedOut), None);
    assert_eq!(calls.load(Ordering::SeqCst), 2, "it has looked since");
}

#[test]
fn what_was_told_is_not_told_again_when_it_is_dropped() {
    let (_, ended, end_of) = ended();
    let mut end = end_of(1);
    end.report(CallbackEnd::of(FiringOutcome::TimedOut), None);
    drop(end);
    assert_eq!(ended.take().len(), 1);
}

#[test]
fn a_callback_is_stuck_a_second_after_its_grace() {
    // When it is told to end, and from when on it is stuck; the limit is 10 s, the grace 2 s.
    let cases = [(None, 13.0), (Some(4.0), 7.0), (Some(9.0), 12.0), (Some(11.5), 13.0)];
    for (cancelled, stuck) in cases {
        let begin = Instant::now();
        let mut detector = StuckDetector::new(begin, seconds(10.0), seconds(2.0));
        let found: Vec<f64> = (0..200)
            .map(|tenths| f64::from(tenths) / 10.0)
            .filter(|at| {
                detector
                    .has_got_stuck(cancelled.is_some_and(|cancelled| *at >= cancelled), begin + seconds(*at))
            })
            .collect();
        assert_eq!(found, [stuck], "cancelled after {cancelled:?}: found once, and in time");
        assert!(detector.is_stuck());
    }
}
