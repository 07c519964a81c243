//! Checks that threads, keys and leases are gone after a shutdown.

use std::time::Duration;

use super::{Etcd, eventually};

/// Linux keeps this many bytes of a thread's name.
const SHOWN_NAME: usize = 15;

/// The number of threads of this process whose name begins with `prefix`. Only its first 15 bytes are
/// compared.
///
/// Tests of one program share a process: give every engine of such a test a name of its own.
#[cfg(target_os = "linux")]
pub fn threads_named(prefix: &str) -> usize {
    let prefix = &prefix.as_bytes()[..prefix.len().min(SHOWN_NAME)];
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc lists the threads of this process");
    tasks
        .filter_map(Result::ok)
        // A thread that has ended since the listing has no name any more.
        .filter_map(|task| std::fs::read(task.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

/// Waits until no thread of this process has a name that begins with `prefix`. Panics if one stays.
#[cfg(target_os = "linux")]
pub async fn assert_threads_gone(prefix: &str, limit: Duration) {
    let what = format!("no thread named {prefix}…");
    eventually(limit, &what, async || threads_named(prefix) == 0).await;
}

/// Elsewhere threads can't be counted. A test that needs this fails, rather than passing without a check.
#[cfg(not(target_os = "linux"))]
pub fn threads_named(_prefix: &str) -> usize {
    panic!("threads can be counted on Linux only")
}

/// See [`threads_named`].
#[cfg(not(target_os = "linux"))]
pub async fn assert_threads_gone(_prefix: &str, _limit: Duration) {
    panic!("threads can be counted on Linux only")
}

/// Whether a key is the identity of an engine's store, which stays when the engine ends.
pub fn is_identity(key: &str) -> bool {
    let namespace = key.strip_prefix("/etcd-rules/").and_then(|rest| rest.strip_suffix("/identity"));
    namespace.is_some_and(|app| !app.is_empty() && !app.contains('/'))
}

/// Waits until etcd holds no key under `prefix` but identities, and no lease at all. Panics with what is left.
pub async fn assert_nothing_left(etcd: &Etcd, prefix: &str, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let (mut keys, leases) = (etcd.keys(prefix).await, etcd.leases().await);
        keys.retain(|key| !is_identity(key));
        if keys.is_empty() && leases.is_empty() {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "left in etcd after {limit:?}: keys {keys:?}, leases {leases:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
