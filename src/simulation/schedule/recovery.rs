//! The end of a schedule. All faults end. Then whatever is due must be done, every mirror must equal the
//! store, and engines that shut down must leave nothing behind.

use super::{Heal, NAMESPACE, Schedule, shut_down};
use crate::Health;
use crate::inspect::Stats;
use crate::simulation::checker;
use crate::simulation::history::{Event, History};
use crate::simulation::plan::PlanStep;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the remaining work may take once all faults are over.
const RECOVERY: Duration = Duration::from_secs(90);

impl Schedule {
    /// Ends all faults, and starts every engine.
    pub(super) async fn calm_down(&mut self) {
        let mut starts = Vec::new();
        for (_, later) in std::mem::take(&mut self.later) {
            match later {
                Heal::Start(machine) => starts.push(machine),
                Heal::Forget(_) => {}
                later => self.undo(later).await,
            }
        }
        self.faults.clear();
        // A restored backup may be from a time when etcd had no space.
        self.faults.set_no_space(false);
        for machine in starts {
            self.start(machine).await;
        }
        for running in self.machines.iter().flat_map(|machine| &machine.running) {
            // Two stalls that end at the same moment are undone as one, so undo them all.
            running.process.run_on();
            *running.poison.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
        self.quiesced.store(true, Ordering::SeqCst);
        self.history.add(Event::Quiesced);
    }

    /// Waits until everything that is due has been done.
    pub(super) async fn recover(&mut self) -> bool {
        let end = Instant::now() + RECOVERY;
        loop {
            sleep(Duration::from_millis(500)).await;
            let mut missing = self.history.look(|now, events| checker::missing(&self.plan, now, events));
            for running in self.machines.iter().filter_map(|machine| machine.running.as_ref()) {
                let health = running.handle.health();
                if health != Health::Ready {
                    missing.push(format!("engine {} is not well: {health}", running.life.engine));
                    continue;
                }
                match running.handle.stats().await {
                    Ok(Stats { queued, running: fired, waiting, held, tombstones, .. })
                        if queued + fired + waiting + held > 0 =>
                    {
                        missing.push(format!(
                            "engine {}: {queued} queued, {fired} running, {waiting} waiting, {held} held, {tombstones} tombstones",
                            running.life.engine
                        ));
                    }
                    Ok(_) => {}
                    Err(error) => missing.push(format!("engine {}: {error}", running.life.engine)),
                }
            }
            if missing.is_empty() {
                // A stream may have died silently. It takes a while until the engine notices.
                missing = self.mirrors().await;
            }
            if missing.is_empty() {
                return true;
            }
            if Instant::now() >= end {
                self.violate(format!(
                    "not done {RECOVERY:?} after all trouble was over: {}",
                    missing.join("; ")
                ));
                return false;
            }
        }
    }

    /// Returns where the mirrors of the engines differ from the store. Drift that a crawl had to repair is
    /// always wrong.
    async fn mirrors(&mut self) -> Vec<String> {
        let now = self.history.now();
        let (mut wrong, mut drift) = (Vec::new(), Vec::new());
        for running in self.machines.iter().filter_map(|machine| machine.running.as_ref()) {
            let engine = running.life.engine;
            let Ok(stats) = running.handle.stats().await else {
                wrong.push(format!("engine {engine} does not tell its figures"));
                continue;
            };
            let keys =
                now.keys.keys().filter(|key| self.plan.kinds.iter().any(|kind| kind.reads(key))).count();
            if stats.keys != keys {
                wrong.push(format!("engine {engine} has {} keys in memory, etcd {keys}", stats.keys));
            }
            if stats.drift > 0 {
                drift.push(format!("engine {engine} had to repair {} differences", stats.drift));
            }
            for (kind, id) in checker::instances(&self.plan, &now) {
                let attributes = kind.attributes().iter().copied().zip(id.iter().map(String::as_str));
                let attributes: Vec<_> = attributes.collect();
                let explained =
                    running.handle.explain(kind.name(), &attributes.iter().copied().collect()).await;
                match explained {
                    Ok(explained) => wrong.extend(checker::compare(engine, &explained.condition, &now)),
                    Err(error) => wrong.push(format!("engine {engine} explains nothing: {error}")),
                }
            }
        }
        // A crawl can't know of events that are delayed for longer than it waits.
        let delays = |act: &PlanStep| matches!(act, PlanStep::Inject(fault) if fault.delays_events());
        // Nor can an engine notice a backup whose revision has passed its position, if the last known change
        // is in the backup.
        let outgrown = self.plan.does(|act| *act == PlanStep::Restore) && self.plan.does(PlanStep::outgrows);
        let late = self.plan.does(delays) || outgrown;
        if wrong.is_empty() && !late {
            drift.into_iter().for_each(|text| self.violate(text));
        }
        wrong
    }

    /// Shuts down all engines, and checks that they leave nothing behind.
    pub(super) async fn end(&mut self, well: bool) {
        for machine in 0..self.machines.len() {
            let Some(running) = self.take(machine) else { continue };
            let process = running.process.clone();
            let ended = shut_down(running, Duration::from_secs(5), self.history.clone()).await;
            process.end();
            if well && let Err(error) = ended {
                self.violate(format!("engine {machine} does not shut down: {error}"));
            }
        }
        let identity = format!("{NAMESPACE}identity");
        let left = |history: &History| -> Vec<String> {
            let is_left = |key: &&String| key.starts_with(NAMESPACE) && **key != identity;
            history.look(|now, _| now.keys.keys().filter(is_left).cloned().collect())
        };
        if well && !self.crashed() && !left(&self.history).is_empty() {
            self.violate(format!("left behind by engines that were shut down: {:?}", left(&self.history)));
        }
        // Then wait until the leases of crashed engines, of marks, and of keys with a TTL have expired.
        sleep(Duration::from_secs(3 * 3600)).await;
        let leases = self.faults.leases();
        if !left(&self.history).is_empty() || !leases.is_empty() {
            self.violate(format!("left behind for ever: {:?}, leases {leases:?}", left(&self.history)));
        }
    }

    /// Whether an engine ended without a chance to clean up.
    fn crashed(&self) -> bool {
        self.plan.does(|act| {
            matches!(
                act,
                PlanStep::Crash(..)
                    | PlanStep::Drop(..)
                    | PlanStep::Shutdown(..)
                    | PlanStep::Poison(..)
                    | PlanStep::Restore
            )
        })
    }
}
