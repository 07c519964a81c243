//! What was seen of one run of a scenario, from the outside: the keys, the callbacks, the health that engines told, who
//! answered, and what was left. Everything that the checker knows.

use crate::moment::Micros;
use std::collections::BTreeMap;
use std::time::Duration;

/// Keys and their changes, from one snapshot on, of one store. A restored store is another epoch.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    pub cluster: u64,
    pub began: Micros,
    /// When the store was known to be gone; `None` for the last epoch.
    pub ended: Option<Micros>,
    /// The revision of the snapshot.
    pub revision: i64,
    pub snapshot: BTreeMap<Vec<u8>, Seen>,
    /// By revision, and within one in the order in which they were told.
    pub changes: Vec<Change>,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its bytes, as far as [`KEPT`].
    pub value: Vec<u8>,
    /// Of all of its bytes.
    pub sum: u64,
    pub lease: i64,
}

/// Of a longer value only the beginning is kept.
pub const KEPT: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub at: Micros,
    pub revision: i64,
    pub key: Vec<u8>,
    /// `None`: it was deleted.
    pub seen: Option<Seen>,
}

/// FNV-1a: tells whether a callback was shown a value as it was written.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// One run of a callback, as its engine reported it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Different for every run of every process.
    pub name: String,
    pub engine: usize,
    pub rule: String,
    pub id: String,
    /// What excludes others: rules may share it.
    pub lock: Option<String>,
    pub token: i64,
    pub attempt: u32,
    pub start: Micros,
    /// When it was told to end, as far as it noticed.
    pub told: Option<Micros>,
    /// `None`: its process ended first.
    pub end: Option<(Micros, Fate)>,
}

/// How a callback ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It returned its commit.
    Done,
    /// A read of its own failed, because of the link to etcd.
    Link,
    /// A read of its own was refused: no permission, or not with these credentials.
    Refused,
    /// It failed on purpose.
    Failed,
    /// It was told to end, and did.
    Cancelled,
    /// Its future was dropped.
    Dropped,
}

/// What an engine says of itself, from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub engine: usize,
    pub at: Micros,
    /// `ready`, `degraded` and so on.
    pub state: String,
    /// With its reasons.
    pub problems: Vec<String>,
}

/// A fresh client that asked one endpoint of an engine for a linearizable read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub engine: usize,
    /// Counted on: the endpoints of an engine are asked together.
    pub round: u64,
    pub at: Micros,
    /// How long the answer took; `None` if none came in time.
    pub took: Option<Micros>,
}

/// The life of one process of an engine.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub engine: usize,
    pub began: Micros,
    /// When it stood still, and until when.
    pub frozen: Vec<(Micros, Micros)>,
    pub asked_to_stop: Option<Micros>,
    pub killed: Option<Micros>,
    pub ended: Option<Micros>,
    /// Bytes of memory at its fullest.
    pub memory: u64,
    /// Differences that crawls had to repair, told at the end; `None` if it did not tell.
    pub drift: Option<u64>,
}

/// A lock or a lease that was removed from the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByHand {
    pub at: Micros,
    /// The lock's fencing token.
    pub token: i64,
}

/// What a scenario promises beyond what always holds.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// For how long all endpoints of an engine may be without an answer before a cancelled callback is excused. `None`:
    /// a fifth of the TTL and a second.
    pub tolerated_outage: Option<Duration>,
    /// Whether callbacks may be cancelled for another reason that the scenario has, such as a restored store.
    pub cancels: bool,
    /// How long the last recovery may take.
    pub recovery: Duration,
    /// The most that an engine may have in memory, in MiB.
    pub memory: u64,
}

impl Default for Expect {
    fn default() -> Self {
        Self { tolerated_outage: None, cancels: false, recovery: Duration::from_secs(60), memory: 256 }
    }
}

/// Everything about one run of a scenario.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub lock_ttl: Duration,
    pub epochs: Vec<Epoch>,
    /// Changes of stores that no engine should have used.
    pub foreign: Vec<Change>,
    pub runs: Vec<Run>,
    pub health: Vec<Told>,
    pub probes: Vec<Probe>,
    pub processes: Vec<Process>,
    pub by_hand: Vec<ByHand>,
    /// When the last fault was over.
    pub healed: Micros,
    /// When nothing was undone, and all engines were ready; `None` if that did not come within the time to recover.
    pub calm: Option<Micros>,
    /// What kept it from being calm.
    pub unrest: Vec<String>,
    /// What was left after the shutdown.
    pub left: Vec<String>,
    /// Proofs that the faults were felt, and how much.
    pub felt: Vec<(String, u64)>,
    /// What went wrong with the scenario itself.
    pub broken: Vec<String>,
}
