//! The baseline of what is measured in memory: a hash map of the same keys and values, in the same order and batches.
//! It is frozen. Its source is named in the results, so that it shows if it is another one than it was.

#![allow(dead_code, unreachable_pub, reason = "every benchmark is a crate of its own and takes a part")]

use etcd_rules::Value;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::hint::black_box;

pub struct Baseline(HashMap<String, Value, FixedState>);

impl Baseline {
    pub fn new(items: impl Iterator<Item = (String, Value)>) -> Self {
        Self(items.collect())
    }

    /// Looks up each key, and puts its new value.
    pub fn put(&mut self, items: Vec<(String, Value)>) {
        for (key, value) in items {
            if let Some(known) = self.0.get_mut(&key) {
                *known = black_box(value);
            }
        }
    }
}
