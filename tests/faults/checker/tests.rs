//! A history in which all is well, and what the checker says when it is doctored: each promise fails at least once.

use super::{Promise, check, recovery};
use crate::history::{ByHand, Change, Epoch, Expect, Fate, History, Probe, Process, Run, Seen, Told, sum};
use crate::jobs::{self, LOCKED, OPTIMISTIC};
use crate::moment::{Micros, SECOND};
use std::time::Duration;

const TTL: Micros = 5 * SECOND;
const TODO: &[u8] = b"1 0 0 0\n";

fn seen(value: impl Into<Vec<u8>>) -> Option<Seen> {
    let value = value.into();
    let sum = sum(&value);
    Some(Seen { value, sum, lease: 0 })
}

fn change(at: Micros, revision: i64, key: String, seen: Option<Seen>) -> Change {
    Change { at, revision, key: key.into_bytes(), seen }
}

/// A job that was asked at one revision and done at another.
fn done(epoch: &mut Epoch, kind: &str, id: &str, run: &str, at: Micros) {
    let revision = epoch.changes.last().map_or(epoch.revision, |change| change.revision);
    epoch.changes.push(change(at - SECOND / 2, revision + 1, jobs::todo(kind, id), seen(TODO)));
    epoch.changes.push(change(at, revision + 2, jobs::done(kind, id), seen(jobs::receipt(run, TODO))));
    epoch.changes.push(change(at, revision + 2, jobs::todo(kind, id), None));
}

fn run(name: &str, engine: usize, kind: &str, id: &str, (token, start, end): (i64, Micros, Micros)) -> Run {
    Run {
        name: name.to_owned(),
        engine,
        rule: kind.to_owned(),
        id: id.to_owned(),
        lock: jobs::lock(kind, id),
        token,
        attempt: 1,
        start,
        told: None,
        end: Some((end, Fate::Done)),
    }
}

fn told(engine: usize, at: Micros, state: &str) -> Told {
    Told { engine, at, state: state.to_owned(), problems: Vec::new() }
}

/// Two engines, two jobs, a minute; nothing is wrong.
fn well() -> History {
    let mut epoch = Epoch { cluster: 7, began: 0, revision: 10, ..Epoch::default() };
    done(&mut epoch, LOCKED, "a", "0.1.0", 3 * SECOND);
    done(&mut epoch, OPTIMISTIC, "b", "1.1.0", 4 * SECOND);
    let process = |engine| Process {
        engine,
        asked_to_stop: Some(58 * SECOND),
        ended: Some(59 * SECOND),
        memory: 50 << 20,
        drift: Some(0),
        ..Process::default()
    };
    let probes = (0..120).flat_map(|round| {
        [0, 1].map(|engine| Probe { engine, round, at: round * SECOND / 2, took: Some(SECOND / 100) })
    });
    History {
        lock_ttl: Duration::from_micros(TTL),
        epochs: vec![epoch],
        runs: vec![
            run("0.1.0", 0, LOCKED, "a", (11, 2 * SECOND, 3 * SECOND)),
            run("1.1.0", 1, OPTIMISTIC, "b", (0, 3 * SECOND, 4 * SECOND)),
        ],
        health: vec![told(0, 0, "starting"), told(0, SECOND, "ready"), told(1, SECOND, "ready")],
        probes: probes.collect(),
        processes: vec![process(0), process(1)],
        healed: 30 * SECOND,
        calm: Some(40 * SECOND),
        felt: vec![("bytes were lost".to_owned(), 5)],
        ..History::default()
    }
}

/// Which promises a doctored history breaks.
fn broken(doctor: impl FnOnce(&mut History)) -> Vec<Promise> {
    let mut history = well();
    doctor(&mut history);
    let mut promises: Vec<Promise> =
        check(&history, &Expect::default()).into_iter().map(|violation| violation.promise).collect();
    promises.dedup();
    promises
}

/// A second run of job `a`, by the other engine.
fn second(token: i64, start: Micros, end: Micros) -> Run {
    run("1.1.9", 1, LOCKED, "a", (token, start, end))
}

fn without_answers(history: &mut History, from: Micros, to: Micros) {
    history
        .probes
        .iter_mut()
        .filter(|probe| (from..to).contains(&probe.at))
        .for_each(|probe| probe.took = None);
}

fn cancel(run: &mut Run, at: Micros) {
    run.told = Some(at);
    run.end = Some((at, Fate::Cancelled));
}

/// A callback that was told to end at 20 s.
fn cancelled(history: &mut History) {
    let mut run = run("0.1.5", 0, LOCKED, "c", (12, 15 * SECOND, 20 * SECOND));
    cancel(&mut run, 20 * SECOND);
    history.runs.push(run);
}

#[test]
fn a_history_in_which_all_is_well_passes() {
    assert_eq!(check(&well(), &Expect::default()), []);
    assert_eq!(recovery(&well()), 0);
}

#[test]
fn what_is_done_twice_or_never_or_in_pieces_is_found() {
    let twice = broken(|history| {
        let again = change(5 * SECOND, 15, jobs::done(LOCKED, "a"), seen(jobs::receipt("0.1.0", TODO)));
        history.epochs[0].changes.push(again);
    });
    assert_eq!(twice, [Promise::Once, Promise::Commit, Promise::Lock]);
    let before_the_epoch = broken(|history| {
        let before = (jobs::done(LOCKED, "a").into_bytes(), seen("x 1").unwrap());
        history.epochs[0].snapshot.extend([before]);
    });
    assert_eq!(before_the_epoch, [Promise::Once]);
    let only_taken_away = broken(|history| {
        history.epochs[0].changes.retain(|change| change.key != jobs::done(LOCKED, "a").into_bytes());
    });
    assert_eq!(only_taken_away, [Promise::Once]);
    let in_pieces = broken(|history| {
        let epoch = &mut history.epochs[0];
        epoch.changes.retain(|change| change.revision != 12 || change.seen.is_some());
        epoch.changes.push(change(6 * SECOND, 15, jobs::todo(LOCKED, "a"), None));
    });
    assert_eq!(in_pieces, [Promise::Once]);
    let undone = broken(|history| {
        history.epochs[0].changes.push(change(6 * SECOND, 15, jobs::todo(LOCKED, "z"), seen(TODO)));
    });
    assert_eq!(undone, [Promise::Once]);
    let another_value = broken(|history| {
        history.epochs[0].changes[1].seen = seen(jobs::receipt("0.1.0", b"2 0 0 0\n"));
    });
    assert_eq!(another_value, [Promise::Once]);
}

#[test]
fn in_another_epoch_it_may_be_done_again() {
    let again = broken(|history| {
        history.epochs[0].ended = Some(10 * SECOND);
        let mut epoch = Epoch { cluster: 7, began: 11 * SECOND, revision: 10, ..Epoch::default() };
        done(&mut epoch, LOCKED, "a", "1.1.9", 13 * SECOND);
        history.epochs.push(epoch);
        history.runs.push(second(11, 12 * SECOND, 13 * SECOND));
    });
    assert_eq!(again, []);
}

#[test]
fn an_effect_that_no_successful_run_of_the_job_had_is_found() {
    assert_eq!(broken(|history| history.runs[0].end = Some((3 * SECOND, Fate::Failed))), [Promise::Commit]);
    assert_eq!(broken(|history| history.runs[0].id = "other".to_owned()), [Promise::Commit]);
    assert_eq!(broken(|history| drop(history.runs.remove(0))), [Promise::Commit]);
}

#[test]
fn effects_under_one_lock_that_overlap_or_whose_tokens_fall_are_found() {
    let pair = |token, start| {
        broken(|history| {
            let epoch = &mut history.epochs[0];
            done(epoch, jobs::LEFT, "p", "0.1.1", 10 * SECOND);
            done(epoch, jobs::RIGHT, "p", "0.1.2", 12 * SECOND);
            history.runs.push(run("0.1.1", 0, jobs::LEFT, "p", (14, 9 * SECOND, 10 * SECOND)));
            history.runs.push(run("0.1.2", 0, jobs::RIGHT, "p", (token, start, 12 * SECOND)));
        })
    };
    assert_eq!(pair(17, 11 * SECOND), []);
    assert_eq!(pair(13, 11 * SECOND), [Promise::Lock], "a token that is smaller than that before");
    assert_eq!(pair(17, 9 * SECOND + SECOND / 2), [Promise::Lock, Promise::Alone], "an overlap");
    assert_eq!(pair(99, 11 * SECOND), [Promise::Lock], "a token from the future");
}

#[test]
fn callbacks_that_run_beside_each_other_are_found_but_for_processes_that_stood_still() {
    let beside = |doctor: fn(&mut History)| {
        broken(|history| {
            let mut other = second(20, 2 * SECOND + SECOND / 2, 6 * SECOND);
            other.end = Some((6 * SECOND, Fate::Failed));
            history.runs.push(other);
            doctor(history);
        })
    };
    assert_eq!(beside(|_| {}), [Promise::Alone]);
    assert_eq!(beside(|history| history.processes[0].frozen = vec![(2 * SECOND + 1, 20 * SECOND)]), []);
    let short =
        beside(|history| history.processes[0].frozen = vec![(2 * SECOND + 1, 2 * SECOND + SECOND / 10)]);
    assert_eq!(short, [Promise::Alone], "a lease outlives a short stop");
    assert_eq!(beside(|history| history.processes[0].killed = Some(2 * SECOND + 1)), []);
}

#[test]
fn a_lock_that_is_removed_by_hand_must_be_noticed_in_time() {
    let noticed = |end| {
        broken(|history| {
            history.runs[0].start = SECOND;
            history.runs[0].end = Some((end, Fate::Done));
            let mut other = second(20, 2 * SECOND, 2 * SECOND + SECOND / 2);
            other.end = Some((2 * SECOND + SECOND / 2, Fate::Failed));
            history.runs.push(other);
            history.by_hand.push(ByHand { at: SECOND + SECOND / 2, token: 11 });
        })
    };
    assert_eq!(noticed(4 * SECOND), []);
    assert_eq!(noticed(9 * SECOND), [Promise::Alone]);
}

#[test]
fn an_error_of_the_link_that_counts_as_an_attempt_is_found() {
    let next = |attempt| {
        broken(|history| {
            let mut first = run("0.1.6", 0, LOCKED, "c", (12, 10 * SECOND, 11 * SECOND));
            first.end = Some((11 * SECOND, Fate::Link));
            let mut second = run("0.1.7", 0, LOCKED, "c", (13, 12 * SECOND, 13 * SECOND));
            second.attempt = attempt;
            second.end = Some((13 * SECOND, Fate::Failed));
            history.runs.extend([first, second]);
        })
    };
    assert_eq!(next(1), []);
    assert_eq!(next(2), [Promise::Attempt]);
}

#[test]
fn a_callback_that_is_cancelled_while_etcd_answers_is_found() {
    assert_eq!(broken(cancelled), [Promise::Cancelled]);
    let excused: [fn(&mut History); 5] = [
        |history| without_answers(history, 15 * SECOND, 19 * SECOND),
        |history| history.by_hand.push(ByHand { at: 19 * SECOND, token: 12 }),
        |history| history.processes[0].frozen.push((14 * SECOND, 16 * SECOND)),
        |history| history.processes[0].asked_to_stop = Some(19 * SECOND),
        |history| history.runs.retain(|run| run.told.is_none()),
    ];
    for (number, excuse) in excused.into_iter().enumerate() {
        let promises = broken(|history| {
            cancelled(history);
            excuse(history);
        });
        assert_eq!(promises, [], "excuse {number}");
    }
    let too_short = broken(|history| {
        cancelled(history);
        without_answers(history, 15 * SECOND, 16 * SECOND);
    });
    assert_eq!(too_short, [Promise::Cancelled]);
    let slow = broken(|history| {
        cancelled(history);
        history.probes.iter_mut().for_each(|probe| probe.took = Some(2 * SECOND));
    });
    assert_eq!(slow, [], "an answer that takes longer than a fifth of the TTL is none");
}

#[test]
fn an_engine_that_says_ready_while_nobody_answers_is_found() {
    assert_eq!(broken(|history| without_answers(history, 5 * SECOND, 28 * SECOND)), [Promise::Health]);
    let told_so = broken(|history| {
        without_answers(history, 5 * SECOND, 28 * SECOND);
        history.health.extend([told(0, 15 * SECOND, "degraded"), told(1, 20 * SECOND, "degraded")]);
    });
    assert_eq!(told_so, []);
}

#[test]
fn what_is_left_drifts_grows_or_does_not_recover_is_found() {
    assert_eq!(broken(|history| history.left.push("a lease".to_owned())), [Promise::Left]);
    assert_eq!(broken(|history| history.processes[1].drift = Some(2)), [Promise::Drift]);
    assert_eq!(broken(|history| history.processes[1].memory = 300 << 20), [Promise::Memory]);
    assert_eq!(broken(|history| history.calm = None), [Promise::Recovery]);
}

#[test]
fn an_effect_in_another_cluster_is_found() {
    let foreign =
        |key: &str, seen| broken(|history| history.foreign.push(change(SECOND, 5, key.to_owned(), seen)));
    assert_eq!(foreign("/etcd-rules/faults/x", seen("")), [Promise::Foreign]);
    assert_eq!(foreign("/done/locked/a", seen("")), [Promise::Foreign]);
    assert_eq!(foreign("/etcd-rules/faults/x", None), []);
    assert_eq!(foreign("/observer/mark", seen("")), []);
}

#[test]
fn a_run_that_shows_nothing_is_found() {
    assert_eq!(broken(|history| history.felt.clear()), [Promise::Felt]);
    assert_eq!(broken(|history| history.felt[0].1 = 0), [Promise::Felt]);
    assert_eq!(
        broken(|history| history.broken.push("the cluster did not start".to_owned())),
        [Promise::Felt]
    );
    assert_eq!(broken(|history| history.epochs[0].revision = 9), [Promise::Felt], "a revision was missed");
    assert_eq!(broken(|history| history.epochs.clear()), [Promise::Felt]);
}

#[test]
fn the_time_to_recover_is_that_of_the_last_job_asked_before_the_end_of_the_fault() {
    let mut history = well();
    history.healed = 3 * SECOND + SECOND * 6 / 10;
    assert_eq!(recovery(&history), SECOND * 4 / 10);
}
