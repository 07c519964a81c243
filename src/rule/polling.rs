//! Polling: a rule that fires again and again. A key with a TTL holds it back in between.

use std::time::Duration;

/// See [`Rule::poll`](super::Rule::poll).
#[derive(Clone, Debug)]
pub(crate) struct Polling {
    pub(crate) namespace: String,
    pub(crate) interval: Duration,
}

impl Polling {
    /// The pattern of the key that delays the next poll.
    pub(crate) fn key(&self) -> String {
        let namespace = self.namespace.trim_end_matches('/');
        let last = namespace.rsplit('/').next().unwrap_or_default();
        // A `*rest` must be the last segment, so nothing can be appended.
        if last.starts_with('*') { namespace.to_owned() } else { format!("{namespace}/ttl") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_key_lies_below_the_namespace() {
        for (namespace, key) in
            [("/poll/:id", "/poll/:id/ttl"), ("/poll/:id/", "/poll/:id/ttl"), ("/poll/*path", "/poll/*path")]
        {
            let polling = Polling { namespace: namespace.into(), interval: Duration::from_secs(1) };
            assert_eq!(polling.key(), key);
        }
    }
}
