//! What other engines are told of this one, and what it learns of them.

use super::*;
use crate::fleet::announcer::{Announcement, WriteRefused};
use crate::fleet::member::{Abilities, MemberId, MemberLoad, Unable};
use crate::fleet::view::FleetView;
use crate::fleet::watcher::FleetNews;
use crate::health::status::Status;
use std::collections::{BTreeSet, HashSet};

/// For how long trouble lasts before others are told of it, and for how long it must be over.
const TROUBLE: Duration = Duration::from_secs(2);
const NO_TROUBLE: Duration = Duration::from_secs(5);

/// For how long its keys may be missing before they are put again.
const MISSING: Duration = Duration::from_secs(3);

/// What the dispatcher needs of the fleet.
pub(crate) struct Membership {
    pub(crate) me: MemberId,
    pub(crate) status: Status,
    pub(crate) announced: WatchCellSender<Announcement>,
    /// Between two crawls.
    pub(crate) interval: Duration,
}

/// What was said last, and why something else may soon be.
pub(super) struct Announcing {
    membership: Membership,
    /// Of an engine that nothing holds back.
    plain: Abilities,
    said: Announcement,
    draining: bool,
    /// What is said of a state, and since when the opposite has been so.
    troubled: Steady,
    throttled: Vec<Steady>,
    /// Since when its keys are missing among those of the members.
    missing: Option<Instant>,
    read_refused: bool,
    write_refused: bool,
    /// Members that have other rules.
    differing: BTreeSet<MemberId>,
}

/// A state that is told only when it lasts.
#[derive(Clone, Copy, Debug, Default)]
struct Steady {
    announced: bool,
    other_since: Option<Instant>,
}

impl Steady {
    fn see(&mut self, is: bool, now: Instant) -> bool {
        if is == self.announced {
            self.other_since = None;
        } else {
            let since = *self.other_since.get_or_insert(now);
            if now >= since + if is { TROUBLE } else { NO_TROUBLE } {
                *self = Self { announced: is, other_since: None };
            }
        }
        self.announced
    }
}

impl Announcing {
    pub(super) fn new(membership: Membership, engine: &Arc<str>, rules: &[CompiledRule]) -> Self {
        Self {
            membership,
            plain: Abilities::of(engine.clone(), rules),
            said: Announcement::default(),
            draining: false,
            troubled: Steady::default(),
            throttled: Vec::new(),
            missing: None,
            read_refused: false,
            write_refused: false,
            differing: BTreeSet::new(),
        }
    }
}

impl Dispatcher {
    /// Says what this engine can do now, and how busy it is. It is called at least once a second, because an engine
    /// that says nothing is taken to be stuck.
    pub(super) fn announce(&mut self, now: Instant) {
        if self.announcing.is_none() {
            return;
        }
        let load = self.work.measure_load(now);
        let backlog = self.work.backlog(now);
        let depths = self.work.depths(now);
        let Some(announcing) = &mut self.announcing else { return };
        let Membership { status, me, announced, .. } = &announcing.membership;
        if !status.has_decided_snapshots() {
            // Said all the same, as a sign of life.
            announced.set(announcing.said.clone());
            return;
        }
        self.work.snapshot_decided(now);
        let rules = &self.config.rules;
        let mut abilities = announcing.plain.clone();
        abilities.draining = announcing.draining;
        abilities.lagging = announcing.troubled.see(status.has_trouble(), now);
        announcing.throttled.resize(depths.iter().count(), Steady::default());
        let mut first = RuleIndex::default();
        for (lane, depth) in depths.iter() {
            let throttled = announcing.throttled[lane.index()].see(depth.throttled, now);
            let of_lane = rules.iter().enumerate().skip(first.index());
            let id = rules[first.index()].id();
            let of_lane: Vec<RuleIndex> =
                of_lane.take_while(|(_, rule)| rule.id() == id).map(|(at, _)| RuleIndex::new(at)).collect();
            first = RuleIndex::new(first.index() + of_lane.len());
            let unable = match depth {
                depth if depth.paused => Some(Unable::Paused),
                depth if depth.dry_run => Some(Unable::DryRun),
                _ if of_lane.iter().any(|rule| status.is_refused(*rule)) => Some(Unable::Refused),
                _ if throttled => Some(Unable::Throttled),
                _ => None,
            };
            if let Some(ability) = abilities.rules.get_mut(id) {
                ability.unable = unable;
            }
        }
        let view = self.work.view().map(FleetView::digest).unwrap_or_default();
        // Somebody may have deleted them.
        let is_member = self.work.view().is_some_and(|view| view.has(*me));
        announcing.missing = announcing.missing.or(Some(now)).filter(|_| !is_member);
        let said = &mut announcing.said;
        if announcing.missing.is_some_and(|since| now >= since + MISSING) {
            (announcing.missing, said.missing) = (None, said.missing + 1);
        }
        said.load = MemberLoad { class: load, view, backlog };
        if said.abilities.as_deref() != Some(&abilities) {
            said.abilities = Some(Arc::new(abilities));
        }
        announced.set(said.clone());
    }

    /// It is about to end: others are told before anything else.
    pub(super) fn announce_drain(&mut self) {
        if let Some(announcing) = &mut self.announcing {
            announcing.draining = true;
            self.announce(Instant::now());
        }
    }

    /// Whether there is advice, after one of the reasons against it has changed.
    fn heed_refusals(&mut self, now: Instant) {
        let Some(announcing) = &self.announcing else { return };
        if announcing.read_refused || announcing.write_refused {
            self.work.no_members(now);
        }
    }

    fn show_members(&mut self) {
        let (Some(view), Some(announcing)) = (self.work.view(), &mut self.announcing) else { return };
        let engine = &*self.config.engine;
        let mut differing = BTreeSet::new();
        for (id, member) in view.members() {
            let rules = match &member.abilities {
                Some(theirs) => announcing.plain.differing(theirs),
                None => vec!["what this version can't read"],
            };
            if !rules.is_empty() {
                differing.insert(id);
                if !announcing.differing.contains(&id) {
                    let other = view.name(id).map_or("?", |name| &**name);
                    tracing::warn!(engine, member = %id, other, ?rules, "an engine has other rules than this one");
                }
            }
        }
        if differing.is_empty() && !announcing.differing.is_empty() && view.len() > 0 {
            tracing::info!(engine, "all engines have the same rules again");
        }
        self.config.reports.meters.fleet(view.len(), differing.len());
        announcing.differing = differing;
    }

    pub(super) fn fleet_size(&self) -> FleetSize {
        let differing = self.announcing.as_ref().map_or(0, |announcing| announcing.differing.len());
        FleetSize { members: self.work.view().map_or(0, FleetView::len), differing }
    }

    /// Reads the keys of all locks and marks.
    pub(super) fn read_locks(&self, ctx: &Context<Self>) {
        let (etcd, namespace, me) =
            (self.config.etcd.client.clone(), self.config.keys.namespace.clone(), ctx.address());
        spawn_guarded(&self.config.reports.faults, Self::NAME, async move {
            let mut found = HashSet::new();
            for kind in ["lock/", "backoff/"] {
                match etcd.keys(&format!("{namespace}{kind}")).await {
                    Ok(keys) => found.extend(keys.into_iter().filter_map(|key| {
                        let key = String::from_utf8(key).ok()?;
                        key.strip_prefix(&*namespace).map(str::to_owned)
                    })),
                    Err(failure) => {
                        tracing::debug!(%failure, "locks not looked at");
                        let _ = me.send(LocksRead(None)).await;
                        return;
                    }
                }
            }
            // Closed: the engine is stopping or restarting.
            let _ = me.send(LocksRead(Some(found))).await;
        });
    }
}

impl Handler<FleetNews> for Dispatcher {
    type Result = ();

    fn handle(&mut self, news: FleetNews, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, _| {
            let Some(announcing) = &mut this.announcing else { return };
            announcing.read_refused = matches!(news, FleetNews::Refused);
            let write_refused = announcing.write_refused;
            match news {
                FleetNews::Members(view) if !write_refused => {
                    this.work.members(view, now);
                    this.announce(now);
                }
                FleetNews::Members(_) | FleetNews::Refused => {}
                FleetNews::Broken => this.work.members_unknown(now),
            }
            this.heed_refusals(now);
            this.show_members();
        });
    }
}

impl Handler<WriteRefused> for Dispatcher {
    type Result = ();

    fn handle(&mut self, WriteRefused(refused): WriteRefused, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, _| {
            if let Some(announcing) = &mut this.announcing {
                announcing.write_refused = refused;
            }
            this.heed_refusals(now);
            this.show_members();
        });
    }
}

/// Locks and marks that there are, without the namespace; `None`: they could not be read.
#[derive(Message)]
#[rtype(result = "()")]
struct LocksRead(Option<HashSet<String>>);

impl Handler<LocksRead> for Dispatcher {
    type Result = ();

    fn handle(&mut self, LocksRead(found): LocksRead, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| this.work.looked(found, now, out));
    }
}
