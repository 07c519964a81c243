//! Which prefixes to watch: the smallest set that covers all patterns.

/// Watches of an engine at most. With more distinct prefixes the longest are watched by what they
/// have in common, up to a `/`, which delivers keys that nobody wants but keeps the streams few.
pub(crate) const MAX_WATCHES: usize = 32;

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

fn depth(prefix: &str) -> usize {
    prefix.split('/').filter(|segment| !segment.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

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
