//! How a firing ends.

use super::*;

/// Whether a firing is over after the answer to the transaction that was to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterCommit {
    Over,
    /// Another transaction, which contains less, is tried.
    GoesOn,
}

impl WorkQueue {
    /// The callback has ended: how its firing is to be closed.
    pub(crate) fn finished(&mut self, id: InstanceId, callback: &CallbackEnd, now: Instant) -> Closing {
        let Some(record) = self.records.get_mut(&id) else { return Closing::Nothing };
        let CallbackEnd { outcome, of_link } = callback;
        let (end, tried, closing) = match outcome {
            _ if *of_link => {
                record.last_error = outcome.error().map(Into::into);
                (AfterFiring::OfLink, EndTxn::Unlock, Closing::Unlock(None))
            }
            FiringOutcome::Done => (AfterFiring::Done, EndTxn::Commit, Closing::Commit(None)),
            FiringOutcome::RetryAfter(delay) => {
                let delay = (*delay).clamp(RETRY_AFTER_MIN, LONGEST);
                let hold = Hold { attempt: 0, delay: Some(delay), error: String::new() };
                (AfterFiring::RetryAfter(delay), EndTxn::Commit, Closing::Commit(Some(hold)))
            }
            FiringOutcome::GaveUp(reason) => {
                record.last_error = Some(reason.as_str().into());
                let hold = Hold { attempt: record.failures, delay: None, error: reason.clone() };
                (AfterFiring::GaveUp, EndTxn::Commit, Closing::Commit(Some(hold)))
            }
            FiringOutcome::Failed(_) | FiringOutcome::Panicked(_) | FiringOutcome::TimedOut => {
                let error = match outcome {
                    FiringOutcome::Failed(error) => error.clone(),
                    FiringOutcome::Panicked(text) => format!("panicked: {text}"),
                    _ => "the time limit was over".into(),
                };
                let backoff = self.rules[record.rule.index()].backoff();
                record.failures = record.failures.saturating_add(1);
                record.last_error = Some(error.as_str().into());
                let delay = backoff.delay(record.failures, &mut self.rng).min(LONGEST);
                let hold = Hold { attempt: record.failures, delay: Some(delay), error };
                (AfterFiring::Failed(delay), EndTxn::Mark, Closing::Unlock(Some(hold)))
            }
            FiringOutcome::Cancelled => (AfterFiring::Interrupted, EndTxn::Unlock, Closing::Unlock(None)),
        };
        self.commits(id, end, tried, now);
        closing
    }

    /// The lock is taken, but the callback is not to run any more: ends the firing without it.
    pub(super) fn give_up_lock(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        self.commits(id, AfterFiring::NotRun, EndTxn::Unlock, now);
        out.push(Action::Close(id, Closing::Unlock(None)));
    }

    fn commits(&mut self, id: InstanceId, end: AfterFiring, tried: EndTxn, now: Instant) {
        let mut effects = Vec::new();
        self.transition(id, now, &mut effects, |record, _| {
            record.state = State::Committing { end, tried, answer: AnswerState::Awaited };
            QueueAction::Stay
        });
        debug_assert!(
            effects.is_empty(),
            "it has its slot and its lock still, and is told of when it is over"
        );
    }

    /// The transaction that was to end a firing has this outcome.
    pub(crate) fn closed(
        &mut self,
        id: InstanceId,
        outcome: &CommitOutcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> AfterCommit {
        let Some(record) = self.records.get_mut(&id) else { return AfterCommit::Over };
        let State::Committing { end, tried, .. } = record.state else { return AfterCommit::Over };
        match (outcome, tried) {
            (CommitOutcome::Marked(found), _) => {
                self.hold_marked(id, found, now, out);
                return AfterCommit::Over;
            }
            // etcd refused the transaction itself, so the firing has failed. The next transaction contains
            // less.
            (CommitOutcome::Refused(error), EndTxn::Commit) => {
                let failed = CallbackEnd::of(FiringOutcome::Failed(error.clone()));
                let closing = self.finished(id, &failed, now);
                out.push(Action::Close(id, closing));
                return AfterCommit::GoesOn;
            }
            // Sending as much again never helps. The mark tells the other engines, and is small.
            (CommitOutcome::TooLarge(error), EndTxn::Commit) => {
                record.last_error = Some(error.as_str().into());
                let hold = Hold { attempt: record.failures, delay: None, error: error.clone() };
                self.commits(id, AfterFiring::GaveUp, EndTxn::Mark, now);
                out.push(Action::Close(id, Closing::Unlock(Some(hold))));
                return AfterCommit::GoesOn;
            }
            (CommitOutcome::Refused(_) | CommitOutcome::TooLarge(_), EndTxn::Mark) => {
                self.commits(id, end, EndTxn::Unlock, now);
                out.push(Action::Close(id, Closing::Unlock(None)));
                return AfterCommit::GoesOn;
            }
            _ => {}
        }
        if let CommitOutcome::Committed { revision, changes, .. } = outcome
            && self.rates.is_watching()
        {
            changes.iter().for_each(|change| self.rates.wrote(record.rule, change.key(), *revision));
        }
        let mut end = record.closed(outcome);
        let optimistic = self.rules[record.rule.index()].options().optimistic;
        if optimistic
            && matches!(outcome, CommitOutcome::Unexpected { mark_gone: false, .. })
            && record.refused_as_changed()
        {
            end = AfterFiring::NotRun;
        }
        if record.has_seen_own() {
            let truth = record.truth();
            self.decided_after_firing(id, end, truth, &[], now, out);
            return AfterCommit::Over;
        }
        self.asked = self.asked.next();
        let asked = self.asked;
        self.transition(id, now, out, |record, _| {
            record.state = State::AwaitingOwnEvent { asked, end };
            QueueAction::Stay
        });
        out.push(Action::Ask(id, asked));
        AfterCommit::Over
    }

    /// The instance was decided again, from a view that contains what its firing did.
    pub(super) fn decided_after_firing(
        &mut self,
        id: InstanceId,
        end: AfterFiring,
        truth: bool,
        touches: &[Touch],
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get(&id) else { return };
        let base = self.base(record.rule);
        let mut idle = None;
        self.transition(id, now, out, |record, now| {
            let next = record.after_firing(end, truth, touches, base, now);
            idle = matches!(record.state, State::Idle).then_some(record.lane);
            next
        });
        if let Some(lane) = idle {
            self.stats.event(WorkqueueEvent::Ineffective(lane));
        }
    }
}
