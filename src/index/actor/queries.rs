//! Queries of what the index knows. Each takes a bounded time, so that it doesn't hold up changes.

use super::super::listing::{ListedInstance, Wanted};
use super::super::places::InstanceIndex;
use super::super::{Binding, RuleIndex};
use super::*;
use crate::change::Snapshot;

/// Asks for the values of a binding's keys, and for its instance if there is one.
#[derive(Message)]
#[rtype(result = "(Snapshot, Option<InstanceId>)")]
pub(crate) struct LookUp {
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
}

impl Handler<LookUp> for IndexActor {
    type Result = MessageResult<LookUp>;

    fn handle(&mut self, LookUp { rule, binding }: LookUp, ctx: &mut Self::Context) -> Self::Result {
        let mut found = (Snapshot::default(), None);
        guarded(self, ctx, |this, _| {
            found = (this.index.look_up(rule, &binding), this.index.find(rule, &binding));
        });
        MessageResult(found)
    }
}

/// Asks for a page of instances; see [`Index::list`].
#[derive(Message)]
#[rtype(result = "(Vec<ListedInstance>, Option<InstanceIndex>)")]
pub(crate) struct GetListed {
    pub(crate) from: InstanceIndex,
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) limit: usize,
}

impl Handler<GetListed> for IndexActor {
    type Result = MessageResult<GetListed>;

    fn handle(
        &mut self,
        GetListed { from, wanted, limit }: GetListed,
        _: &mut Self::Context,
    ) -> Self::Result {
        MessageResult(self.index.list(from, &wanted, limit))
    }
}

/// Sizes of the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexFigures {
    pub(crate) keys: usize,
    pub(crate) instances: usize,
    pub(crate) tombstones: usize,
    pub(crate) decided: u64,
    pub(crate) drift: u64,
    pub(crate) by_rule: Vec<usize>,
}

#[derive(Message)]
#[rtype(result = "IndexFigures")]
pub(crate) struct Figures;

impl Handler<Figures> for IndexActor {
    type Result = MessageResult<Figures>;

    fn handle(&mut self, _: Figures, _: &mut Self::Context) -> Self::Result {
        let counters = self.index.counters();
        MessageResult(IndexFigures {
            keys: self.index.keys(),
            instances: self.index.instances(),
            tombstones: self.index.tombstones(),
            decided: counters.decided,
            drift: counters.drift,
            by_rule: self.index.instances_by_rule().to_vec(),
        })
    }
}
