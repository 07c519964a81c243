//! What must hold when a callback begins: its condition, its lock, what it is shown, and that it is alone.

use super::*;

impl Checker<'_> {
    pub(super) fn began(&mut self, began: &Began) {
        let Began { run, life, kind, ref id, token, ref shown, .. } = *began;
        let name = format!("run {run} ({} {id:?})", kind.name());
        let shown_values: Vec<Option<&str>> = shown.iter().map(Option::as_deref).collect();
        if !kind.truth(&shown_values) {
            self.violate(format!("{name} was shown {shown:?}, for which its condition is false"));
        }
        // An optimistic rule may be shown a mixture: then its commit does not take effect.
        if kind != Kind::Optimistic && !self.replaced && !were_together(&self.changed, &kind.keys(id), shown)
        {
            self.violate(format!("{name} was shown {shown:?}, which were never there together"));
        }
        let before = (kind != Kind::Optimistic).then(|| self.taken.get(&token).cloned()).flatten();
        match &before {
            Some((before, _)) => self.locked(began, before, &name),
            None if kind == Kind::Optimistic => {}
            None => {
                self.violate(format!("{name} began under a lock that was never taken, of revision {token}"))
            }
        }
        self.alone(began, &name);
        self.is_fresh(began, &name);
        // Its task may have been just about to start.
        if self.paused.get(&(life, kind)).is_some_and(|since| self.at > *since + Duration::from_millis(1)) {
            self.violate(format!("{name} began although its rule is paused"));
        }
        let starts = self.starts.entry((life, kind, id.clone())).or_default();
        starts.push(self.at);
        let recent = starts.iter().rev().take_while(|at| self.at - **at < Duration::from_secs(1)).count();
        if recent == SPINNING {
            self.violate(format!("{name} is one of {SPINNING} within a second"));
        }
        self.running.insert(run);
        self.runs.insert(run, Run { began: began.clone(), at: self.at, ended: None });
    }

    /// Checks that the lock was taken while the condition held and no mark held the instance back.
    fn locked(&mut self, began: &Began, before: &Rc<Store>, name: &str) {
        let Began { kind, ref id, token, attempt, .. } = *began;
        if !kind.truth(&values(kind, id, before)) {
            self.violate(format!("{name}: its lock was taken while its condition was false"));
        }
        let instance: Vec<&str> = std::iter::once(kind.name()).chain(id.iter().map(String::as_str)).collect();
        let mark_key = format!("{NAMESPACE}backoff/{}", instance.join("/"));
        let Some(mark) = before.keys.get(&mark_key) else { return };
        if self.line.store.keys.get(&mark_key).is_some_and(|now| now.mod_revision == mark.mod_revision)
            && !self.replaced
        {
            return self.violate(format!("{name}: its lock was taken although a mark holds it back"));
        }
        // Somebody replaced the mark, because its time was over or a key changed.
        let mark_revision = mark.mod_revision;
        let text = mark.value.as_deref().unwrap_or_default();
        let mark: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let until = Duration::from_millis(mark["until"].as_u64().unwrap_or_default());
        let Some(&written) = self.marked.get(&mark_key) else { return };
        let last = self.runs.values().rev().find(|run| run.began.kind == kind && run.began.id == *id);
        let shown = last.map_or(&[][..], |run| &run.began.shown);
        let looked = last.and_then(|last| self.taken.get(&last.began.token)).map(|(_, looked)| *looked);
        // Find the first change after what the last run was shown. It has another value, or came after that
        // run looked, or shortly before if events may be delayed.
        let unheard = if self.plan.does(PlanStep::delays_events) { UNHEARD } else { Duration::ZERO };
        let since = |(slot, key): (usize, &String)| {
            let all = self.changed.get(key)?;
            let seen = |change: &(_, _, Option<String>)| shown.get(slot) == Some(&change.2);
            let other = all.iter().rposition(seen).map_or(0, |at| at + 1);
            let after = |change: &&(Duration, i64, _)| {
                looked.is_some_and(|looked| change.0 + unheard >= looked) && change.1 != mark_revision
            };
            let changes = all.get(other).into_iter().chain(all.iter().find(after));
            changes.map(|change| change.0).min()
        };
        // What is only shown wakes nobody.
        let keys = kind.keys(id);
        let own = keys.iter().enumerate().filter(|(slot, _)| !kind.is_only_shown(*slot));
        let changed = own.filter_map(since).min();
        let base = self.plan.options.backoff.0;
        let failed = mark["attempt"].as_u64().unwrap_or_default() > 0 && mark["gave_up"] != true;
        let earliest = match changed {
            Some(_) if !failed => return,
            Some(at) => until.min(at.max(written) + base),
            None => until,
        };
        const TOLERANCE: Duration = Duration::from_millis(5);
        if self.at + TOLERANCE < earliest && !self.replaced {
            self.violate(format!(
                "{name} (attempt {attempt}, lock {token}) began at {:?}, and was to be held back until {earliest:?}",
                self.at
            ));
        }
    }

    /// Checks that an instance never runs twice at once, a lock has one holder, and slots are limited.
    fn alone(&mut self, began: &Began, name: &str) {
        let Began { kind, ref id, life, .. } = *began;
        let mut wrong = Vec::new();
        let mut together = 1;
        for other in self.running.iter().map(|run| &self.runs[run].began) {
            let same_lock = match (kind.lock(), other.kind.lock()) {
                (Some(lock), Some(others)) => lock == others,
                _ => kind == other.kind && *id == other.id,
            };
            together += usize::from(other.life == life);
            if other.life == life && kind == other.kind && *id == other.id {
                wrong.push(format!("{name} began while run {} of the same instance ran", other.run));
            } else if same_lock && kind != Kind::Optimistic && !self.locks_taken {
                wrong.push(format!("{name} began while run {} had its lock", other.run));
            }
        }
        if together > self.plan.options.concurrency {
            wrong.push(format!("{name} is one of {together} at a time"));
        }
        wrong.into_iter().for_each(|text| self.violate(text));
    }

    /// Checks that what is shown is not older than the engine's own last commit for the instance.
    fn is_fresh(&mut self, began: &Began, name: &str) {
        let Began { kind, ref id, life, ref shown, .. } = *began;
        let Some(&own) = self.own.get(&(life, kind, id.clone())) else { return };
        let Some((slot, value)) = self.last_effect(life, kind, id) else { return };
        let key = kind.key(kind.slots()[slot], id);
        let changed_since = self.changed.get(&key).is_some_and(|all| all.iter().any(|(_, at, _)| *at > own));
        if !changed_since && shown[slot] != value {
            self.violate(format!(
                "{name} was shown {:?} for {key}, older than the engine's own {value:?}",
                shown[slot]
            ));
        }
    }

    fn last_effect(&self, life: EngineRun, kind: Kind, id: &[String]) -> Option<(usize, Option<String>)> {
        let run = self.runs.values().rev().find(|run| {
            let Began { life: its, kind: of, id: which, run, .. } = &run.began;
            (*its, *of) == (life, kind) && which == id && self.line.applied.contains_key(run)
        })?;
        kind.effect(run.began.run, &run.began.shown)
    }
}
