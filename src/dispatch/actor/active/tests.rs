//! Tests of a firing under way: every step at every stage.

use super::*;
use crate::cancellation::Cancellation;
use crate::etcd::LeaseId;

/// Its steps don't look into transactions.
type Firing = ActiveFiring<(), ()>;

const CREATED: Revision = Revision::new(7);

fn sent() -> Sent<()> {
    Sent::Awaited(Box::new(()), Span::none())
}

fn optimistic() -> Firing {
    ActiveFiring::optimistic(Nonce(1), Span::none(), Keys::default(), None)
}

fn win(firing: &mut Firing) -> bool {
    let lease = LockLease { id: LeaseId::new(1), lost: Cancellation::new(), grace: Duration::from_secs(3) };
    firing.won(Fence { create_revision: CREATED }, lease, Keys::default())
}

/// Where a firing is, as far as it matters for what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The answer comes in a message.
    LockingAwaited,
    /// The answer was taken, or comes from a task.
    LockingTaken,
    Guarded,
    Running,
    CommittingAwaited,
    CommittingTaken,
}

const ALL: [At; 6] = [
    At::LockingAwaited,
    At::LockingTaken,
    At::Guarded,
    At::Running,
    At::CommittingAwaited,
    At::CommittingTaken,
];

impl At {
    fn of(firing: &Firing) -> Self {
        match &firing.stage {
            Stage::Locking(Sent::Awaited(..)) => At::LockingAwaited,
            Stage::Locking(Sent::WithTask) => At::LockingTaken,
            Stage::Guarded { .. } => At::Guarded,
            Stage::Running { .. } => At::Running,
            Stage::Committing { txn: Sent::Awaited(..), .. } => At::CommittingAwaited,
            Stage::Committing { txn: Sent::WithTask, .. } => At::CommittingTaken,
            Stage::Between => panic!("a step has left it between two stages"),
        }
    }

    /// A firing that has come here by its own steps.
    fn firing(self) -> Firing {
        let mut firing = ActiveFiring::with_lock(Nonce(1), Span::none(), sent());
        if self != At::LockingAwaited {
            assert!(firing.answer().is_some());
        }
        if !matches!(self, At::LockingAwaited | At::LockingTaken) {
            assert!(win(&mut firing));
        }
        if !matches!(self, At::LockingAwaited | At::LockingTaken | At::Guarded) {
            assert!(firing.run(Duration::MAX, Instant::now()).is_some());
        }
        if matches!(self, At::CommittingAwaited | At::CommittingTaken) {
            let done = Some(FiringOutcome::Done);
            assert!(firing.begin_commit(done, |_, _| (sent(), ())).is_some());
        }
        if self == At::CommittingTaken {
            assert!(firing.answer().is_some());
        }
        assert_eq!(At::of(&firing), self);
        firing
    }
}

/// A step: whether the firing takes it.
type Step = fn(&mut Firing) -> bool;

/// The name of a step, and which stages it leads from and to.
type Row<'t> = (&'static str, Step, &'t [(At, At)]);

#[test]
fn every_step_leads_from_the_stages_of_the_table_and_is_refused_at_all_others() {
    use At::*;
    let steps: [Row<'_>; 10] = [
        (
            "answer",
            |firing| firing.answer().is_some(),
            &[(LockingAwaited, LockingTaken), (CommittingAwaited, CommittingTaken)],
        ),
        (
            "lock again",
            |firing| firing.lock_again(Box::new(()), Span::none()),
            &[(LockingTaken, LockingAwaited)],
        ),
        ("won", win, &[(LockingTaken, Guarded)]),
        ("run", |firing| firing.run(Duration::MAX, Instant::now()).is_some(), &[(Guarded, Running)]),
        (
            "begin commit, with an answer in a message",
            |firing| firing.begin_commit(None, |_, _| (sent(), ())).is_some(),
            &[
                (Guarded, CommittingAwaited),
                (Running, CommittingAwaited),
                (CommittingTaken, CommittingAwaited),
            ],
        ),
        (
            "begin commit, with a task",
            |firing| firing.begin_commit(None, |_, _| (Sent::WithTask, ())).is_some(),
            &[(Guarded, CommittingTaken), (Running, CommittingTaken), (CommittingTaken, CommittingTaken)],
        ),
        (
            "commit ended",
            |firing| firing.commit_ended(&CommitOutcome::Unknown).is_some(),
            &[(CommittingTaken, CommittingTaken)],
        ),
        (
            "lost lock",
            |firing| {
                firing.lost_lock(CREATED);
                firing.cancelled
            },
            &[(Running, Running)],
        ),
        (
            "lost lock of another revision",
            |firing| {
                firing.lost_lock(CREATED.next());
                firing.cancelled
            },
            &[],
        ),
        (
            "cancel",
            |firing| {
                firing.cancel();
                firing.cancelled
            },
            &ALL.map(|at| (at, at)),
        ),
    ];
    for (name, step, table) in steps {
        for from in ALL {
            let mut firing = from.firing();
            let taken = step(&mut firing);
            let expected = table.iter().find(|(at, _)| *at == from).map(|(_, to)| *to);
            assert_eq!(taken, expected.is_some(), "{name} at {from:?}");
            assert_eq!(At::of(&firing), expected.unwrap_or(from), "{name} at {from:?}");
        }
    }
}

#[test]
fn what_is_asked_of_a_firing_depends_on_its_stage() {
    for at in ALL {
        let mut firing = at.firing();
        let locking = matches!(at, At::LockingAwaited | At::LockingTaken);
        let running = at == At::Running;
        assert_eq!(firing.is_guarded(), !locking, "{at:?}");
        let grace = if locking { UNLOCKED_GRACE } else { Duration::from_secs(3) };
        assert_eq!(firing.grace(), grace, "{at:?}");
        assert_eq!(firing.is_stuck(), running.then_some(false), "{at:?}");
        assert_eq!(
            firing.held_since(Instant::now()).map(|held| held.1),
            running.then_some(CREATED),
            "{at:?}"
        );
        let committing = matches!(at, At::CommittingAwaited | At::CommittingTaken);
        assert_eq!(firing.callback().is_some(), committing, "{at:?}");
        assert_eq!(
            firing.awaits_answer(),
            matches!(at, At::LockingAwaited | At::CommittingAwaited),
            "{at:?}"
        );
        firing.cancel();
        assert!(firing.held_since(Instant::now()).is_none(), "{at:?}: it was told to end");
    }
    let mut firing = optimistic();
    assert!(firing.is_guarded() && firing.run(Duration::MAX, Instant::now()).is_some());
    assert!(firing.held_since(Instant::now()).is_none(), "it has no lock");
}

#[test]
fn only_the_first_commit_has_the_keys_and_the_end_of_the_callback_stays() {
    let mut firing = At::Running.firing();
    let first =
        firing.begin_commit(Some(FiringOutcome::TimedOut), |_, keys| (Sent::WithTask, keys.is_some()));
    assert_eq!(first, Some(true));
    let next = firing.begin_commit(None, |_, keys| (Sent::WithTask, keys.is_some()));
    assert_eq!(next, Some(false));
    assert_eq!(firing.callback(), Some(&FiringOutcome::TimedOut));
}

#[test]
fn a_commit_that_etcd_refuses_takes_the_place_of_how_the_callback_ended() {
    let cases = [
        (CommitOutcome::Unknown, FiringOutcome::TimedOut),
        (CommitOutcome::FenceLost, FiringOutcome::TimedOut),
        (CommitOutcome::Failed("f".into()), FiringOutcome::TimedOut),
        (CommitOutcome::Refused("r".into()), FiringOutcome::Failed("r".into())),
        (CommitOutcome::TooLarge("l".into()), FiringOutcome::GaveUp("l".into())),
    ];
    for (outcome, expected) in cases {
        let mut firing = At::Running.firing();
        firing.begin_commit(Some(FiringOutcome::TimedOut), |_, _| (Sent::WithTask, ()));
        assert!(firing.commit_ended(&outcome).is_some());
        assert_eq!(firing.callback(), Some(&expected), "{outcome:?}");
    }
}

#[test]
fn a_callback_hears_that_it_was_told_to_end_also_if_that_was_before_it_began() {
    let mut before = optimistic();
    before.cancel();
    let run = before.run(Duration::MAX, Instant::now()).expect("it may run");
    assert!(run.token.is_cancelled());
    let mut after = optimistic();
    let run = after.run(Duration::MAX, Instant::now()).expect("it may run");
    assert!(!run.token.is_cancelled());
    after.cancel();
    assert!(run.token.is_cancelled());
    assert!(after.run(Duration::MAX, Instant::now()).is_none(), "it runs");
}

#[test]
fn an_answer_to_an_earlier_attempt_is_not_for_a_later_one_of_the_same_instance() {
    let instance = InstanceId { index: 1, generation: 1 };
    let mut firings = ActiveFirings::new(FixedState::with_seed(1));
    let of = |nonce| ActiveFiring::with_lock(Nonce(nonce), Span::none(), Sent::WithTask);
    firings.insert(instance, of(1));
    firings.remove(instance);
    firings.insert(instance, of(2));
    let found = [1, 2].map(|nonce| firings.awaited(Awaited { instance, nonce: Nonce(nonce) }).is_some());
    assert_eq!(found, [false, true]);
    assert_eq!(firings.nonces().collect::<Vec<_>>(), [Nonce(2)]);
}
