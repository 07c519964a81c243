//! Answers to those who ask what instances are doing, or want them fired. Each takes a bounded time, so that it holds up nothing.

use super::super::pending::look::{Look, RuleLook};
use super::*;
use crate::inspect::{StateCounts, StateKind, StateSet};

/// What all true instances are doing.
#[derive(Message)]
#[rtype(result = "StateCounts")]
pub(crate) struct GetTally;

impl Handler<GetTally> for Dispatcher {
    type Result = MessageResult<GetTally>;

    fn handle(&mut self, _: GetTally, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.pending.tally())
    }
}

/// What the true instances of each rule are doing.
#[derive(Message)]
#[rtype(result = "Vec<RuleLook>")]
pub(crate) struct GetRules;

impl Handler<GetRules> for Dispatcher {
    type Result = MessageResult<GetRules>;

    fn handle(&mut self, _: GetRules, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.pending.rules())
    }
}

/// Fires those of these instances now that are in one of the states, and answers how many it will.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct FireNow {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) states: StateSet,
}

impl Handler<FireNow> for Dispatcher {
    type Result = MessageResult<FireNow>;

    fn handle(&mut self, FireNow { instances, states }: FireNow, ctx: &mut Self::Context) -> Self::Result {
        let mut count = 0;
        self.turn(ctx, |this, now, out| {
            for id in instances {
                let kind = this.pending.record(id).map(|record| record.state.kind());
                if kind.is_some_and(|kind| states.contains(kind)) && this.pending.fire_now(id, now, out) {
                    count += 1;
                }
            }
        });
        MessageResult(count)
    }
}

/// What these instances are doing. The answer has, in their order, those that are in one of the states, with
/// their places among them; `None`: it is not true.
#[derive(Message)]
#[rtype(result = "Vec<(usize, Option<Look>)>")]
pub(crate) struct LookAt {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) states: StateSet,
    /// No more than this.
    pub(crate) limit: usize,
}

impl Handler<LookAt> for Dispatcher {
    type Result = MessageResult<LookAt>;

    fn handle(&mut self, LookAt { instances, states, limit }: LookAt, _: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        let kind = |id| self.pending.record(id).map_or(StateKind::Untrue, |record| record.state.kind());
        let wanted = instances.into_iter().enumerate().filter(|(_, id)| states.contains(kind(*id)));
        MessageResult(wanted.take(limit).map(|(at, id)| (at, self.pending.look(id, now))).collect())
    }
}
