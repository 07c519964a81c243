//! What to watch: the fewest ranges of keys that cover all patterns.

use crate::compiled::CompiledRule;
use crate::condition::Slot;
use crate::pattern::KeyScope;
use std::cmp::Reverse;

/// The most watches of an engine. If there are more distinct prefixes, the longest ones are replaced by what
/// they have in common, up to a `/`. Such a watch also delivers keys that nobody wants, but it keeps the
/// streams few.
pub(crate) const MAX_WATCHES: usize = 32;

/// A range that is refused is replaced by up to this many.
const MAX_PARTS: usize = 256;

/// Ranges, none of which has keys of another, that cover all of these.
pub(crate) fn covering(ranges: impl Iterator<Item = KeyScope>, max: usize) -> Vec<KeyScope> {
    let mut all: Vec<KeyScope> = ranges.collect();
    loop {
        // A prefix stands before all that it covers, and what is between is covered too.
        all.sort_unstable_by(|a, b| a.text().cmp(b.text()).then_with(|| a.cmp(b)));
        all.dedup_by(|smaller, larger| larger.covers(smaller));
        if all.len() <= max {
            return all;
        }
        let deepest = all.iter().map(|range| depth(range.text())).max().unwrap_or(0);
        for range in all.iter_mut().filter(|range| depth(range.text()) == deepest) {
            let text = range.text();
            let parent = text.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            *range = KeyScope::Prefix(text[..parent].to_owned());
        }
    }
}

/// What to watch for these rules. Constraints narrow it, by as many characters as lead to at most `max` watches.
pub(crate) fn watched(rules: &[CompiledRule], max: usize) -> Vec<KeyScope> {
    let slots_of = |rule: &CompiledRule| (0..rule.slots().len()).map(Slot::new);
    let slots = || rules.iter().flat_map(|rule| slots_of(rule).map(move |slot| (rule, slot)));
    let constrained = || slots().filter_map(|(rule, slot)| rule.constraint_behind(slot));
    // Prefixes are narrowed not at all, or by the prefix of the constraint and this many characters.
    let deepest = constrained().map(|constraint| constraint.len() + 1).max().unwrap_or(0);
    for depth in (0..=deepest).rev() {
        let mut ranges = Vec::new();
        let narrowed = slots().try_for_each(|(rule, slot)| {
            let pattern = &rule.slots()[slot.index()];
            match rule.constraint_behind(slot).filter(|_| depth > 0) {
                None => ranges.push(pattern.scope()),
                Some(constraint) => {
                    let literal = pattern.literal_prefix();
                    let beginnings = constraint.beginnings(depth - 1, max)?;
                    let prefix = |beginning: &String| KeyScope::Prefix(format!("{literal}{beginning}"));
                    ranges.extend(beginnings.iter().map(prefix));
                }
            }
            Some(())
        });
        let ranges = covering(ranges.into_iter(), usize::MAX);
        if narrowed.is_some() && ranges.len() <= max {
            return ranges;
        }
    }
    covering(ranges(rules), max)
}

/// The ranges of all patterns, without regard to constraints.
pub(crate) fn ranges(rules: &[CompiledRule]) -> impl Iterator<Item = KeyScope> {
    rules.iter().flat_map(|rule| rule.slots()).map(|pattern| pattern.scope())
}

/// What the patterns need of a range. It is the range itself if a pattern needs all of it or more.
pub(crate) fn needed(rules: &[CompiledRule], range: &KeyScope) -> Vec<KeyScope> {
    let within = |of_pattern: KeyScope| match of_pattern.covers(range) {
        true => Some(range.clone()),
        false => Some(of_pattern).filter(|of_pattern| range.covers(of_pattern)),
    };
    let mut parts: Vec<KeyScope> = ranges(rules).filter_map(within).collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// Whether a range that is refused can be replaced by others that may not be.
pub(crate) fn splits_up(rules: &[CompiledRule], watched: &[KeyScope], range: &KeyScope) -> bool {
    let parts = needed(rules, range);
    parts.len() <= MAX_PARTS && parts.iter().any(|part| !watched.contains(part))
}

/// All ranges, but this one replaced by its parts. Of two that have a key the smaller one comes first: the key is its
/// own.
pub(crate) fn split(watched: &[KeyScope], refused: &KeyScope, parts: Vec<KeyScope>) -> Vec<KeyScope> {
    let mut all: Vec<KeyScope> = watched.iter().filter(|range| *range != refused).cloned().collect();
    all.extend(parts);
    let size = |range: &KeyScope| (matches!(range, KeyScope::Prefix(_)), Reverse(range.text().len()));
    all.sort_by(|a, b| size(a).cmp(&size(b)).then_with(|| a.cmp(b)));
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

    /// A key if it ends in `!`, else a prefix.
    fn range(text: &str) -> KeyScope {
        match text.strip_suffix('!') {
            Some(key) => KeyScope::Key(key.to_owned()),
            None => KeyScope::Prefix(text.to_owned()),
        }
    }

    fn ranges_of(texts: &[&str]) -> Vec<KeyScope> {
        texts.iter().map(|text| range(text)).collect()
    }

    #[test]
    fn the_smallest_set_covers_all() {
        for (all, expected) in [
            (
                vec!["/servers/", "/servers/internal/", "/config/enabled!"],
                vec!["/config/enabled!", "/servers/"],
            ),
            (vec!["/a!", "/a/b!", "/a!", "/ab!"], vec!["/a!", "/a/b!", "/ab!"]),
            (vec!["/a!", "/a", "/a/b!"], vec!["/a"]),
            (vec!["/a/x!", "/a/", "/a!", "/a/b/"], vec!["/a!", "/a/"]),
            (vec!["/a/b", "/a/", "/a/b/c/"], vec!["/a/"]),
            (vec!["", "/a/"], vec![""]),
            (vec!["/ab", "/a"], vec!["/a"]),
            (vec!["/b/", "/a/", "/b/"], vec!["/a/", "/b/"]),
        ] {
            assert_eq!(covering(ranges_of(&all).into_iter(), 32), ranges_of(&expected));
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
        for (refused, parts, splits) in [
            ("/s/", vec!["/s/", "/s/in/"], true),
            ("/", vec!["/s/", "/s/in/", "/t/", "/c/on!"], true),
            ("/t/", vec!["/t/"], false),
            ("/c/on!", vec!["/c/on!"], false),
            ("/c/", vec!["/c/on!"], true),
            // Narrowed by a constraint.
            ("/t/eu", vec!["/t/eu"], false),
        ] {
            let refused = range(refused);
            assert_eq!(needed(&rules, &refused), ranges_of(&parts));
            assert_eq!(splits_up(&rules, std::slice::from_ref(&refused), &refused), splits, "{refused}");
        }
        let (before, refused) = (ranges_of(&["/c/on!", "/s/", "/t/"]), range("/s/"));
        let after = split(&before, &refused, needed(&rules, &refused));
        assert_eq!(after, ranges_of(&["/c/on!", "/s/in/", "/s/", "/t/"]));
        assert!(!splits_up(&rules, &after, &refused), "it is what one of them needs");
    }

    #[test]
    fn too_many_prefixes_are_watched_by_what_they_share() {
        let many = |text: fn(usize) -> String| covering((0..100).map(|n| range(&text(n))), 32);
        assert_eq!(many(|n| format!("/apps/{n}/state/")), ranges_of(&["/apps/"]));
        assert_eq!(many(|n| format!("/apps/{n}!")), ranges_of(&["/apps/"]));
        assert_eq!(many(|n| format!("/{n}/")), ranges_of(&["/"]));
        assert_eq!(many(|n| format!("{n}/")), ranges_of(&[""]));
    }
}
