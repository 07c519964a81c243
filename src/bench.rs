//! The path of a change without etcd, for the benchmarks in `benches/`. It is not part of the API.
#![allow(missing_docs)]

use crate::Engine;
use crate::change::{Change, KeyValue, Revision};
use crate::compiled::CompiledRule;
use crate::evaluate::{Verdict, decide_all};
use crate::index::{Decide, EvaluationOrder, Index, ViewPurpose, WatcherIndex};
use crate::value::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The index of an engine and its evaluator, without actors.
pub struct Decider {
    index: Index,
    rules: Arc<[CompiledRule]>,
    revision: Revision,
    orders: Vec<Decide>,
}

/// Changes, decoded as the watches hand them on, and the watchers that bring them.
pub struct Changes(Vec<Change>, BTreeSet<usize>);

impl Decider {
    /// Uses the rules of an engine, which isn't started.
    pub fn new(engine: &Engine) -> Self {
        let config = &engine.config;
        let index =
            Index::new(config.rules.clone(), config.watched.clone(), config.reserved(), config.env.hasher());
        Self { index, rules: config.rules.clone(), revision: Revision::new(1), orders: Vec::new() }
    }

    /// Takes the first snapshot in, and decides all instances that it implies. Returns how many are true.
    pub fn snapshot(&mut self, keys: impl IntoIterator<Item = (String, Value)>) -> usize {
        const PAGE: usize = 4096;
        const BUDGET: usize = 4096;
        let mut keys = keys.into_iter().peekable();
        let watchers = WatcherIndex::all(self.index.watchers());
        let views: Vec<_> =
            watchers.filter_map(|w| self.index.open_view(w, self.revision, ViewPurpose::Snapshot)).collect();
        while keys.peek().is_some() {
            let found = |(key, value): (String, Value)| KeyValue {
                key: key.into_bytes(),
                value,
                revision: self.revision,
            };
            // A view passes over the keys of other watchers.
            let mut pages: Vec<Vec<KeyValue>> = views.iter().map(|_| Vec::new()).collect();
            for (key, value) in keys.by_ref().take(PAGE) {
                if let Some(watcher) = self.index.watcher_of(&key) {
                    pages[watcher.index()].push(found((key, value)));
                }
            }
            for (view, page) in views.iter().zip(pages) {
                self.index.view_page(*view, page);
            }
        }
        for view in views {
            self.index.close_view(view);
        }
        let mut held = 0;
        while self.index.has_backlog() {
            self.index.work(BUDGET);
            held += self.drain();
        }
        held
    }

    /// Makes puts of these keys, each at a revision of its own.
    pub fn puts(&mut self, keys: impl IntoIterator<Item = (String, Value)>) -> Changes {
        let mut watchers = BTreeSet::new();
        let put = |(key, value): (String, Value)| {
            self.revision = self.revision.next();
            watchers.extend(self.index.watcher_of(&key).map(WatcherIndex::index));
            Change::Put { key: key.into_bytes(), value, revision: self.revision }
        };
        let changes = keys.into_iter().map(put).collect();
        Changes(changes, watchers)
    }

    /// Merges changes, and decides the instances that they concern. Returns how many are true.
    pub fn decide(&mut self, Changes(changes, watchers): Changes) -> usize {
        self.index.apply_all(changes);
        for watcher in watchers {
            self.index.advance(WatcherIndex::new(watcher), self.revision);
        }
        self.drain()
    }

    fn drain(&mut self) -> usize {
        self.index.drain(&mut self.orders);
        let orders = self.orders.drain(..).map(EvaluationOrder::Decide).collect();
        let mut count = 0;
        decide_all(&self.rules, orders, |decided| {
            count += usize::from(matches!(decided.verdict, Verdict::True(_)));
        });
        count
    }

    pub fn keys(&self) -> usize {
        self.index.keys()
    }

    pub fn instances(&self) -> usize {
        self.index.instances()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Firing, Outcome, Rule, key};

    #[test]
    fn keys_of_several_watchers_are_all_taken_in() {
        let rule = |number: usize| {
            let condition = key(format!("/kind-{number}/:id")).equals("x");
            let nothing = |_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) };
            Rule::new(format!("rule-{number}")).when(condition).run(nothing)
        };
        let engine = Engine::builder("bench", ["127.0.0.1:1"]).rules((0..3).map(rule)).build().unwrap();
        let mut decider = Decider::new(&engine);
        assert_eq!(decider.index.watchers(), 3);
        let keys = (0..30).map(|n| (format!("/kind-{}/{n}", n % 3), Value::from("x")));
        assert_eq!((decider.snapshot(keys), decider.keys(), decider.instances()), (30, 30, 30));
        let changes = decider.puts([("/kind-1/1".to_owned(), Value::from("x"))]);
        assert_eq!(decider.decide(changes), 1);
    }
}
