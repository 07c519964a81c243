//! Which prefixes to watch: the smallest set that covers all patterns.

use crate::compiled::CompiledRule;

/// The most watches of an engine. If there are more distinct prefixes, the longest ones are replaced by what
/// they have in common, up to a `/`. Such a watch also delivers keys that nobody wants, but it keeps the
/// streams few.
pub(crate) const MAX_WATCHES: usize = 32;

/// A prefix that is refused is replaced by up to this many.
const MAX_PARTS: usize = 256;

/// Prefixes, none of which begins with another, that cover all of `prefixes`.
pub(crate) fn covering<'a>(prefixes: impl Iterator<Item = &'a str>, max: usize) -> Vec<String> {
    let mut all: Vec<String> = prefixes.map(str::to_owned).collect();
    loop {
        all.sort_unstable();
        all.dedup_by(|longer, shorter| longer.starts_with(shorter.as_str()));
        if all.len() <= max {
            return all;
        }
        let deepest = all.iter().map(|prefix| depth(prefix)).max().unwrap_or(0);
        for prefix in all.iter_mut().filter(|prefix| depth(prefix) == deepest) {
            let parent = prefix.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            prefix.truncate(parent);
        }
    }
}

/// The prefixes to watch for these rules. Constraints narrow them, by as many characters as lead to at most
/// `max` watches.
pub(crate) fn watched(rules: &[CompiledRule], max: usize) -> Vec<String> {
    let slots = || rules.iter().flat_map(|rule| (0..rule.slots().len()).map(move |slot| (rule, slot)));
    let constrained = || slots().filter_map(|(rule, slot)| rule.constraint_behind(slot));
    // Prefixes are narrowed not at all, or by the prefix of the constraint and this many characters.
    let deepest = constrained().map(|constraint| constraint.len() + 1).max().unwrap_or(0);
    for depth in (0..=deepest).rev() {
        let mut prefixes = Vec::new();
        let narrowed = slots().try_for_each(|(rule, slot)| {
            let literal = rule.slots()[slot].literal_prefix();
            match rule.constraint_behind(slot).filter(|_| depth > 0) {
                None => prefixes.push(literal.to_owned()),
                Some(constraint) => {
                    let beginnings = constraint.beginnings(depth - 1, max)?;
                    prefixes.extend(beginnings.iter().map(|beginning| format!("{literal}{beginning}")));
                }
            }
            Some(())
        });
        let prefixes = covering(prefixes.iter().map(String::as_str), usize::MAX);
        if narrowed.is_some() && prefixes.len() <= max {
            return prefixes;
        }
    }
    covering(literal_prefixes(rules), max)
}

/// The literal prefixes of all patterns, without regard to constraints.
pub(crate) fn literal_prefixes(rules: &[CompiledRule]) -> impl Iterator<Item = &str> {
    rules.iter().flat_map(|rule| rule.slots()).map(|pattern| pattern.literal_prefix())
}

/// The prefixes below this one that the patterns need. It is one of them if a pattern begins with it, and no more than
/// that.
pub(crate) fn needed(rules: &[CompiledRule], prefix: &str) -> Vec<String> {
    let within = |literal: &str| {
        let wide = prefix.starts_with(literal);
        (wide || literal.starts_with(prefix)).then(|| if wide { prefix } else { literal }.to_owned())
    };
    let mut parts: Vec<String> = literal_prefixes(rules).filter_map(within).collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// Whether a prefix that is refused can be replaced by others that may not be.
pub(crate) fn splits_up(rules: &[CompiledRule], prefixes: &[String], prefix: &str) -> bool {
    let parts = needed(rules, prefix);
    parts.len() <= MAX_PARTS && parts.iter().any(|part| !prefixes.contains(part))
}

/// All prefixes, but this one replaced by its parts. Of two that cover a key the longer one comes first: it has the key.
pub(crate) fn split(prefixes: &[String], refused: &str, parts: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = prefixes.iter().filter(|prefix| *prefix != refused).cloned().collect();
    all.extend(parts);
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all
}

fn depth(prefix: &str) -> usize {
    prefix.split('/').filter(|segment| !segment.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::Limits;
    use std::time::Duration;

    #[test]
    fn the_smallest_set_covers_all() {
        for (prefixes, expected) in [
            (
                vec!["/servers/", "/servers/internal/", "/config/enabled"],
                vec!["/config/enabled", "/servers/"],
            ),
            (vec!["/a/b", "/a/", "/a/b/c/"], vec!["/a/"]),
            (vec!["", "/a/"], vec![""]),
            (vec!["/ab", "/a"], vec!["/a"]),
            (vec!["/b/", "/a/", "/b/"], vec!["/a/", "/b/"]),
        ] {
            assert_eq!(covering(prefixes.into_iter(), 32), expected);
        }
    }

    #[test]
    fn a_prefix_that_is_refused_is_replaced_by_what_the_patterns_need() {
        let limits = Limits {
            max_txn_ops: 128,
            lock_ttl: Duration::from_secs(10),
            concurrency: 1,
            settle: Default::default(),
            instance_rate: crate::RateLimit::OF_INSTANCES,
            defaults: Default::default(),
        };
        let rule = |id: &str, pattern: &str| {
            let rule = crate::Rule::new(id).when(crate::key(pattern).exists());
            let rule = rule.run(async |_| Ok::<(), crate::Error>(()));
            CompiledRule::alone(rule, limits).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
        };
        let rules = [
            ("a", "/s/:id/state"),
            ("b", "/s/in/:id"),
            ("c", "/s/in/:id/x"),
            ("d", "/t/:id"),
            ("e", "/c/on"),
        ];
        let rules: Vec<CompiledRule> = rules.iter().map(|(id, pattern)| rule(id, pattern)).collect();
        for (prefix, parts, splits) in [
            ("/s/", vec!["/s/", "/s/in/"], true),
            ("/", vec!["/c/on", "/s/", "/s/in/", "/t/"], true),
            ("/t/", vec!["/t/"], false),
            ("/c/on", vec!["/c/on"], false),
            // Narrowed by a constraint.
            ("/t/eu", vec!["/t/eu"], false),
        ] {
            assert_eq!(needed(&rules, prefix), parts);
            assert_eq!(splits_up(&rules, &[prefix.to_owned()], prefix), splits, "{prefix}");
        }
        let before = ["/c/on", "/s/", "/t/"].map(str::to_owned);
        let after = split(&before, "/s/", needed(&rules, "/s/"));
        assert_eq!(after, ["/s/in/", "/c/on", "/s/", "/t/"]);
        assert!(!splits_up(&rules, &after, "/s/"), "it is what one of them needs");
    }

    #[test]
    fn too_many_prefixes_are_watched_by_what_they_share() {
        let many: Vec<String> = (0..100).map(|n| format!("/apps/{n}/state/")).collect();
        let found = covering(many.iter().map(String::as_str), 32);
        assert_eq!(found, ["/apps/"]);
        let scattered: Vec<String> = (0..100).map(|n| format!("/{n}/")).collect();
        assert_eq!(covering(scattered.iter().map(String::as_str), 32), ["/"]);
        let unrooted: Vec<String> = (0..100).map(|n| format!("{n}/")).collect();
        assert_eq!(covering(unrooted.iter().map(String::as_str), 32), [""]);
    }
}
