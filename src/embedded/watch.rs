//! The watches of one stream: what each has been sent, and what comes next. Pure: a stream polls it.
//!
//! Watches pull from the store's log, so that a client that reads slowly costs no queue here.

use super::auth::Caller;
use super::check::{GRPC_OVERHEAD_BYTES, MAX_REQUEST_BYTES};
use super::member::Member;
use super::refusal::RpcError;
use super::span::Span;
use super::store::{Change, Store};
use etcd_client::proto::{PbKeyValue, PbResponseHeader, PbWatchRequestUnion, PbWatchResponse};
use prost::Message;
use prost::bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// The watch id in answers that concern no watch, or all of them.
const NO_WATCH: i64 = -1;
/// Why a watch is cancelled for its user or token, whichever it is.
const NOT_PERMITTED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
/// Revisions with events that one response of a watch that is catching up may hold.
const BATCH_REVISIONS: usize = 1000;
/// Revisions a watch may lag before its events travel in batches.
const LAG: i64 = 128;
/// Responses handed out at once.
const MAX_READY: usize = 128;
/// From this size on, a response is split for a watch that asked for fragments.
const FRAGMENT_BYTES: usize = MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES;
const FILTER_PUT: i32 = 0;
const FILTER_DELETE: i32 = 1;

#[derive(Debug)]
struct Watch {
    span: Span,
    /// The first revision that has not been sent yet.
    next: i64,
    /// Sent revision by revision, as they come; otherwise in batches, until there are no more.
    synced: bool,
    /// Ended by a compaction, and known until it is cancelled.
    compacted: bool,
    prev_kv: bool,
    no_puts: bool,
    no_deletes: bool,
    fragment: bool,
    /// Wants progress notifications; `progress_due` if no event was sent since the last tick.
    progress: bool,
    progress_due: bool,
}

/// The watches of one stream.
#[derive(Debug, Default)]
pub(super) struct Watches {
    watches: BTreeMap<i64, Watch>,
    next_id: i64,
    /// Progress was asked for, and is told once nothing else is left to send.
    progress_asked: bool,
}

impl Watches {
    /// Takes a request of the client; what answers it is appended to `out`.
    pub(super) fn request(
        &mut self,
        request: PbWatchRequestUnion,
        member: &Member,
        applied: i64,
        caller: &Result<Caller, RpcError>,
        out: &mut VecDeque<Answer>,
    ) {
        match request {
            PbWatchRequestUnion::CreateRequest(create) => {
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                // As in etcd, who watches from a key on needs no permission but for that key.
                let end: &[u8] = if create.range_end == [0] { &[] } else { &create.range_end };
                let allowed = caller.clone().and_then(|caller| member.may_watch(&caller, &key, end));
                if allowed.is_err() {
                    let mut answer = answer(member.header_at(applied), NO_WATCH);
                    answer.head.created = true;
                    answer.head.canceled = true;
                    answer.head.cancel_reason = NOT_PERMITTED.to_owned();
                    out.push_back(answer);
                    return;
                }
                let span = Span::new(&key, &create.range_end);
                let watch = Watch {
                    span,
                    next: create.start_revision,
                    synced: false,
                    compacted: false,
                    prev_kv: create.prev_kv,
                    no_puts: create.filters.contains(&FILTER_PUT),
                    no_deletes: create.filters.contains(&FILTER_DELETE),
                    fragment: create.fragment,
                    progress: create.progress_notify,
                    progress_due: true,
                };
                let mut answer = answer(member.header_at(applied), NO_WATCH);
                answer.head.created = true;
                match self.create(create.watch_id, watch, applied) {
                    Ok(id) => answer.head.watch_id = id,
                    Err(reason) => {
                        answer.head.canceled = true;
                        answer.head.cancel_reason = reason.to_owned();
                    }
                }
                out.push_back(answer);
            }
            PbWatchRequestUnion::CancelRequest(cancel) => {
                if self.watches.remove(&cancel.watch_id).is_some() {
                    let mut answer = answer(member.header_at(applied), cancel.watch_id);
                    answer.head.canceled = true;
                    out.push_back(answer);
                }
            }
            PbWatchRequestUnion::ProgressRequest(_) => self.progress_asked = true,
        }
    }

    fn create(&mut self, id: i64, mut watch: Watch, applied: i64) -> Result<i64, &'static str> {
        if watch.next < 0 {
            return Err(RpcError::COMPACTED.message());
        }
        if watch.span.is_inverted() {
            return Err("mvcc: watcher range is empty");
        }
        let id = if id == 0 {
            while self.watches.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        } else if self.watches.contains_key(&id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        } else {
            id
        };
        let future = applied + 1;
        watch.synced = watch.next == 0 || watch.next >= future;
        if watch.next == 0 {
            watch.next = future;
        }
        self.watches.insert(id, watch);
        Ok(id)
    }

    /// Appends what is to be sent next to `out`, a bounded number of responses. Empty: nothing, for now.
    ///
    /// `now` is the revision up to which the member has applied what happened.
    pub(super) fn collect(&mut self, member: &Member, now: i64, out: &mut VecDeque<Answer>) {
        let store = &member.store;
        for (&id, watch) in &mut self.watches {
            if watch.compacted || watch.next > now || out.len() >= MAX_READY {
                continue;
            }
            if watch.synced && (now - watch.next >= LAG || watch.next < store.log_start()) {
                watch.synced = false;
            }
            if !watch.synced {
                watch.catch_up(id, member, now, out);
            }
        }
        self.collect_synced(member, now, out);
        if out.is_empty() && std::mem::take(&mut self.progress_asked) && self.can_tell_progress(now) {
            out.push_back(answer(member.header_at(now), NO_WATCH));
        }
    }

    /// Revision by revision, so that a stream tells events of all its watches in their order.
    fn collect_synced(&mut self, member: &Member, now: i64, out: &mut VecDeque<Answer>) {
        let store = &member.store;
        let synced = |watch: &Watch| watch.synced && !watch.compacted && watch.next <= now;
        let Some(first) = self.watches.values().filter(|watch| synced(watch)).map(|w| w.next).min() else {
            return;
        };
        for revision in first..=now {
            if out.len() >= MAX_READY {
                return;
            }
            for (&id, watch) in &mut self.watches {
                if synced(watch) && watch.next == revision {
                    watch.next = revision + 1;
                    let events = watch.events(store, revision);
                    watch.send(id, events, member.header_at(revision), out);
                }
            }
        }
    }

    /// A watch that has not reached its start, or lost its history, can't vouch for a revision.
    fn can_tell_progress(&self, now: i64) -> bool {
        !self.watches.is_empty()
            && self.watches.values().all(|watch| !watch.compacted && watch.next == now + 1)
    }

    /// The regular notification of progress, for the watches that want it and had no events lately.
    pub(super) fn tick(&mut self, member: &Member, now: i64, out: &mut VecDeque<Answer>) {
        for (&id, watch) in &mut self.watches {
            if !watch.progress {
                continue;
            }
            if watch.progress_due && !watch.compacted && watch.next == now + 1 {
                out.push_back(answer(member.header_at(now), id));
            }
            watch.progress_due = true;
        }
    }
}

impl Watch {
    /// One response with the next events from the past, or the news that they are compacted.
    fn catch_up(&mut self, id: i64, member: &Member, now: i64, out: &mut VecDeque<Answer>) {
        let store = &member.store;
        if self.next < store.compacted() {
            self.compacted = true;
            let mut answer = answer(member.header_at(0), id);
            answer.head.canceled = true;
            answer.head.compact_revision = store.compacted();
            out.push_back(answer);
            return;
        }
        let mut events = Events::new();
        let mut revisions = 0;
        while self.next <= now && revisions < BATCH_REVISIONS {
            let found = self.events(store, self.next);
            revisions += usize::from(!found.is_empty());
            events.extend(found);
            self.next += 1;
        }
        self.synced = self.next > now;
        self.send(id, events, member.header_at(now), out);
    }

    fn events(&self, store: &Store, revision: i64) -> Events {
        // As in etcd before 3.4.36: a compaction takes deletions at its revision with it, and a watch that catches up
        // is not told of them.
        let collected = !self.synced && revision == store.compacted();
        let wanted = |change: &&Change| {
            let filtered = if change.deleted { self.no_deletes || collected } else { self.no_puts };
            !filtered && self.span.contains(&change.kv.key)
        };
        let event = |change: &Change| match self.previous(store, change) {
            Some(previous) => change.event_after(previous),
            None => change.event(),
        };
        store.changes(revision).iter().filter(wanted).map(event).collect()
    }

    fn previous<'a>(&self, store: &'a Store, change: &Change) -> Option<&'a PbKeyValue> {
        let created = !change.deleted && change.kv.create_revision == change.kv.mod_revision;
        if !self.prev_kv || created {
            return None;
        }
        let before = store.check_readable(change.kv.mod_revision - 1).ok()?;
        store.get_at(&change.kv.key, before).map(|kv| &**kv)
    }

    fn send(&mut self, id: i64, events: Events, header: PbResponseHeader, out: &mut VecDeque<Answer>) {
        if events.is_empty() {
            return;
        }
        self.progress_due = false;
        let mut answer = answer(header, id);
        answer.events = events;
        if self.fragment {
            fragments(answer, FRAGMENT_BYTES, out);
        } else {
            out.push_back(answer);
        }
    }
}

/// Events in the protocol's bytes.
type Events = SmallVec<[Bytes; 1]>;

/// A message to the client: its events are bytes that it may share with other watches.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// All but the events.
    head: PbWatchResponse,
    events: Events,
}

impl Answer {
    /// How the protocol numbers the events in the message.
    const EVENTS: u32 = 11;

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.iter().map(Self::length_of).sum::<usize>()
    }

    /// What an event takes, with its number and length before it.
    fn length_of(event: &Bytes) -> usize {
        1 + prost::length_delimiter_len(event.len()) + event.len()
    }

    /// Appends the message.
    pub(super) fn encode(&self, out: &mut impl BufMut) -> Result<(), prost::EncodeError> {
        self.head.encode(out)?;
        for event in &self.events {
            encode_key(Self::EVENTS, WireType::LengthDelimited, out);
            encode_varint(event.len() as u64, out);
            out.put_slice(event);
        }
        Ok(())
    }
}

fn answer(header: PbResponseHeader, watch_id: i64) -> Answer {
    let head = PbWatchResponse { header: Some(header), watch_id, ..PbWatchResponse::default() };
    Answer { head, events: Events::new() }
}

/// Splits an answer between events, so that no part with several events is larger than `limit`.
fn fragments(mut answer: Answer, limit: usize, out: &mut VecDeque<Answer>) {
    if answer.encoded_len() < limit {
        out.push_back(answer);
        return;
    }
    let events = std::mem::take(&mut answer.events);
    answer.head.fragment = true;
    let empty = answer.encoded_len();
    let mut part = answer.clone();
    let mut size = empty;
    for event in events {
        let added = Answer::length_of(&event);
        if !part.events.is_empty() && size + added >= limit {
            out.push_back(std::mem::replace(&mut part, answer.clone()));
            size = empty;
        }
        part.events.push(event);
        size += added;
    }
    part.head.fragment = false;
    out.push_back(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_client::proto::PbEvent;

    fn event(size: usize) -> PbEvent {
        PbEvent {
            kv: Some(PbKeyValue { value: vec![b'x'; size], ..PbKeyValue::default() }),
            ..PbEvent::default()
        }
    }

    fn whole(sizes: &[usize]) -> Answer {
        let head = PbWatchResponse { watch_id: 3, ..PbWatchResponse::default() };
        Answer { head, events: sizes.iter().map(|&size| event(size).encode_to_vec().into()).collect() }
    }

    #[test]
    fn fragments_are_split_between_events_and_only_the_last_says_so() {
        let split = |sizes: &[usize]| {
            let mut out = VecDeque::new();
            fragments(whole(sizes), 100, &mut out);
            assert!(out.iter().all(|part| part.head.watch_id == 3));
            assert!(out.iter().all(|part| part.events.len() == 1 || part.encoded_len() < 100));
            out.iter().map(|part| (part.events.len(), part.head.fragment)).collect::<Vec<_>>()
        };
        assert_eq!(split(&[10, 10]), [(2, false)]);
        assert_eq!(split(&[50, 50, 50]), [(1, true), (1, true), (1, false)]);
        assert_eq!(split(&[30, 30, 30]), [(2, true), (1, false)]);
        assert_eq!(split(&[200]), [(1, false)]);
        assert_eq!(split(&[200, 200]), [(1, true), (1, false)]);
    }

    #[test]
    fn an_answer_is_the_message_of_the_protocol() {
        let sizes = [0, 5, 300];
        let (mut bytes, answer) = (Vec::new(), whole(&sizes));
        answer.encode(&mut bytes).expect("room");
        let message = PbWatchResponse::decode(bytes.as_slice()).expect("a message");
        assert_eq!(message.events, sizes.map(event));
        assert_eq!((message.watch_id, bytes.len()), (3, answer.encoded_len()));
    }

    #[test]
    fn an_event_is_encoded_once_for_all_watches() {
        let mut store = Store::new();
        store.put(b"a", b"1".to_vec(), 0);
        store.commit();
        store.delete(b"a");
        store.commit();
        let [put, deletion] = [2, 3].map(|revision| store.changes(revision)[0].clone());
        assert_eq!(put.event().as_ptr(), put.event().as_ptr(), "the same bytes");
        let decoded = PbEvent::decode(deletion.event_after(&put.kv)).expect("an event");
        assert_eq!(decoded.r#type, 1);
        assert_eq!((decoded.kv.as_ref(), decoded.prev_kv.as_ref()), (Some(&*deletion.kv), Some(&*put.kv)));
    }
}
