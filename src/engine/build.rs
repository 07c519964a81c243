//! Checks everything that a builder was told, and makes the engine of it.

use super::builder::{EngineBuilder, NAMESPACES};
use crate::compiled::domain::DomainMistake;
use crate::compiled::{Limits, RuleError};
use crate::engine::Engine;
use crate::engine::check::{check_application, check_key_prefix, check_names, check_options, reserved, warn};
use crate::engine::config::{Config, EngineOptions};
use crate::engine::coverage::{MAX_WATCHES, covering, ranges, watched};
use crate::engine::endpoints::check_endpoints;
use crate::error::{BuildError, ConfigError};
use crate::etcd::{KeyPrefix, Target};
use crate::events::Events;
use crate::firing::layered;
use crate::limits::shown;
use crate::rule::compile;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

impl EngineBuilder {
    /// Checks the whole configuration, without a connection to etcd. Two things that are allowed but rarely
    /// meant are logged as warnings: a pattern that makes the engine watch all of etcd, and a rule with
    /// attributes that holds when none of its keys exists.
    ///
    /// # Errors
    /// [`BuildError`] with all mistakes: of the application's name, the options, the endpoints and every
    /// rule.
    pub fn build(self) -> Result<Engine, BuildError> {
        let mut mistakes = Vec::new();
        check_application(&self.application, &mut mistakes);
        mistakes.extend(check_options(&self.options));
        let options = self.options.bounded();
        let EngineOptions { lock_ttl, concurrency, max_txn_ops, settle, instance_rate, .. } = options;
        if self.channel.is_none() {
            check_endpoints(&self.endpoints, &mut mistakes);
        }
        if self.rules.is_empty() {
            mistakes.push(ConfigError::NoRule);
        }
        let mut ids = HashSet::new();
        for rule in &self.rules {
            if !ids.insert(rule.id().to_owned()) {
                mistakes.push(ConfigError::DuplicateRule(shown(rule.id())));
            }
        }
        let limits = Limits {
            max_txn_ops,
            lock_ttl,
            // No rule must hold up the others; one alone holds up nobody.
            concurrency: match options.rule_concurrency {
                Some(limit) => limit,
                None if self.rules.len() == 1 => concurrency,
                None => (concurrency / 2).max(1),
            },
            settle,
            instance_rate,
            defaults: options.defaults,
        };
        check_names(self.name.as_deref(), self.namespace.as_deref(), &mut mistakes);
        check_key_prefix(&self.key_prefix, &mut mistakes);
        let namespace = self.namespace.unwrap_or_else(|| format!("{NAMESPACES}{}/", self.application));
        let namespace = if namespace.ends_with('/') { namespace } else { format!("{namespace}/") };
        let mut used = BTreeSet::new();
        let (mut rules, mut callbacks) = (Vec::new(), Vec::new());
        for rule in self.rules {
            let id = shown(rule.id());
            used.extend(rule.attributes());
            let compiled = compile(rule, &self.domains, limits).and_then(|(compiled, callback)| {
                let reserved: Vec<RuleError> =
                    compiled.iter().flat_map(|rule| reserved(rule, &namespace)).collect();
                if reserved.is_empty() { Ok((compiled, callback)) } else { Err(reserved) }
            });
            match compiled {
                Ok((compiled, callback)) => {
                    warn(&compiled);
                    let callback = layered(callback, &self.layers);
                    callbacks.extend(compiled.iter().map(|_| callback.clone()));
                    rules.extend(compiled);
                }
                Err(errors) => {
                    mistakes.extend(
                        errors.into_iter().map(|error| ConfigError::Rule { rule: id.clone(), error }),
                    );
                }
            }
        }
        let domains = self.domains.mistakes(&used).into_iter();
        mistakes.extend(domains.map(|DomainMistake { option, attribute, reason }| ConfigError::Attribute {
            option,
            attribute,
            reason,
        }));
        if !mistakes.is_empty() {
            return Err(BuildError { errors: mistakes });
        }
        let watched = watched(&rules, MAX_WATCHES);
        let exact = covering(ranges(&rules), usize::MAX).len();
        if exact > MAX_WATCHES {
            tracing::warn!(
                exact,
                ?watched,
                "the patterns have more prefixes than are watched apart: wider ones are watched"
            );
        }
        let target = match self.channel {
            Some(channel) => Target::Channel(channel, self.connect_options),
            None => Target::Endpoints(self.endpoints, self.connect_options),
        };
        Ok(Engine {
            config: Config {
                engine: self.name.unwrap_or(self.application).into(),
                key_prefix: KeyPrefix::new(&self.key_prefix),
                namespace: namespace.into(),
                target,
                credentials: self.credentials,
                rules: Arc::from(rules),
                callbacks: Arc::from(callbacks),
                watched,
                events: Events::new(options.event_buffer),
                options,
                runtime: self.runtime,
                #[cfg(feature = "http")]
                observatory: self.observatory,
                env: self.env,
            },
        })
    }
}
