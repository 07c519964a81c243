//! What an engine would decide on given keys. It need not run, and no etcd is needed.

use super::Engine;
use super::config::Config;
use super::look_up::{NamedInstance, find};
use crate::change::{KeyValue, Revision, Seen, Snapshot};

use crate::compiled::CompiledRule;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Explanation;
use crate::error::EngineError;
use crate::index::{Decide, Index, ViewPurpose, WatcherIndex};
use crate::inspect::EvaluatedInstance;
use crate::pattern::Attributes;
use crate::pattern::KeyScope;
use crate::value::Value;
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// An instance on some keys.
pub(crate) struct OfflineInstance {
    /// The number of its rule.
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
    /// The values of its keys, by slot.
    pub(crate) snapshot: Snapshot,
}

impl OfflineInstance {
    pub(crate) fn explain(&self, rules: &[CompiledRule]) -> Explanation {
        let rule = &rules[self.rule.index()];
        rule.condition().explain(&self.snapshot, |slot| rule.key(slot, &self.binding))
    }
}

pub(crate) enum OfflineLookUp {
    At(OfflineInstance),
    /// An expansion or a constraint excludes it. This is the reason.
    Excluded(String),
}

impl Config {
    /// The instance that attributes name, with the values of its keys. Keys of namespaces are not visible.
    pub(crate) fn place(
        &self,
        rule: &str,
        attributes: &Attributes,
        seen: impl Fn(&str) -> Option<Seen>,
    ) -> Result<OfflineLookUp, EngineError> {
        let (number, binding) = match find(&self.rules, rule, attributes)? {
            NamedInstance::Of(number, binding) => (number, binding),
            NamedInstance::Excluded(reason) => return Ok(OfflineLookUp::Excluded(reason)),
        };
        let slots = self.rules[number.index()].slots().iter();
        let names: Vec<String> = slots.map(|slot| slot.format(attributes)).collect::<Result<_, _>>()?;
        let reserved = self.reserved();
        let visible = |name: &str| !reserved.iter().any(|namespace| name.starts_with(namespace.as_str()));
        let snapshot = names.iter().map(|name| seen(name).filter(|_| visible(name))).collect();
        Ok(OfflineLookUp::At(OfflineInstance { rule: number, binding, snapshot }))
    }
}

/// For tests of rules: what the engine would decide, with its expansions and constraints, if exactly these
/// keys existed.
impl Engine {
    /// Whether an instance of a rule is true on these keys, and why. Attributes that the rule doesn't have
    /// are ignored. If an [expansion](crate::EngineBuilder::expand) or a
    /// [constraint](crate::EngineBuilder::constrain) excludes the instance, the explanation says so.
    ///
    /// ```
    /// use etcd_rules::{Engine, Error, Firing, Rule, key};
    ///
    /// # async fn check(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/:geo/servers/:id").equals("new")).run(check))
    ///     .expand("geo", ["na", "eu"])
    ///     .build()?;
    /// let keys = [("/eu/servers/7", "new"), ("/us/servers/7", "new")];
    /// let found = engine.evaluate_on("check", &[("geo", "eu"), ("id", "7")].into(), keys)?;
    /// assert!(found.truth);
    /// let found = engine.evaluate_on("check", &[("geo", "us"), ("id", "7")].into(), keys)?;
    /// assert_eq!(found.to_string(), "✗ the value of :geo is one that the engine expands it to\n");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::UnknownRule`] if no rule has the id. [`EngineError::UnknownAttribute`] if one of the
    /// rule's attributes is not given. [`EngineError::Format`] if a value can't be part of a key.
    ///
    /// # Panics
    /// If a comparison function of the condition panics.
    pub fn evaluate_on<K: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        rule: &str,
        attributes: &Attributes,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Explanation, EngineError> {
        let keys: Vec<(K, V)> = keys.into_iter().collect();
        let values: HashMap<&str, &[u8]> =
            keys.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        let seen =
            |name: &str| Some(Seen { value: Value::from(*values.get(name)?), mod_revision: Revision::NONE });
        Ok(match self.config.place(rule, attributes, seen)? {
            OfflineLookUp::At(place) => place.explain(&self.config.rules),
            OfflineLookUp::Excluded(reason) => Explanation::excluded(reason),
        })
    }

    /// All instances of all rules that these keys imply, true or not. They are what an engine would find when
    /// it starts. They come in the order of the rules, and then of the attributes.
    ///
    /// ```
    /// use etcd_rules::{Engine, Error, Firing, Rule, key};
    ///
    /// # async fn check(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/servers/:id").equals("new") & key("/off").absent()).run(check))
    ///     .build()?;
    /// let found = engine.instances_on([("/servers/7", "new"), ("/servers/8", "old")]);
    /// let of = |n: usize| (found[n].attributes.to_string(), found[n].explanation.truth);
    /// assert_eq!([of(0), of(1)], [("id=7".to_owned(), true), ("id=8".to_owned(), false)]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Panics
    /// If a comparison function of a condition panics.
    pub fn instances_on<K: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<EvaluatedInstance> {
        let rules = &self.config.rules;
        let hasher = FixedState::with_seed(0);
        let mut index =
            Index::new(rules.clone(), vec![KeyScope::Prefix(String::new())], self.config.reserved(), hasher);
        let found = keys.into_iter().map(|(key, value)| KeyValue {
            key: key.as_ref().into(),
            value: value.as_ref().into(),
            revision: Revision::new(1),
        });
        let mut decided: Vec<Decide> = Vec::new();
        if let Some(view) = index.open_view(WatcherIndex::FIRST, Revision::new(1), ViewPurpose::Snapshot) {
            index.view_page(view, found.collect());
            index.close_view(view);
        }
        while index.has_backlog() {
            index.work(usize::MAX);
            index.drain(&mut decided);
        }
        let evaluated = |decide: Decide| {
            let rule = &rules[decide.rule.index()];
            let mut snapshot = decide.snapshot;
            // The revision is made up, so it is not shown.
            snapshot.iter_mut().flatten().for_each(|seen| seen.mod_revision = Revision::NONE);
            let explanation = rule.condition().explain(&snapshot, |slot| rule.key(slot, &decide.binding));
            let attributes = rule.attributes_of(&decide.binding);
            (decide.rule, EvaluatedInstance { rule: rule.id().to_string(), attributes, explanation })
        };
        let mut evaluated: Vec<_> = decided.into_iter().map(evaluated).collect();
        evaluated.sort_by(|(a, one), (b, other)| (a, &one.attributes).cmp(&(b, &other.attributes)));
        evaluated.into_iter().map(|(_, instance)| instance).collect()
    }
}
