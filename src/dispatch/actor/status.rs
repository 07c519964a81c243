//! Answers to those who ask what instances are doing, or want them fired. Each takes a bounded time, so that it holds
//! up nothing.

use super::super::work_queue::status::{InstanceStatus, LaneStatus};
use super::*;
use crate::compiled::ByLane;
use crate::inspect::{StateCounts, StateKind, StateSet};

/// What all true instances are doing.
#[derive(Message)]
#[rtype(result = "StateCounts")]
pub(crate) struct GetTally;

impl Handler<GetTally> for Dispatcher {
    type Result = MessageResult<GetTally>;

    fn handle(&mut self, _: GetTally, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.work.tally())
    }
}

/// How many engines there are, as this one sees them. None, if it is no member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FleetSize {
    pub(crate) members: usize,
    /// Of them, those that have other rules.
    pub(crate) differing: usize,
}

#[derive(Message)]
#[rtype(result = "FleetSize")]
pub(crate) struct GetFleet;

impl Handler<GetFleet> for Dispatcher {
    type Result = MessageResult<GetFleet>;

    fn handle(&mut self, _: GetFleet, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.fleet_size())
    }
}

/// What the true instances of each rule are doing.
#[derive(Message)]
#[rtype(result = "ByLane<LaneStatus>")]
pub(crate) struct GetLanes;

impl Handler<GetLanes> for Dispatcher {
    type Result = MessageResult<GetLanes>;

    fn handle(&mut self, _: GetLanes, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.work.lane_statuses())
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
                let kind = this.work.record(id).map(|record| record.state.kind());
                if kind.is_some_and(|kind| states.contains(kind)) && this.work.fire_now(id, now, out) {
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
#[rtype(result = "Vec<(usize, Option<InstanceStatus>)>")]
pub(crate) struct GetStatuses {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) states: StateSet,
    /// No more than this.
    pub(crate) limit: usize,
}

impl Handler<GetStatuses> for Dispatcher {
    type Result = MessageResult<GetStatuses>;

    fn handle(
        &mut self,
        GetStatuses { instances, states, limit }: GetStatuses,
        _: &mut Self::Context,
    ) -> Self::Result {
        let now = Instant::now();
        let kind = |id| self.work.record(id).map_or(StateKind::Untrue, |record| record.state.kind());
        let wanted = instances.into_iter().enumerate().filter(|(_, id)| states.contains(kind(*id)));
        MessageResult(wanted.take(limit).map(|(at, id)| (at, self.work.status(id, now))).collect())
    }
}
