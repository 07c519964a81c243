//! Tests of the index: it is compared with a naive oracle, and its work is counted.

mod cases;
mod fan_out;
mod forms;
mod listing;
mod matching;
mod oracle;
mod properties;
mod world;

pub(crate) use properties::attack;

use super::*;
use crate::compiled::{Limits, RateLimit};
use crate::condition::Condition;
use crate::error::Error;
use crate::rule::Rule;
use std::time::Duration;

/// Rules with these conditions. Their numbers are their ids.
fn rules(conditions: impl IntoIterator<Item = Condition>) -> Arc<[CompiledRule]> {
    rules_showing(conditions.into_iter().map(|condition| (condition, Vec::new())))
}

/// Rules with these conditions, and what each shows besides. What its condition has is left out.
fn rules_showing(
    conditions: impl IntoIterator<Item = (Condition, Vec<&'static str>)>,
) -> Arc<[CompiledRule]> {
    let limits = Limits {
        max_txn_ops: 128,
        lock_ttl: Duration::from_secs(10),
        concurrency: 1,
        settle: Default::default(),
        instance_rate: RateLimit::OF_INSTANCES,
        defaults: Default::default(),
    };
    let compiled = |(number, (condition, shown)): (usize, (Condition, Vec<&str>))| {
        let own = condition.compile().expect("no mistakes").slots;
        let rule = Rule::new(number.to_string()).when(condition).run(async |_| Ok::<(), Error>(()));
        let shown = shown.into_iter().filter(|pattern| own.iter().all(|slot| slot.as_str() != *pattern));
        let rule = shown.fold(rule, |rule, pattern| rule.show(pattern));
        CompiledRule::alone(rule, limits).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    };
    conditions.into_iter().enumerate().map(compiled).collect()
}

/// An index with one watcher of everything.
fn index(conditions: impl IntoIterator<Item = Condition>) -> Index {
    Index::new(rules(conditions), vec![KeyScope::Prefix(String::new())], Vec::new(), FixedState::with_seed(1))
}

/// An index whose first snapshot, at revision 100, contained these keys. All instances that they imply are
/// decided.
fn ready(conditions: impl IntoIterator<Item = Condition>, keys: &[(&str, &str)]) -> Index {
    let mut index = index(conditions);
    let view = index
        .open_view(WatcherIndex::FIRST, Revision::new(100), ViewPurpose::Snapshot)
        .expect("a snapshot is never refused");
    assert!(index.view_page(view, keys.iter().map(|(key, value)| found(key, value, 100)).collect()));
    assert!(index.close_view(view));
    work_off(&mut index);
    assert!(index.is_ready() && index.take_closed().len() == 1);
    index
}

fn found(key: &str, value: &str, revision: i64) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), revision: Revision::new(revision) }
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change::Put { key: key.into(), value: value.into(), revision: Revision::new(revision) }
}

fn delete(key: &str, revision: i64, how: Deletion) -> Change {
    Change::Delete { key: key.into(), revision: Revision::new(revision), how }
}

const fn touch(slot: u8, revision: i64) -> Touch {
    (Slot(slot), Revision::new(revision))
}

/// What the watch delivers: changes, and the position after them.
fn deliver(index: &mut Index, changes: impl IntoIterator<Item = Change>) {
    let changes: Vec<Change> = changes.into_iter().collect();
    let position = changes.last().map_or(Revision::NONE, Change::revision);
    index.apply_all(changes);
    index.advance(WatcherIndex::FIRST, position);
}

fn drain(index: &mut Index) -> Vec<Decide> {
    let mut decided = Vec::new();
    index.drain(&mut decided);
    decided
}

/// Does everything that is due, and the whole backlog.
fn work_off(index: &mut Index) -> Vec<Decide> {
    let mut decided = drain(index);
    while index.has_backlog() {
        index.work(1024);
        index.drain(&mut decided);
    }
    decided
}

/// The values of the attributes of what was decided, sorted.
fn bindings(index: &Index, decided: &[Decide]) -> Vec<String> {
    let text = |decide: &Decide| {
        let count = index.rules[decide.rule.index()].attributes().len();
        (0..count).map(|at| decide.binding.get(at, count)).collect::<Vec<_>>().join(" ")
    };
    let mut all: Vec<String> = decided.iter().map(text).collect();
    all.sort_unstable();
    all
}

/// The value of a key in the mirror of an index.
fn value(index: &Index, key: &str) -> Option<String> {
    let entry = index.entry_of(key)?;
    index.mirror.present(entry).map(|(value, _)| value.to_string())
}
