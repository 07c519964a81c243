//! Which connections there are, and which of them makes room for another one. Pure.
//!
//! A connection serves one request. It is read, then an answer is made, then that is written. Whoever connects and
//! sends nothing, or reads nothing, must not keep others from an answer, so a new connection is always taken. If
//! there are too many, one that is there already makes room.

use std::collections::BTreeMap;

/// Connections at once.
pub(super) const CONNECTIONS: usize = 256;

/// Of these, how many may have a page made or written at once. Each may hold a page in memory. Probes are not counted:
/// they are a few bytes.
pub(super) const PAGES: usize = 16;

/// Of these, how many may be told events.
pub(super) const STREAMS: usize = 16;

/// The number of a connection. Later ones have higher numbers.
pub(super) type ConnectionNumber = u64;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Its request has not come yet.
    Reading,
    /// It is told events, for as long as it likes.
    Streaming,
    /// Its page is being written.
    Writing,
    /// Its page is being made.
    Making,
}

struct Entry<T> {
    state: State,
    /// Counts changes of states, so that the longest in a state is found.
    since: u64,
    closer: T,
}

/// All connections, each with what closes it.
pub(super) struct Connections<T> {
    entries: BTreeMap<ConnectionNumber, Entry<T>>,
    next: u64,
}

/// Whether a page may be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    Admitted {
        /// A connection that makes room, and is to be closed.
        instead_of: Option<T>,
    },
    Full,
}

impl<T> Connections<T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), next: 0 }
    }

    /// Takes a new connection. If there are too many, returns what closes the one that makes room.
    pub(super) fn admit(&mut self, closer: T) -> (ConnectionNumber, Option<T>) {
        let closed = if self.entries.len() >= CONNECTIONS { self.make_room() } else { None };
        let number = self.tick();
        self.entries.insert(number, Entry { state: State::Reading, since: number, closer });
        (number, closed)
    }

    /// Takes out the connection that has waited longest for its request, or else the one that has been told events for
    /// longest, or else the one that has been written to for longest. One whose page is being made is the last choice.
    pub(super) fn make_room(&mut self) -> Option<T> {
        let (&number, _) = self.entries.iter().min_by_key(|(_, entry)| (entry.state, entry.since))?;
        self.remove(number)
    }

    /// Begins to make a page for a connection. If there are too many pages, the one that has been written for longest
    /// makes room; if none is being written, the request is refused.
    pub(super) fn begin_page(&mut self, number: ConnectionNumber) -> Admission<T> {
        if !self.entries.contains_key(&number) {
            return Admission::Full;
        }
        let is_page = |state| matches!(state, State::Writing | State::Making);
        let pages = self.entries.values().filter(|entry| is_page(entry.state)).count();
        let instead_of = if pages < PAGES {
            None
        } else {
            let writing = self.entries.iter().filter(|(_, entry)| entry.state == State::Writing);
            let Some((&longest, _)) = writing.min_by_key(|(_, entry)| entry.since) else {
                return Admission::Full;
            };
            self.remove(longest)
        };
        self.change(number, State::Making);
        Admission::Admitted { instead_of }
    }

    /// Begins to tell a connection events. False if there are too many, and the request is to be refused.
    pub(super) fn begin_stream(&mut self, number: ConnectionNumber) -> bool {
        let streams = self.entries.values().filter(|entry| entry.state == State::Streaming).count();
        let may = streams < STREAMS && self.entries.contains_key(&number);
        if may {
            self.change(number, State::Streaming);
        }
        may
    }

    /// A page is made, and now it is written.
    pub(super) fn begin_writing(&mut self, number: ConnectionNumber) {
        self.change(number, State::Writing);
    }

    /// A connection has ended.
    pub(super) fn remove(&mut self, number: ConnectionNumber) -> Option<T> {
        self.entries.remove(&number).map(|entry| entry.closer)
    }

    fn change(&mut self, number: ConnectionNumber, state: State) {
        let since = self.tick();
        if let Some(entry) = self.entries.get_mut(&number) {
            (entry.state, entry.since) = (state, since);
        }
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many connections as there may be, closed by their place in the order.
    fn full() -> (Connections<usize>, Vec<ConnectionNumber>) {
        let mut connections = Connections::new();
        let numbers = (0..CONNECTIONS)
            .map(|place| {
                let (number, closed) = connections.admit(place);
                assert_eq!(closed, None, "there is room");
                number
            })
            .collect();
        (connections, numbers)
    }

    #[test]
    fn the_connection_that_has_waited_longest_for_its_request_makes_room() {
        let (mut connections, numbers) = full();
        assert_eq!(connections.begin_page(numbers[0]), Admission::Admitted { instead_of: None });
        assert_eq!(connections.admit(1000).1, Some(1), "the first is busy");
        connections.begin_writing(numbers[0]);
        assert_eq!(
            connections.admit(1001).1,
            Some(2),
            "one that is written to stays while others send nothing"
        );
        connections.remove(numbers[9]);
        assert_eq!(connections.admit(1002).1, None, "one has ended");
        assert_eq!(connections.admit(1003).1, Some(3));
    }

    #[test]
    fn a_new_connection_outlives_many_that_come_after_it() {
        let (mut connections, numbers) = full();
        // As many pages as possible are made and written by others.
        for number in &numbers[..PAGES] {
            assert_eq!(connections.begin_page(*number), Admission::Admitted { instead_of: None });
        }
        let (probe, _) = connections.admit(usize::MAX);
        for other in 0..CONNECTIONS - PAGES - 1 {
            assert_ne!(
                connections.admit(other).1,
                Some(usize::MAX),
                "closed for connection {other} after it"
            );
        }
        assert_eq!(connections.remove(probe), Some(usize::MAX));
    }

    #[test]
    fn the_page_that_has_been_written_for_longest_makes_room_for_another() {
        let (mut connections, numbers) = full();
        for number in &numbers[..PAGES] {
            assert_eq!(connections.begin_page(*number), Admission::Admitted { instead_of: None });
        }
        assert_eq!(connections.begin_page(numbers[20]), Admission::Full, "all are being made");
        connections.begin_writing(numbers[5]);
        connections.begin_writing(numbers[3]);
        assert_eq!(connections.begin_page(numbers[20]), Admission::Admitted { instead_of: Some(5) });
        assert_eq!(connections.begin_page(numbers[21]), Admission::Admitted { instead_of: Some(3) });
        assert_eq!(connections.begin_page(numbers[22]), Admission::Full);
        connections.remove(numbers[20]);
        assert_eq!(connections.begin_page(numbers[22]), Admission::Admitted { instead_of: None });
        assert_eq!(connections.begin_page(numbers[5]), Admission::Full, "it has been closed");
    }

    #[test]
    fn so_many_are_told_events_and_they_make_room_after_those_that_wait() {
        let (mut connections, numbers) = full();
        for number in &numbers[..STREAMS] {
            assert!(connections.begin_stream(*number));
        }
        assert!(!connections.begin_stream(numbers[STREAMS]), "too many");
        for number in &numbers[STREAMS..STREAMS + PAGES] {
            assert_eq!(connections.begin_page(*number), Admission::Admitted { instead_of: None });
        }
        assert_eq!(connections.admit(1000).1, Some(STREAMS + PAGES), "the first that waits for its request");
        connections.remove(numbers[3]);
        assert!(connections.begin_stream(numbers[200]), "one has ended");
        // Without one that waits, the oldest stream.
        let mut few = Connections::new();
        let (page, stream) = (few.admit(1).0, few.admit(2).0);
        few.begin_page(page);
        few.begin_writing(page);
        assert!(few.begin_stream(stream));
        assert_eq!((few.make_room(), few.begin_stream(stream)), (Some(2), false));
    }

    #[test]
    fn without_a_connection_that_waits_for_a_request_a_page_makes_room() {
        let mut connections = Connections::new();
        let (first, second) = (connections.admit(1).0, connections.admit(2).0);
        assert_eq!(connections.begin_page(first), Admission::Admitted { instead_of: None });
        assert_eq!(connections.begin_page(second), Admission::Admitted { instead_of: None });
        connections.begin_writing(second);
        assert_eq!(connections.make_room(), Some(2), "its page is made already");
        assert_eq!((connections.make_room(), connections.make_room()), (Some(1), None));
    }
}
