//! How a firing ends.

use super::*;

impl WorkQueue {
    /// The callback has ended: how its firing is to be closed.
    pub(crate) fn finished(&mut self, id: InstanceId, finish: &Finish, now: Instant) -> Closing {
        self.enter(id, State::Ending, now);
        let Some(record) = self.records.get_mut(&id) else { return Closing::Nothing };
        record.tried = match finish {
            Finish::Returned(_) => Tried::Commit,
            Finish::Failed(_) | Finish::Panicked(_) | Finish::TimedOut => Tried::Mark,
            Finish::Cancelled => Tried::Unlock,
        };
        let fail = |record: &mut InstanceRecord, error: String, rng: &mut StdRng, rules: &[CompiledRule]| {
            record.failures = record.failures.saturating_add(1);
            let delay =
                rules[record.rule as usize].options().backoff.delay(record.failures, rng).min(LONGEST);
            record.last_error = Some(error.as_str().into());
            record.end = Some(End::Failed(delay));
            Closing::Unlock(Some(Hold { attempt: record.failures, delay: Some(delay), error }))
        };
        match finish {
            Finish::Returned(Then::Done) => {
                record.end = Some(End::Done);
                Closing::Commit(None)
            }
            Finish::Returned(Then::RetryAfter(delay)) => {
                let delay = (*delay).clamp(RETRY_AFTER_MIN, LONGEST);
                record.end = Some(End::RetryAfter(delay));
                Closing::Commit(Some(Hold { attempt: 0, delay: Some(delay), error: String::new() }))
            }
            Finish::Returned(Then::GiveUp(reason)) => {
                record.end = Some(End::GaveUp);
                record.last_error = Some(reason.as_str().into());
                Closing::Commit(Some(Hold { attempt: record.failures, delay: None, error: reason.clone() }))
            }
            Finish::Failed(error) => fail(record, error.clone(), &mut self.rng, &self.rules),
            Finish::Panicked(text) => fail(record, format!("panicked: {text}"), &mut self.rng, &self.rules),
            Finish::TimedOut => fail(record, "the time limit was over".into(), &mut self.rng, &self.rules),
            Finish::Cancelled => {
                record.end = Some(End::Interrupted);
                Closing::Unlock(None)
            }
        }
    }

    /// The transaction was refused for a reason of its own: the firing failed after all. What is tried
    /// next contains less; after the last, [`Closing::Nothing`], and the firing is to be
    /// [closed](WorkQueue::closed) as failed.
    pub(crate) fn refused(&mut self, id: InstanceId, error: String, now: Instant) -> Closing {
        let Some(record) = self.records.get_mut(&id) else { return Closing::Nothing };
        match record.tried {
            Tried::Commit => self.finished(id, &Finish::Failed(error), now),
            Tried::Mark => {
                record.tried = Tried::Unlock;
                Closing::Unlock(None)
            }
            Tried::Unlock => Closing::Nothing,
        }
    }

    /// The transaction that closes a firing has ended.
    pub(crate) fn closed(
        &mut self,
        id: InstanceId,
        outcome: ClosingOutcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if record.state != State::Ending {
            return;
        }
        match outcome {
            ClosingOutcome::Closed { revision, slots, marked } => {
                record.mark = marked.then_some(KnownMark { revision, mine: true, outdated: false });
                record.committed(Own { revision, slots });
                if matches!(record.end, Some(End::Done | End::RetryAfter(_))) {
                    record.failures = 0;
                    record.troubles = 0;
                    record.last_error = None;
                }
            }
            ClosingOutcome::Lost { mark_gone } => {
                record.mark.take_if(|_| mark_gone);
                record.unfinished();
                record.end = Some(End::Interrupted);
            }
            ClosingOutcome::Failed(error) => {
                record.last_error = Some(error.into());
                record.unfinished();
                record.end = Some(End::Interrupted);
            }
            ClosingOutcome::Marked(found) => return self.hold_marked(id, found, now, out),
        }
        if record.has_seen_own() {
            let truth = record.truth();
            return self.settle_down(id, truth, &[], now, out);
        }
        self.asked += 1;
        let asked = self.asked;
        self.step(id, now, out, |record, _| {
            record.state = State::Settling(asked);
            Next::Stay
        });
        out.push(Action::Ask(id, asked));
    }

    /// It was decided again from a view that contains what its firing did.
    pub(super) fn settle_down(
        &mut self,
        id: InstanceId,
        truth: bool,
        touches: &[Touch],
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get(&id) else { return };
        let (lane, base) = (self.lane(record.rule), self.base(record.rule));
        self.step(id, now, out, |record, now| record.settled(truth, touches, base, now));
        if self.records.get(&id).is_some_and(|record| record.state == State::Idle) {
            self.stats.note(WorkqueueEvent::Ineffective(lane));
        }
    }
}
