//! The keys that a firing reads and writes. They are formatted once for all of its steps.

use crate::compiled::{Beginning, Binding, CompiledRule};
use crate::condition::Slot;
use crate::runtime::reuse::Text;
use smallvec::SmallVec;

/// The keys of one instance in one string: its lock, its mark, and the keys of its condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    text: Text,
    /// The end of each key in the string.
    ends: SmallVec<[u32; 4]>,
    long: Option<Box<LongNames>>,
}

/// The beginnings of names that are too long for a key, and are replaced by their digests there.
#[derive(Clone, Debug, Default)]
struct LongNames {
    lock: Option<Beginning>,
    mark: Option<Beginning>,
}

/// The bytes that suffice for the keys of most instances.
const ROOM: usize = 256;

const LOCK: usize = 0;
const MARK: usize = 1;
const SLOTS: usize = 2;

impl Keys {
    pub(crate) fn of(rule: &CompiledRule, namespace: &str, binding: &Binding) -> Self {
        let mut keys = Self { text: Text::with_room(ROOM), ..Self::default() };
        let lock = rule.write_lock_key(namespace, binding, &mut keys.text);
        keys.end();
        let mark = rule.write_backoff_key(namespace, binding, &mut keys.text);
        keys.end();
        if lock.is_some() || mark.is_some() {
            keys.long = Some(Box::new(LongNames { lock, mark }));
        }
        for slot in 0..rule.slots().len() {
            rule.write_key(Slot::new(slot), binding, &mut keys.text);
            keys.end();
        }
        keys
    }

    #[cfg(test)]
    pub(crate) fn from_parts<'k>(
        lock: &'k str,
        mark: &'k str,
        slots: impl IntoIterator<Item = &'k str>,
    ) -> Self {
        let mut keys = Self::default();
        for key in [lock, mark].into_iter().chain(slots) {
            keys.text.push_str(key);
            keys.end();
        }
        keys
    }

    fn end(&mut self) {
        self.ends.push(self.text.len() as u32);
    }

    fn get(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.text[start..self.ends[at] as usize]
    }

    /// The key of its lock.
    pub(crate) fn lock(&self) -> &str {
        self.get(LOCK)
    }

    /// The key of its mark, which holds other engines back.
    pub(crate) fn mark(&self) -> &str {
        self.get(MARK)
    }

    /// The beginning of its lock's name, if the key has a digest in its place.
    pub(crate) fn long_lock(&self) -> Option<Beginning> {
        self.long.as_ref().and_then(|long| long.lock.clone())
    }

    /// The beginning of its mark's name, if the key has a digest in its place.
    pub(crate) fn long_mark(&self) -> Option<Beginning> {
        self.long.as_ref().and_then(|long| long.mark.clone())
    }

    /// The key of a slot of the condition.
    pub(crate) fn slot(&self, slot: Slot) -> &str {
        self.get(SLOTS + slot.index())
    }

    /// The keys of the condition, by slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &str> + Clone {
        (SLOTS..self.ends.len()).map(|at| self.get(at))
    }

    /// The lock, the mark, and the keys of the condition.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> + Clone {
        (0..self.ends.len()).map(|at| self.get(at))
    }
}
