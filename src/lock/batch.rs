//! Decides which queued transactions travel together.
//!
//! A transaction costs etcd far more than the few keys it touches. So transactions that queue up while
//! earlier requests are in flight share a request: they are nested in one outer transaction, which has no
//! compares of its own. Each nested transaction decides by itself. But *all compares see the state before the
//! request*. So within one request no entry may read a key that another writes, and no key may be written
//! twice.
//!
//! - An entry never overtakes an earlier entry of its class that it conflicts with. [`Class::Ending`] goes
//!   before [`Class::Lock`].
//! - An entry that was passed over because of a conflict comes first in the next batch.
//! - Requests that are in flight at the same time may conflict, because each is a transaction of its own.
//! - While puts are held, entries with puts keep their places and block nobody.

use foldhash::quality::FixedState;
use smallvec::SmallVec;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

/// The bytes that nesting adds to an entry: the tags and lengths around it.
const NESTING_BYTES: usize = 32;

/// The hash of a key, which stands for it. Keys with the same hash travel in separate requests, which does no
/// harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    /// The hash of a key.
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(FixedState::default().hash_one(key))
    }
}

/// The keys that an entry touches, and the room it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Footprint {
    /// Keys compared or read.
    pub(crate) reads: SmallVec<[KeyHash; 4]>,
    /// Keys put or deleted.
    pub(crate) writes: SmallVec<[KeyHash; 4]>,
    /// The largest of three numbers: compares, operations on success, and operations on failure.
    pub(crate) operations: usize,
    /// Size of the request.
    pub(crate) request_bytes: usize,
    /// Estimated size of the response.
    pub(crate) response_bytes: usize,
    /// Whether it contains a put or needs a lease. etcd refuses such an entry while it has no space.
    pub(crate) puts: bool,
    /// Whether it must be sent alone, because its rule was refused for lack of permission.
    pub(crate) solo: bool,
}

/// The size of a request that etcd takes by default (`--max-request-bytes`).
pub(crate) const MAX_REQUEST_BYTES: usize = 3 << 19;

/// Limits of requests, and of how many are in flight.
#[derive(Clone, Debug)]
pub(crate) struct BatchLimits {
    /// Requests in flight at once. The default is 4. With more, fewer entries share a request.
    pub(crate) in_flight: usize,
    /// Entries in a request. Default 64.
    pub(crate) entries: usize,
    /// The operations that etcd accepts in a transaction (`--max-txn-ops`). A nested level is counted on top
    /// of the outer one. The default is 128. If it is more than etcd's limit, requests are rejected.
    pub(crate) operations: usize,
    /// Size of a request. Default 1 MiB; etcd rejects more than 1.5 MiB.
    pub(crate) request_bytes: usize,
    /// The largest request that etcd takes. What is larger by itself is not sent. Default 1.5 MiB, which is etcd's.
    pub(crate) max_request_bytes: usize,
    /// Estimated size of a response. Default 16 MiB.
    pub(crate) response_bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            in_flight: 4,
            entries: 64,
            operations: 128,
            request_bytes: 1 << 20,
            max_request_bytes: MAX_REQUEST_BYTES,
            response_bytes: 16 << 20,
        }
    }
}

impl BatchLimits {
    /// Limits with these numbers of operations in a transaction and entries in a request. With smaller
    /// requests more of them may be in flight, so that the number of entries in flight stays about the same.
    pub(crate) fn new(operations: usize, entries: usize, max_request_bytes: usize) -> Self {
        let limits = Self::default();
        let in_flight = limits.in_flight * (limits.entries / entries.max(1)).clamp(1, 16);
        // With room for what is around the entries.
        let request_bytes = limits.request_bytes.min(max_request_bytes / 3 * 2);
        Self { in_flight, entries: entries.max(1), operations, request_bytes, max_request_bytes, ..limits }
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Ends a firing by a commit or unlock. It goes first, because others wait for the lock.
    Ending,
    /// Takes the lock for a firing.
    Lock,
}

/// The keys that most entries read, and that most entries write, fit into this number.
const KEYS: usize = 4;

/// Identifies a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightId(u64);

/// Entries to be sent as one request. Keep it until the answer is there, because it may have to be put back.
#[derive(Debug)]
#[must_use = "its entries are lost if it is not sent"]
pub(crate) struct Batch<E> {
    flight: FlightId,
    entries: Vec<Queued<E>>,
}

impl<E> Batch<E> {
    /// The flight that it occupies until [`Batcher::landed`].
    pub(crate) fn flight(&self) -> FlightId {
        self.flight
    }

    /// The entries, in the order in which etcd executes them.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &E> + Clone {
        self.entries.iter().map(|queued| &queued.entry)
    }

    /// The entries, to be answered.
    pub(crate) fn into_entries(self) -> impl ExactSizeIterator<Item = E> {
        self.entries.into_iter().map(|queued| queued.entry)
    }

    /// Removes entries that are not wanted any more, and returns them.
    pub(crate) fn take_out(&mut self, unwanted: impl Fn(&E) -> bool) -> Vec<E> {
        if !self.entries().any(&unwanted) {
            return Vec::new();
        }
        let (out, kept) =
            std::mem::take(&mut self.entries).into_iter().partition(|queued| unwanted(&queued.entry));
        self.entries = kept;
        let out: Vec<Queued<E>> = out;
        out.into_iter().map(|queued| queued.entry).collect()
    }

    /// Whether etcd needs space for an entry of it.
    pub(crate) fn has_puts(&self) -> bool {
        self.entries.iter().any(|queued| queued.footprint.puts)
    }

    /// True if the entries are sent as nested transactions. False if there is only one, which is sent as it
    /// is.
    pub(crate) fn is_nested(&self) -> bool {
        self.entries.len() > 1
    }
}

/// Queues entries, and forms a batch of them whenever a flight is free.
///
/// The queue has no bound of its own. The caller has at most one entry for each firing slot in it (see
/// `Batcher::len`), and entries that come back by [`Batcher::put_back`] or [`Batcher::split`] have been in
/// it before.
#[derive(Debug)]
pub(crate) struct Batcher<E> {
    limits: BatchLimits,
    /// Batches that came back. They are sent again before all others, and are never merged.
    again: VecDeque<Vec<Queued<E>>>,
    /// Entries that an earlier batch passed over.
    postponed: VecDeque<Queued<E>>,
    endings: VecDeque<Queued<E>>,
    locks: VecDeque<Queued<E>>,
    out: HashSet<FlightId, FixedState>,
    flights: u64,
    puts_held: bool,
}

#[derive(Debug)]
struct Queued<E> {
    footprint: Footprint,
    entry: E,
}

/// A batch that is being put together.
#[derive(Debug)]
struct Forming<E> {
    entries: Vec<Queued<E>>,
    /// Keys of the entries that were taken and of those that were passed over.
    reads: HashSet<KeyHash, FixedState>,
    writes: HashSet<KeyHash, FixedState>,
    operations: usize,
    request_bytes: usize,
    response_bytes: usize,
    full: bool,
}

impl<E> Batcher<E> {
    /// An empty queue.
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            again: VecDeque::new(),
            postponed: VecDeque::new(),
            endings: VecDeque::new(),
            locks: VecDeque::new(),
            out: HashSet::default(),
            flights: 0,
            puts_held: false,
        }
    }

    /// Queues an entry.
    pub(crate) fn push(&mut self, class: Class, footprint: Footprint, entry: E) {
        let queued = Queued { footprint, entry };
        match class {
            Class::Ending => self.endings.push_back(queued),
            Class::Lock => self.locks.push_back(queued),
        }
    }

    /// Entries in the queue, without those in flight.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let again: usize = self.again.iter().map(Vec::len).sum();
        again + self.postponed.len() + self.endings.len() + self.locks.len()
    }

    /// Requests in flight.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing is queued and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let Self { again, postponed, endings, locks, out, .. } = self;
        again.is_empty() && postponed.is_empty() && endings.is_empty() && locks.is_empty() && out.is_empty()
    }

    /// The next batch to send, if a flight is free and an entry may be sent. An entry that is too large for
    /// the limits is sent alone, and etcd decides about it.
    pub(crate) fn next(&mut self) -> Option<Batch<E>> {
        if self.out.len() >= self.limits.in_flight {
            return None;
        }
        let entries = self.next_again().or_else(|| self.next_merged())?;
        self.flights += 1;
        let flight = FlightId(self.flights);
        self.out.insert(flight);
        Some(Batch { flight, entries })
    }

    /// Frees the flight of a request that is over. Freeing it twice does nothing.
    pub(crate) fn landed(&mut self, flight: FlightId) {
        self.out.remove(&flight);
    }

    /// Takes back a batch that had no effect, because etcd has no space or no leader, or can't be reached. It
    /// is sent again as it is, before all others. While puts are held, its entries with puts stay behind.
    /// Frees its flight.
    pub(crate) fn put_back(&mut self, batch: Batch<E>) {
        self.landed(batch.flight);
        self.again.push_front(batch.entries);
    }

    /// Takes back a batch that was rejected because of one of its entries, without it being known which. Its
    /// halves are sent again separately, before all others. When the entry at fault is alone, it is returned.
    /// Frees its flight.
    #[must_use = "the entry at fault is lost if it is not answered"]
    pub(crate) fn split(&mut self, batch: Batch<E>) -> Option<E> {
        self.landed(batch.flight);
        let mut front = batch.entries;
        if front.len() <= 1 {
            return front.pop().map(|queued| queued.entry);
        }
        let back = front.split_off(front.len() / 2);
        self.again.push_front(back);
        self.again.push_front(front);
        None
    }

    /// Holds back entries with puts while etcd has no space, or releases them again.
    pub(crate) fn hold_puts(&mut self, hold: bool) {
        self.puts_held = hold;
    }

    /// The first batch that came back, without its held entries, which stay here.
    fn next_again(&mut self) -> Option<Vec<Queued<E>>> {
        let hold = self.puts_held;
        let free = |queued: &Queued<E>| !(hold && queued.footprint.puts);
        let position = self.again.iter().position(|batch| batch.iter().any(free))?;
        let (go, stay): (Vec<_>, Vec<_>) = self.again.remove(position)?.into_iter().partition(free);
        if !stay.is_empty() {
            self.again.insert(position, stay);
        }
        Some(go)
    }

    /// A batch from the queues. Entries that can't share it are postponed. It is complete when an entry
    /// doesn't fit.
    fn next_merged(&mut self) -> Option<Vec<Queued<E>>> {
        let queued = self.postponed.len() + self.endings.len() + self.locks.len();
        let mut forming = Forming::with_room(queued.min(self.limits.entries));
        let mut postponed = VecDeque::new();
        for queue in [&mut self.postponed, &mut self.endings, &mut self.locks] {
            let mut left = Vec::new();
            while !forming.full
                && let Some(queued) = queue.pop_front()
            {
                if self.puts_held && queued.footprint.puts {
                    left.push(queued);
                } else if !forming.tolerates(&queued.footprint) {
                    forming.touch(&queued.footprint);
                    postponed.push_back(queued);
                } else if !forming.fits(&queued.footprint, &self.limits) {
                    forming.full = true;
                    left.push(queued);
                } else {
                    forming.take(queued);
                }
            }
            // These go back to the front of the queue. The entries behind them were not moved.
            while let Some(queued) = left.pop() {
                queue.push_front(queued);
            }
        }
        postponed.append(&mut self.postponed);
        self.postponed = postponed;
        (!forming.entries.is_empty()).then_some(forming.entries)
    }
}

impl<E> Forming<E> {
    fn with_room(entries: usize) -> Self {
        Self {
            entries: Vec::with_capacity(entries),
            reads: HashSet::with_capacity_and_hasher(KEYS * entries, FixedState::default()),
            writes: HashSet::with_capacity_and_hasher(KEYS * entries, FixedState::default()),
            operations: 0,
            request_bytes: 0,
            response_bytes: 0,
            full: false,
        }
    }

    /// True if an entry doesn't conflict with the entries that were taken, nor with those that were passed
    /// over.
    fn tolerates(&self, entry: &Footprint) -> bool {
        let written = |key| self.writes.contains(key);
        let touched = |key| self.reads.contains(key) || written(key);
        let apart = entry.solo && !self.entries.is_empty();
        !apart && !entry.reads.iter().any(written) && !entry.writes.iter().any(touched)
    }

    /// True if there is room for an entry. There always is for the first.
    fn fits(&self, entry: &Footprint, limits: &BatchLimits) -> bool {
        let entries = self.entries.len() + 1;
        entries == 1
            || entries <= limits.entries
                && entries + self.operations.max(entry.operations) <= limits.operations
                && self.request_bytes + entry.request_bytes + entries * NESTING_BYTES <= limits.request_bytes
                && self.response_bytes + entry.response_bytes <= limits.response_bytes
    }

    fn take(&mut self, queued: Queued<E>) {
        let entry = &queued.footprint;
        self.touch(entry);
        self.operations = self.operations.max(entry.operations);
        self.request_bytes += entry.request_bytes;
        self.response_bytes += entry.response_bytes;
        self.full = entry.solo;
        self.entries.push(queued);
    }

    fn touch(&mut self, entry: &Footprint) {
        self.reads.extend(&entry.reads);
        self.writes.extend(&entry.writes);
    }
}

#[cfg(test)]
mod tests;
