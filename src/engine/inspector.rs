//! Asks a running engine what it is doing. The index knows the instances, and the dispatcher what is done
//! about them.

use super::look_up;
use crate::change::Snapshot;
use crate::compiled::Binding;
use crate::compiled::{CompiledRule, Controls, Lane, RuleIndex};
use crate::condition::Explanation;
use crate::dispatch::actor::{
    ApplyControls, Dispatcher, FireNow, FleetSize, GetFleet, GetLanes, GetStatuses, GetTally,
};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::stats::LaneStats;
use crate::dispatch::work_queue::status::{InstanceStatus, LaneStatus};
use crate::error::EngineError;
use crate::index::InstanceId;
use crate::index::actor::{Figures, GetListed, IndexActor, LookUp};
use crate::index::listing::Wanted;
use crate::index::places::InstanceIndex;
use crate::inspect::{
    Cursor, Instance, InstanceExplanation, InstancePage, InstanceQuery, InstanceState, RuleStatus, StateKind,
    StateSet, Stats,
};
use crate::pattern::Attributes;
use crate::runtime::supervised::panic_text;
use actix::dev::ToEnvelope;
use actix::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an actor may take to answer. A user's comparison that blocks may hold it up.
const LOOK: Duration = Duration::from_secs(5);

/// How many instances the dispatcher is asked about at once, so that it isn't held up for long.
const CHUNK: usize = 256;

/// A page ends at so many bytes of attributes and errors, because who writes keys decides how long they are.
const PAGE: usize = 1 << 20;

/// See the [module](self). It works from any task while the actors exist.
pub(crate) struct Inspector {
    rules: Arc<[CompiledRule]>,
    index: Addr<IndexActor>,
    dispatcher: Addr<Dispatcher>,
    controls: RuleControls,
}

async fn ask<A, M>(actor: &Addr<A>, message: M) -> Result<M::Result, EngineError>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match timeout(LOOK, actor.send(message)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(EngineError::Stopped("the engine has ended or is restarting".into())),
        Err(_) => Err(EngineError::NoAnswer { within: LOOK }),
    }
}

impl Inspector {
    pub(crate) fn new(
        rules: Arc<[CompiledRule]>,
        index: Addr<IndexActor>,
        dispatcher: Addr<Dispatcher>,
        controls: RuleControls,
    ) -> Self {
        Self { rules, index, dispatcher, controls }
    }

    pub(crate) async fn stats(&self) -> Result<Stats, EngineError> {
        let index = ask(&self.index, Figures).await?;
        let tally = ask(&self.dispatcher, GetTally).await?;
        let fleet = self.fleet().await?;
        Ok(Stats {
            keys: index.keys,
            instances: index.instances,
            tombstones: index.tombstones,
            decisions: index.decided,
            drift: index.drift,
            queued: tally.get(StateKind::Queued),
            running: tally.get(StateKind::Running),
            waiting: tally.get(StateKind::Waiting),
            held: tally.get(StateKind::Held),
            given_up: tally.get(StateKind::GivenUp),
            would_fire: tally.get(StateKind::WouldFire),
            yielded: tally.get(StateKind::Yielded),
            idle: tally.get(StateKind::Idle),
            members: fleet.members,
            members_differing: fleet.differing,
        })
    }

    /// How many engines there are.
    pub(crate) async fn fleet(&self) -> Result<FleetSize, EngineError> {
        ask(&self.dispatcher, GetFleet).await
    }

    pub(crate) async fn rules(&self) -> Result<Vec<RuleStatus>, EngineError> {
        let mut known = ask(&self.index, Figures).await?.by_rule.into_iter();
        let lanes = ask(&self.dispatcher, GetLanes).await?;
        // Combinations of expanded attributes are one rule.
        let rules = self.rules.chunk_by(|a, b| a.id() == b.id());
        let status = |(rules, (_, lane)): (&[CompiledRule], (Lane, &LaneStatus))| {
            let known = known.by_ref().take(rules.len()).sum();
            rule_status(&rules[0], *lane, known)
        };
        Ok(rules.zip(lanes.iter()).map(status).collect())
    }

    pub(crate) async fn instances(&self, query: InstanceQuery) -> Result<InstancePage, EngineError> {
        let InstanceQuery { rule, states, attributes, limit, after } = query;
        let wanted = Arc::new(self.wanted(rule.as_deref(), &attributes)?);
        let mut instances = Vec::new();
        let mut bytes = 0;
        let mut from = InstanceIndex::new(after.map_or(0, |cursor| cursor.0 as usize));
        loop {
            let (listed, next) =
                ask(&self.index, GetListed { from, wanted: wanted.clone(), limit: CHUNK }).await?;
            let ids: Vec<InstanceId> = listed.iter().map(|listed| listed.id).collect();
            for (at, status) in self.look_at(ids, states, limit - instances.len()).await? {
                let found = &listed[at];
                let instance = self.instance(found.rule, &found.binding, status);
                bytes += instance.bytes();
                instances.push(instance);
                if instances.len() == limit || bytes >= PAGE {
                    let more = at + 1 < listed.len() || next.is_some();
                    let next = more.then(|| Cursor(found.id.index + 1));
                    return Ok(InstancePage { instances, next });
                }
            }
            match next {
                Some(next) => from = next,
                None => return Ok(InstancePage { instances, next: None }),
            }
        }
    }

    /// Fires one instance now.
    pub(crate) async fn fire_now(&self, rule: &str, attributes: &Attributes) -> Result<bool, EngineError> {
        let look_up::NamedInstance::Of(rule, binding) = look_up::find(&self.rules, rule, attributes)? else {
            return Ok(false);
        };
        let (_, id) = ask(&self.index, LookUp { rule, binding }).await?;
        let message = FireNow { instances: id.into_iter().collect(), states: StateSet::default() };
        Ok(ask(&self.dispatcher, message).await? > 0)
    }

    /// Fires all instances of a rule that were given up, and returns how many there are.
    pub(crate) async fn retry_given_up(&self, rule: &str) -> Result<usize, EngineError> {
        let wanted = Arc::new(self.wanted(Some(rule), &Attributes::new())?);
        let states = InstanceQuery::new().state(StateKind::GivenUp).states;
        let (mut count, mut from) = (0, Some(InstanceIndex::new(0)));
        while let Some(place) = from {
            let list = GetListed { from: place, wanted: wanted.clone(), limit: CHUNK };
            let (listed, next) = ask(&self.index, list).await?;
            let instances = listed.iter().map(|listed| listed.id).collect();
            count += ask(&self.dispatcher, FireNow { instances, states }).await?;
            from = next;
        }
        Ok(count)
    }

    /// Changes the controls of a rule.
    pub(crate) async fn change_controls(
        &self,
        rule: &str,
        change: impl FnOnce(&mut Controls),
    ) -> Result<(), EngineError> {
        self.controls.change(self.lane(rule)?, change);
        ask(&self.dispatcher, ApplyControls).await
    }

    fn lane(&self, rule: &str) -> Result<Lane, EngineError> {
        let lane = self.rules.chunk_by(|a, b| a.id() == b.id()).position(|rules| **rules[0].id() == *rule);
        lane.map(Lane::new).ok_or_else(|| EngineError::UnknownRule(rule.to_owned()))
    }

    pub(crate) async fn explain(
        &self,
        rule: &str,
        attributes: &Attributes,
    ) -> Result<InstanceExplanation, EngineError> {
        let (number, binding) = match look_up::find(&self.rules, rule, attributes)? {
            look_up::NamedInstance::Of(number, binding) => (number, binding),
            look_up::NamedInstance::Excluded(reason) => {
                let condition = Explanation::excluded(reason);
                return Ok(InstanceExplanation { condition, instance: None });
            }
        };
        let (snapshot, id) = ask(&self.index, LookUp { rule: number, binding: binding.clone() }).await?;
        let condition = explain(&self.rules[number.index()], &snapshot, &binding)?;
        let instance = match id {
            None => None,
            Some(id) => {
                let status = self.look_at(vec![id], StateSet::default(), 1).await?.pop();
                status.map(|(_, status)| self.instance(number, &binding, status))
            }
        };
        Ok(InstanceExplanation { condition, instance })
    }

    async fn look_at(
        &self,
        instances: Vec<InstanceId>,
        states: StateSet,
        limit: usize,
    ) -> Result<Vec<(usize, Option<InstanceStatus>)>, EngineError> {
        ask(&self.dispatcher, GetStatuses { instances, states, limit }).await
    }

    /// Selects instances with these values of attributes, of the rule with this id or of all rules.
    fn wanted(&self, id: Option<&str>, attributes: &Attributes) -> Result<Wanted, EngineError> {
        if let Some(id) = id {
            let rule = self.rules.iter().find(|rule| **rule.id() == *id);
            let rule = rule.ok_or_else(|| EngineError::UnknownRule(id.to_owned()))?;
            let unknown = |(name, _): &(&str, &str)| rule.all_attributes().all(|known| **known != **name);
            if let Some((name, _)) = attributes.iter().find(unknown) {
                return Err(EngineError::UnknownAttribute(name.to_owned()));
            }
        }
        let values = |rule: &CompiledRule| {
            let mut values = Vec::new();
            for (name, value) in attributes.iter() {
                let number = rule.attributes().iter().position(|known| **known == *name);
                match number {
                    Some(number) => values.push((number, value.to_owned())),
                    None if rule.fixed().any(|fixed| fixed == (name, value)) => {}
                    None => return None,
                }
            }
            Some(values)
        };
        let of_rule = |rule: &CompiledRule| id.is_none_or(|id| **rule.id() == *id);
        let wanted = self.rules.iter().map(|rule| if of_rule(rule) { values(rule) } else { None });
        Ok(Wanted(wanted.collect()))
    }

    fn instance(&self, rule: RuleIndex, binding: &Binding, status: Option<InstanceStatus>) -> Instance {
        let compiled = &self.rules[rule.index()];
        let untrue = InstanceStatus {
            state: InstanceState::Untrue,
            lasting: Duration::ZERO,
            failures: 0,
            last_error: None,
        };
        let InstanceStatus { state, lasting, failures, last_error } = status.unwrap_or(untrue);
        Instance {
            rule: compiled.id().clone(),
            attributes: compiled.attributes_of(binding),
            state,
            lasting,
            failures,
            last_error,
        }
    }
}

/// The user's comparisons run here too, and may panic.
fn explain(rule: &CompiledRule, snapshot: &Snapshot, binding: &Binding) -> Result<Explanation, EngineError> {
    let explaining = || rule.condition().explain(snapshot, |slot| rule.key(slot, binding));
    catch_unwind(AssertUnwindSafe(explaining)).map_err(|panic| EngineError::Comparison {
        rule: rule.id().to_string(),
        text: panic_text(&*panic).to_owned(),
    })
}

fn rule_status(rule: &CompiledRule, LaneStatus { controls, stats }: LaneStatus, known: usize) -> RuleStatus {
    let LaneStats { states: mut counts, fired, would_have_fired } = stats;
    // The two were asked one after the other.
    *counts.at(StateKind::Untrue) = known.saturating_sub(counts.all_true());
    RuleStatus {
        id: rule.id().clone(),
        condition: rule.condition_text().to_owned(),
        attributes: rule.all_attributes().cloned().collect(),
        optimistic: rule.options().optimistic,
        paused: controls.paused,
        dry_run: controls.dry_run,
        rate_limit: controls.rate_limit,
        min_interval: controls.min_interval,
        concurrency: rule.concurrency(),
        time_limit: rule.time_limit(),
        lock_ttl: rule.lock_ttl(),
        fired,
        would_have_fired,
        counts,
    }
}
