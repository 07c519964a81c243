//! How a firing goes in the little world: its callback, and what becomes of its transactions.

use super::super::super::work_queue::AfterCommit;
use super::*;

impl World {
    /// The callback begins; how it will end is decided now.
    pub(super) fn start(
        &mut self,
        id: u32,
        given: Snapshot,
        supersedes_backoff: Option<Revision>,
        fence: Option<Revision>,
    ) {
        let at = id as usize;
        let Controls { paused, dry_run, .. } = self.controls[rule_of(id) as usize];
        assert!(!paused && !dry_run, "{id} starts although its rule is paused, or in a dry run");
        self.started(id, rule_of(id) as usize);
        self.fired[at] += 1;
        self.completed[at] = false;
        self.dirty[at] = !self.etcd.keys[at].matches(&given);
        let mut effects = Vec::new();
        let mut finish = CallbackEnd::of(FiringOutcome::Done);
        if let Some(habit) = self.habit.clone() {
            (finish, effects) = (habit.finish, habit.effects);
            if let Some(delay) = habit.writes {
                self.later(delay, Event::Outside(Op::Put(id, Slot(0))));
            }
        } else if !self.calm {
            finish = match self.rng.random_range(0..15) {
                0 => CallbackEnd::of(FiringOutcome::Failed("no".into())),
                1 => CallbackEnd::of(FiringOutcome::Panicked("no".into())),
                2 => CallbackEnd::of(FiringOutcome::TimedOut),
                3 => CallbackEnd::of(FiringOutcome::Cancelled),
                4 => CallbackEnd::of(FiringOutcome::RetryAfter(ms(self.rng.random_range(0..300)))),
                5 => CallbackEnd::of(FiringOutcome::GaveUp("no".into())),
                6 => CallbackEnd::of(FiringOutcome::Failed("no".into())).after_link_errors(),
                _ => finish,
            };
            match self.rng.random_range(0..4) {
                0 => effects.push((Slot(0), true)),
                1 => effects.push((Slot(1), true)),
                2 => effects.extend([(Slot(0), self.rng.random_bool(0.5)), (Slot(1), false)]),
                _ => {}
            }
            if self.chance(20) {
                // A write beside the commit, by the callback or something it started.
                let delay = ms(self.rng.random_range(0..60));
                self.later(delay, Event::Outside(Op::Put(id, Slot(0))));
            }
        }
        self.runs.insert(id, Run { given, supersedes_backoff, finish, effects, fence });
        let takes = ms(if self.calm { 5 } else { self.rng.random_range(0..40) });
        self.later(takes, Event::RunEnds(id));
    }

    /// The answer to its lock's transaction arrives.
    pub(super) fn lock_back(&mut self, id: u32, answer: LockAnswer, given: Snapshot) {
        self.locking.retain(|other| *other != id);
        let LockAnswer { outcome, fence, changes } = answer;
        let supersedes_backoff = None;
        if !changes.is_empty() {
            self.send("feedback", Event::Learned(id, changes));
        }
        let won = outcome.is_won();
        let Controls { paused, dry_run, .. } = self.controls[rule_of(id) as usize];
        if won && (paused || dry_run) {
            // Its end is all that is left of it.
            let run = Run {
                given,
                supersedes_backoff,
                finish: CallbackEnd::of(FiringOutcome::Cancelled),
                effects: Vec::new(),
                fence,
            };
            self.runs.insert(id, run);
            return self.turn(|work, now, out| work.locked(instance(id), &outcome, now, out));
        }
        self.turn(|work, now, out| work.locked(instance(id), &outcome, now, out));
        if won {
            assert_eq!(self.work.record(instance(id)).map(|r| r.state.clone()), Some(State::Running));
            self.start(id, given, supersedes_backoff, fence);
        }
    }

    /// The transaction that ends it reaches etcd.
    pub(super) fn end_sent(&mut self, id: u32, closing: &Closing) {
        let (hold, effects) = match closing {
            Closing::Commit(hold) => (hold.clone(), self.runs[&id].effects.clone()),
            Closing::Unlock(hold) => (hold.clone(), Vec::new()),
            Closing::Nothing => panic!("nothing is left to be done for {id}, which runs"),
        };
        if self.chance(4) {
            return self
                .send("end", Event::EndBack(id, End(CommitOutcome::Refused("refused".into()), Vec::new())));
        }
        let lost = self.chance(4);
        let unknown = self.chance(4);
        let run = &self.runs[&id];
        let mut end = End(CommitOutcome::FenceLost, Vec::new());
        if !lost {
            end = self.etcd.end(id, run, &effects, hold.as_ref());
        }
        if let (false, Some(Hold { delay: Some(delay), .. })) = (lost, &hold)
            && let Some(revision) = self.etcd.mark_revision(id)
        {
            let late = Duration::from_millis(self.rng.random_range(2000..10_000));
            self.later(*delay + late, Event::MarkExpires(id, revision));
        }
        self.spread();
        if unknown {
            // It took effect or not; the answer does not come, or is that of a second one.
            let outcome = match end {
                End(CommitOutcome::Committed { .. }, _) if self.rng.random_bool(0.5) => {
                    committed(0, &[], false)
                }
                _ => CommitOutcome::Failed("no answer".into()),
            };
            end = End(outcome, Vec::new());
        }
        self.send("end", Event::EndBack(id, end));
    }

    /// The answer to that arrives.
    pub(super) fn end_back(&mut self, id: u32, end: End) {
        let End(outcome, changes) = end;
        let run = self.runs.remove(&id).expect("it runs");
        if !changes.is_empty() {
            self.send("feedback", Event::Learned(id, changes));
        }
        let mut after = AfterCommit::Over;
        self.turn(|work, now, out| after = work.closed(instance(id), &outcome, now, out));
        match after {
            AfterCommit::Over => {
                let returned =
                    !run.finish.outcome.is_failure() && run.finish.outcome != FiringOutcome::Cancelled;
                self.completed[id as usize] = returned && matches!(outcome, CommitOutcome::Committed { .. });
            }
            // It is tried with less.
            AfterCommit::GoesOn => drop(self.runs.insert(id, run)),
        }
    }
}
