//! Rules and keys of the benchmarks in memory.

#![allow(dead_code, unreachable_pub, reason = "every benchmark is a crate of its own and takes a part")]

use etcd_rules::{Condition, Engine, Error, Firing, Outcome, Rule, Value, key};

/// An engine with `rules` rules of `leaves` leaves each. Each rule has keys of its own kind. The first leaf
/// tests a key that exists. The others are about absent keys, and hold.
pub fn engine(rules: usize, leaves: usize) -> Engine {
    let rule = |number: usize| {
        let own = |what: &str| format!("/app/kind-{number:05}/items/:id/{what}");
        let mut condition: Condition = key(own("state")).equals("active");
        for leaf in 1..leaves {
            condition = condition & key(own(&format!("done-{leaf}"))).absent();
        }
        Rule::new(format!("rule-{number}"))
            .when(condition)
            .run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) })
    };
    Engine::builder("bench", ["127.0.0.1:1"]).rules((0..rules).map(rule)).build().expect("correct rules")
}

/// Key number `n`. The keys are dealt out to the rules in turn.
pub fn item(n: usize, rules: usize) -> String {
    format!("/app/kind-{:05}/items/item-{:08}/state", n % rules, n / rules)
}

/// A value that makes no instance true.
pub fn value(n: usize) -> Value {
    Value::from(format!("idle-{:010}", n).into_bytes())
}
