//! Who tries an instance: this engine, or another one, which owns it. This is advice and never authority.
//!
//! - An instance that is due here and whose owner is another engine is [`Yielded`](State::Yielded): it takes no slot
//!   and tries no lock.
//! - When the members change, every such instance gets its owner anew, a bounded number a turn. Of an owner that is
//!   gone, or can't any more, it is live work. If the former owner goes on, it has seen to the instance: that is crawl
//!   work, spread over an interval. Unless it became due a moment ago: that one may have known already that it is
//!   not the owner any more.
//! - What an engine has begun with it goes on with, whoever owns it then: firings, and their retries and delays.
//! - For a moment after a change of the members, an engine also tries what it owned before: others may not have seen
//!   the change yet, and a change of a key may have come before it here and after it there.
//! - Owners say how they see the fleet. What belongs to one that has long seen it in another way, or of which
//!   nothing is heard, is looked for among the locks and marks, twice, and tried if it is not there.

use super::helping::Helping;
use super::*;
use crate::compiled::Binding;
use crate::fleet::load::{LoadClass, LoadGauge, Measured};
use crate::fleet::member::MemberId;
use crate::fleet::order::MemberOrder;
use crate::fleet::rendezvous::LockKeyHash;
use crate::fleet::view::FleetView;
use crate::mutants::{Mutant, is_active};
use rand::RngExt;
use std::collections::HashSet;

/// For so long after a change of the members an engine tries also what it owned before.
const GRACE: Duration = Duration::from_secs(2);

/// What became due within this time before an instance gets its owner anew is live work. It is more than the time
/// after which a silent watch is taken for dead.
const FRESH: Duration = Duration::from_secs(15);

/// Orders of former members that are remembered for that.
const FORMER: usize = 4;

/// Instances that get their owner anew in a turn.
const CHUNK: usize = 256;

/// Instances that are tried after one look at the locks.
const OVERDUE: usize = 10_000;

/// Lock TTLs between two looks.
const LOOKS: u32 = 3;

/// What the advice is made of.
pub(crate) struct FleetSettings {
    pub(crate) me: MemberId,
    /// Between two crawls: what is inherited from an engine that goes on is spread over it.
    pub(crate) interval: Duration,
}

pub(super) struct Owners {
    pub(super) settings: FleetSettings,
    /// The least lock TTL.
    ttl: Duration,
    pub(super) view: FleetView,
    /// The watch of the members is broken.
    broken: bool,
    /// `None`: there is no advice.
    pub(super) order: Option<Arc<MemberOrder>>,
    /// Orders that were replaced lately, and until when they count.
    former: VecDeque<(Instant, Arc<MemberOrder>)>,
    /// Instances that others own, by owner, from the oldest to the youngest.
    pub(super) placed: BTreeMap<MemberId, Waiting>,
    /// Of these the owners are to be found anew, and since when.
    stale: VecDeque<(MemberId, Waiting)>,
    stale_since: Option<Instant>,
    /// Members that see the fleet in another way, and since when.
    unconfirmed: BTreeMap<MemberId, Instant>,
    /// Those that did when the members last changed.
    doubts: BTreeMap<MemberId, Instant>,
    /// Since when all that the first snapshots made true has been decided. What was found before is not new.
    decided_since: Option<Instant>,
    next_look: Option<Instant>,
    /// The locks and marks that the last look found, and when it was.
    looked: Option<(Instant, HashSet<String>)>,
    load: LoadGauge,
    pub(super) helping: Helping,
    /// Reused for lock keys.
    pub(super) key: String,
}

pub(super) type Waiting = BTreeSet<(Instant, InstanceId)>;

impl Owners {
    pub(super) fn new(settings: FleetSettings, rules: &[CompiledRule]) -> Self {
        let ttl = rules.iter().map(CompiledRule::lock_ttl).min().unwrap_or(LONGEST);
        Self {
            settings,
            ttl,
            view: FleetView::default(),
            broken: false,
            order: None,
            former: VecDeque::new(),
            placed: BTreeMap::new(),
            stale: VecDeque::new(),
            stale_since: None,
            unconfirmed: BTreeMap::new(),
            doubts: BTreeMap::new(),
            decided_since: None,
            next_look: None,
            looked: None,
            load: LoadGauge::default(),
            helping: Helping::default(),
            key: String::new(),
        }
    }

    fn key_hash(&mut self, rule: &CompiledRule, binding: &Binding) -> LockKeyHash {
        self.key.clear();
        rule.write_lock_key("", binding, &mut self.key);
        LockKeyHash::of(&self.key)
    }

    /// The other engine that is to try the instance; `None`: this one is.
    pub(super) fn other(
        &mut self,
        rule: RuleIndex,
        compiled: &CompiledRule,
        binding: &Binding,
        now: Instant,
    ) -> Option<MemberId> {
        let order = self.order.as_ref().filter(|order| !order.is_alone())?.clone();
        let key = self.key_hash(compiled, binding);
        let me = self.settings.me;
        let owner = order.owner(rule, compiled, binding, key).filter(|owner| *owner != me)?;
        if is_active(Mutant::Yields) {
            return None;
        }
        let owned =
            |order: &MemberOrder| order.owner(rule, compiled, binding, key).is_none_or(|owner| owner == me);
        let lately = self.former.iter().any(|(until, order)| now < *until && owned(order));
        (!lately).then_some(owner)
    }

    fn is_able(&self, member: MemberId, rule: RuleIndex, compiled: &CompiledRule, binding: &Binding) -> bool {
        self.order.as_ref().is_some_and(|order| order.is_able(member, rule, compiled, binding))
    }

    /// An instance is another engine's since this time.
    pub(super) fn place(&mut self, owner: MemberId, since: Instant, id: InstanceId) {
        self.placed.entry(owner).or_default().insert((since, id));
    }

    /// It is so no more.
    pub(super) fn take(&mut self, owner: MemberId, since: Instant, id: InstanceId) {
        if let Some(placed) = self.placed.get_mut(&owner)
            && placed.remove(&(since, id))
        {
            if placed.is_empty() {
                self.placed.remove(&owner);
            }
            return;
        }
        self.stale.iter_mut().any(|(_, waiting)| waiting.remove(&(since, id)));
    }

    /// Whether a former owner may have left to this engine what became due then, because it knew earlier of the
    /// members that there are now.
    fn may_be_left(&self, former: MemberId, due: Instant, now: Instant) -> bool {
        let doubt = self.doubts.get(&former).is_some_and(|since| due >= *since);
        self.decided_since.is_some_and(|since| due >= since) && (doubt || now < due + FRESH)
    }

    /// There are other members, or none that give advice.
    fn reorder(&mut self, order: Option<Arc<MemberOrder>>, now: Instant) {
        if let Some(former) = std::mem::replace(&mut self.order, order) {
            self.former.retain(|(until, _)| now < *until);
            self.former.push_back((now + GRACE, former));
            if self.former.len() > FORMER {
                self.former.pop_front();
            }
        }
        let placed = std::mem::take(&mut self.placed);
        // What nobody sees to any more comes first.
        let (gone, there): (Vec<_>, Vec<_>) =
            placed.into_iter().partition(|(owner, _)| !self.view.has(*owner));
        for waiting in gone.into_iter().rev() {
            self.stale.push_front(waiting);
        }
        self.stale.extend(there);
        self.stale_since = (!self.stale.is_empty()).then_some(now);
    }

    fn confirm(&mut self, now: Instant) {
        let digest = self.view.digest();
        let Self { view, unconfirmed, settings, broken, .. } = self;
        unconfirmed.retain(|member, _| view.has(*member));
        for (member, _) in view.members().filter(|(member, _)| *member != settings.me) {
            if !*broken && view.load(member).view == digest {
                unconfirmed.remove(&member);
            } else {
                unconfirmed.entry(member).or_insert(now);
            }
        }
    }

    /// Owners that have not been known for this long to see the fleet as this engine does, if they own anything.
    fn doubtful(&self, since: Instant) -> impl Iterator<Item = MemberId> {
        let long = self.unconfirmed.iter().filter(move |(_, at)| **at <= since);
        long.map(|(member, _)| *member).filter(|member| self.placed.contains_key(member))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stale_since.into_iter().chain(self.next_look).chain(self.helping.deadline()).min()
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        let stale = self.stale.iter().map(|(_, waiting)| waiting.len()).sum::<usize>();
        self.placed.values().map(BTreeSet::len).sum::<usize>() + stale
    }
}

impl WorkQueue {
    /// Instances that others own.
    #[cfg(test)]
    pub(crate) fn placed(&self) -> usize {
        self.owners.as_ref().map_or(0, Owners::count)
    }

    /// The members are these, as far as is known.
    pub(crate) fn members(&mut self, view: FleetView, now: Instant) {
        let Some(owners) = &mut self.owners else { return };
        let same = owners.order.is_some() && owners.view.has_same_members(&view);
        if !same {
            owners.doubts = owners.unconfirmed.clone();
        }
        if same || !is_active(Mutant::StaleView) || owners.order.is_none() {
            owners.view = view;
        }
        owners.broken = false;
        owners.confirm(now);
        if !same {
            let order = MemberOrder::new(&owners.view, owners.settings.me, &self.rules);
            owners.reorder(Some(Arc::new(order)), now);
        }
        self.plan_look(now);
        self.plan_help(now);
    }

    /// All that the first snapshots made true has been decided.
    pub(crate) fn snapshot_decided(&mut self, now: Instant) {
        if let Some(owners) = &mut self.owners {
            owners.decided_since.get_or_insert(now);
        }
    }

    /// The watch of the members is broken: the last that were known count.
    pub(crate) fn members_unknown(&mut self, now: Instant) {
        let Some(owners) = &mut self.owners else { return };
        owners.broken = true;
        owners.confirm(now);
        self.plan_look(now);
    }

    /// This engine may not be a member, or not see them: it tries everything at once.
    pub(crate) fn no_members(&mut self, now: Instant) {
        let Some(owners) = &mut self.owners else { return };
        if owners.order.is_some() {
            owners.view = FleetView::default();
            owners.reorder(None, now);
            owners.former.clear();
            owners.helping = Helping::default();
        }
    }

    /// The members as they are seen.
    pub(crate) fn view(&self) -> Option<&FleetView> {
        self.owners.as_ref().map(|owners| &owners.view)
    }

    /// How busy this engine is.
    pub(crate) fn measure_load(&mut self, now: Instant) -> LoadClass {
        let (slots, taken) = (self.queue.limit(), self.queue.running());
        let records = &self.records;
        let mut oldest: Option<Instant> = None;
        self.queue.first_live(
            |entry| is_valid(records, entry),
            |entry| oldest = oldest.into_iter().chain([entry.since]).min(),
        );
        let waits = oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let measured = Measured { slots, taken, waits };
        self.owners.as_mut().map_or(LoadClass::Free, |owners| owners.load.measure(measured, now))
    }

    fn plan_look(&mut self, now: Instant) {
        let Some(owners) = &mut self.owners else { return };
        if owners.unconfirmed.is_empty() {
            (owners.next_look, owners.looked) = (None, None);
        } else if !is_active(Mutant::SafetyNet) {
            owners.next_look.get_or_insert(now + LOOKS * owners.ttl);
        }
    }

    /// Gives owners anew to some of those whose members have changed, and looks at the locks from time to time.
    pub(super) fn tend_owners(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.rerank(now, out);
        let Some(owners) = &mut self.owners else { return };
        if owners.next_look.is_some_and(|at| at <= now) {
            owners.next_look = Some(now + LOOKS * owners.ttl);
            let since = now.checked_sub(owners.ttl).unwrap_or(now);
            if owners.doubtful(since).next().is_some() {
                out.push(Action::ReadLocks);
            } else {
                owners.looked = None;
            }
        }
    }

    fn rerank(&mut self, now: Instant, out: &mut Vec<Action>) {
        for _ in 0..CHUNK {
            let Some(owners) = &mut self.owners else { return };
            let Some((was, waiting)) = owners.stale.front_mut() else {
                owners.stale_since = None;
                return;
            };
            let was = *was;
            let Some((since, id)) = waiting.pop_first() else {
                owners.stale.pop_front();
                continue;
            };
            owners.place(was, since, id);
            let Some(record) = self.records.get(&id) else { continue };
            let State::Yielded { until, .. } = record.state else { continue };
            if record.insists {
                continue;
            }
            let (rule, lane) = (record.rule, record.lane);
            let compiled = &self.rules[rule.index()];
            let owner = owners.other(rule, compiled, &record.binding, now);
            let able = owners.is_able(was, rule, compiled, &record.binding);
            let left = until.is_none() && owners.may_be_left(was, record.latency.due, now);
            let spread = owners.settings.interval;
            match owner {
                Some(owner) => self.transition(id, now, out, |record, _| record.defer(owner, None)),
                None if able && !left => {
                    let spread = spread.mul_f64(self.rng.random());
                    let until = until.unwrap_or(now + spread);
                    self.transition(id, now, out, |record, _| record.defer(was, Some(until)));
                }
                None => {
                    if !able {
                        self.stats.event(WorkqueueEvent::TakenOver(lane));
                    }
                    self.transition(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
                }
            }
        }
    }

    /// These locks and marks were there, without the namespace; `None`: they could not be read.
    pub(crate) fn looked(&mut self, found: Option<HashSet<String>>, now: Instant, out: &mut Vec<Action>) {
        let Some(owners) = &mut self.owners else { return };
        let before = std::mem::take(&mut owners.looked);
        let Some(found) = found else { return };
        let mut overdue = Vec::new();
        if let Some((then, before)) = before {
            let doubtful: Vec<MemberId> = owners.doubtful(then).collect();
            let waiting = doubtful.iter().filter_map(|owner| owners.placed.get(owner));
            let long = waiting.flat_map(|waiting| waiting.iter().take_while(|(since, _)| *since <= then));
            let mut key = String::new();
            for (_, id) in long.take(OVERDUE) {
                let Some(record) = self.records.get(id) else { continue };
                let rule = &self.rules[record.rule.index()];
                key.clear();
                rule.write_lock_key("", &record.binding, &mut key);
                let locked = before.contains(&key) || found.contains(&key);
                key.clear();
                rule.write_backoff_key("", &record.binding, &mut key);
                if !locked && !before.contains(&key) && !found.contains(&key) && !record.insists {
                    overdue.push(*id);
                }
            }
        }
        owners.looked = Some((now, found));
        for id in overdue {
            let Some(record) = self.records.get(&id) else { continue };
            let (State::Yielded { owner, .. }, rule, lane) = (&record.state, record.rule, record.lane) else {
                continue;
            };
            let Some(owners) = &mut self.owners else { return };
            // In the order of all who might, and all of them within a lock TTL.
            let compiled = &self.rules[rule.index()];
            let key = owners.key_hash(compiled, &record.binding);
            let ranked =
                owners.order.as_ref().map(|order| order.ranked(rule, compiled, &record.binding, key));
            let ranked = ranked.unwrap_or_default();
            let me = owners.settings.me;
            let rank = ranked.iter().position(|member| *member == me).unwrap_or(ranked.len());
            let wait = owners.ttl.mul_f64(rank.saturating_sub(1) as f64 / (ranked.len().max(1)) as f64);
            let owner = *owner;
            self.stats.event(WorkqueueEvent::Overdue(lane));
            self.transition(id, now, out, |record, now| {
                record.insists = true;
                record.defer(owner, Some(now + wait))
            });
        }
    }
}
