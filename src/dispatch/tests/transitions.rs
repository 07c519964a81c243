//! The transition table of an instance: what a decision, a timer, a release mean in each state.

use super::super::record::{AfterFiring, EndTxn, OwnCommit, QueueAction, Remote, RemoteKind, SeenMark, Wait};
use super::*;
use crate::lock::txn::MarkKind;

/// The values that the last callback was given: slot 0 at revision 5, slot 1 absent.
const GIVEN: [i64; 2] = [5, 0];

/// Its commit: slot 0 at revision 10.
const OWN: Touch = touch(0, 10);
/// Somebody else, later than what was given.
const FOREIGN: Touch = touch(1, 12);
/// Somebody else, but it is among the values that were given.
const OLD: Touch = touch(0, 5);

const COMMITTING: State =
    State::Committing { end: AfterFiring::Done, tried: EndTxn::Commit, answer: AnswerState::Awaited };
const AWAITING_OWN_EVENT: State =
    State::AwaitingOwnEvent { asked: QuestionId::new(1), end: AfterFiring::Done };

fn remote() -> Remote {
    Remote { key: "theirs".into(), kind: RemoteKind::Mark, at: Revision::new(20), holder: None }
}

fn held() -> State {
    State::Held(Arc::new(remote()))
}

fn given_up() -> State {
    State::GivenUp(Some(Arc::new(remote())))
}

enum Input {
    Decided(bool, Vec<Touch>),
    Crawled(bool, Vec<Touch>),
    Due,
    Released,
}
use Input::{Crawled, Decided, Due, Released};

/// A record that has fired: given, committed, settled long ago.
fn fired(state: State, now: Instant) -> InstanceRecord {
    let mut record = record(now);
    record.give(&snapshot(&GIVEN));
    record.committed(OwnCommit { revision: OWN.1, slots: [OWN.0].into_iter().collect() });
    record.state = state;
    record
}

fn apply(record: &mut InstanceRecord, input: &Input, now: Instant) -> QueueAction {
    match input {
        Decided(truth, touches) => record.decided(*truth, touches, false, BASE, now),
        Crawled(truth, touches) => record.decided(*truth, touches, true, BASE, now),
        Due => record.due(now),
        Released => record.released(ms(5), now),
    }
}

/// One row: a sentence, the state, the input, and the state and step that follow. A record that is
/// dropped has no state.
type Row = (&'static str, State, Input, Option<State>, QueueAction);

#[test]
fn every_state_answers_every_input() {
    let now = Instant::now();
    let (soon, late, past) = (now + ms(50), now + ms(5000), now - ms(1));
    let base = now + BASE;
    let queued = State::Queued;
    let (live, crawl) = (|| queued(WorkClass::Live), || queued(WorkClass::Crawl));
    let waiting = State::Waiting;
    let yes = || Decided(true, vec![]);
    let foreign = || Decided(true, vec![FOREIGN]);
    let own = || Decided(true, vec![OWN]);
    let old = || Decided(true, vec![OLD]);
    let mixed = || Decided(true, vec![OWN, FOREIGN]);
    let no = || Decided(false, vec![FOREIGN]);
    let crawled = || Crawled(true, vec![]);
    let stay = |state: State| (Some(state), QueueAction::Stay);
    let to_live = || (Some(live()), QueueAction::Enqueue(WorkClass::Live));
    let to_crawl = || (Some(crawl()), QueueAction::Enqueue(WorkClass::Crawl));
    let to_base = || (Some(waiting(base, Wait::Backoff)), QueueAction::WakeAt(base));
    let gone = || (None, QueueAction::Drop);
    let row = |name, state, input, (after, next): (Option<State>, QueueAction)| -> Row {
        (name, state, input, after, next)
    };
    let mut rows = vec![
        row("a change finds it idle: it fires again", State::Idle, foreign(), to_live()),
        row("its own commit is no change", State::Idle, own(), stay(State::Idle)),
        row("what was given is no change", State::Idle, old(), stay(State::Idle)),
        row("one foreign change among its own is enough", State::Idle, mixed(), to_live()),
        row("still true without a change: it stays idle", State::Idle, yes(), stay(State::Idle)),
        row(
            "another slot at its commit's revision is foreign",
            State::Idle,
            Decided(true, vec![touch(1, 10)]),
            to_live(),
        ),
        row(
            "its slot at another revision is foreign",
            State::Idle,
            Decided(true, vec![touch(0, 11)]),
            to_live(),
        ),
        row(
            "a revision between what was given and its commit is foreign",
            State::Idle,
            Decided(true, vec![touch(0, 9)]),
            to_live(),
        ),
        row("a crawl fires what is idle", State::Idle, crawled(), to_crawl()),
        row("a crawl with its own commit is a crawl", State::Idle, Crawled(true, vec![OWN]), to_crawl()),
        row("a crawl with a foreign change is live", State::Idle, Crawled(true, vec![FOREIGN]), to_live()),
        row("a change in a dry run: it would fire again", State::WouldFire, foreign(), to_live()),
        row("a crawl is no reason to count it again", State::WouldFire, crawled(), stay(State::WouldFire)),
        row("nor is what it was decided on", State::WouldFire, old(), stay(State::WouldFire)),
        row("queued stays queued", live(), foreign(), stay(live())),
        row("queued live stays live for a crawl", live(), crawled(), stay(live())),
        row("queued by a crawl becomes live by a change", crawl(), foreign(), to_live()),
        row("queued by a crawl becomes live by any live decision", crawl(), yes(), to_live()),
        row("queued by a crawl stays for a crawl", crawl(), crawled(), stay(crawl())),
        row("parked stays parked", State::Parked, foreign(), stay(State::Parked)),
        row("parked stays parked for a crawl", State::Parked, crawled(), stay(State::Parked)),
        row("held by a lock waits for its release", held(), foreign(), stay(held())),
        row("held, a crawl tries again", held(), crawled(), to_crawl()),
        row(
            "released, a held one looks again after a grace",
            held(),
            Released,
            (Some(waiting(now + ms(5), Wait::Released)), QueueAction::WakeAt(now + ms(5))),
        ),
        row("a change cuts a backoff to the base", waiting(late, Wait::Backoff), foreign(), to_base()),
        row(
            "a backoff that ends sooner is not prolonged",
            waiting(soon, Wait::Backoff),
            foreign(),
            stay(waiting(soon, Wait::Backoff)),
        ),
        row(
            "its own commit does not cut a backoff",
            waiting(late, Wait::Backoff),
            own(),
            stay(waiting(late, Wait::Backoff)),
        ),
        row(
            "what was given does not cut a backoff",
            waiting(late, Wait::Backoff),
            old(),
            stay(waiting(late, Wait::Backoff)),
        ),
        row(
            "a crawl does not cut a backoff",
            waiting(late, Wait::Backoff),
            crawled(),
            stay(waiting(late, Wait::Backoff)),
        ),
        row("a change ends retry-after", waiting(late, Wait::RetryAfter), foreign(), to_live()),
        row(
            "its own commit does not end retry-after",
            waiting(late, Wait::RetryAfter),
            own(),
            stay(waiting(late, Wait::RetryAfter)),
        ),
        row(
            "a crawl does not end retry-after",
            waiting(late, Wait::RetryAfter),
            crawled(),
            stay(waiting(late, Wait::RetryAfter)),
        ),
        row(
            "an ineffective one stays slowed down",
            waiting(late, Wait::Ineffective),
            foreign(),
            stay(waiting(late, Wait::Ineffective)),
        ),
        row(
            "a crawl does not hurry an ineffective one",
            waiting(late, Wait::Ineffective),
            crawled(),
            stay(waiting(late, Wait::Ineffective)),
        ),
        row(
            "trouble is waited out",
            waiting(late, Wait::Trouble),
            foreign(),
            stay(waiting(late, Wait::Trouble)),
        ),
        row(
            "the grace after a release is waited out",
            waiting(late, Wait::Released),
            foreign(),
            stay(waiting(late, Wait::Released)),
        ),
        row("given up, a change waits for the base", given_up(), foreign(), to_base()),
        row("given up, its own commit is no change", given_up(), own(), stay(given_up())),
        row("given up, what was given is no change", given_up(), old(), stay(given_up())),
        row("given up stays so for a crawl", given_up(), crawled(), stay(given_up())),
        row(
            "given up by another, released: it looks again",
            given_up(),
            Released,
            (Some(waiting(now + ms(5), Wait::Released)), QueueAction::WakeAt(now + ms(5))),
        ),
    ];
    for (name, state) in [
        ("checking", State::Checking(QuestionId::new(1))),
        ("locking", LOCKING),
        ("running", State::Running),
        ("committing", COMMITTING),
        ("settling", AWAITING_OWN_EVENT),
    ] {
        for input in [yes(), foreign(), own(), no(), crawled(), Crawled(false, vec![]), Due, Released] {
            rows.push(row(name, state.clone(), input, stay(state.clone())));
        }
    }
    for (name, state) in [
        ("queued, false: forgotten", live()),
        ("queued by a crawl, false: forgotten", crawl()),
        ("parked, false: forgotten", State::Parked),
        ("idle, false: forgotten", State::Idle),
        ("held, false: forgotten", held()),
        ("given up, false: forgotten", given_up()),
        ("backoff, false: forgotten", waiting(late, Wait::Backoff)),
        ("retry-after, false: forgotten", waiting(late, Wait::RetryAfter)),
        ("ineffective, false: forgotten", waiting(late, Wait::Ineffective)),
        ("trouble, false: forgotten", waiting(late, Wait::Trouble)),
    ] {
        rows.push(row(name, state.clone(), no(), gone()));
        rows.push(row(name, state.clone(), Decided(false, vec![OWN]), gone()));
        rows.push(row(name, state, Crawled(false, vec![]), gone()));
    }
    for why in [Wait::Backoff, Wait::RetryAfter, Wait::Ineffective, Wait::Trouble, Wait::Released] {
        rows.push(row("its time is over: it is live", waiting(past, why), Due, to_live()));
        rows.push(row("its time is over to the instant", waiting(now, why), Due, to_live()));
        rows.push(row(
            "woken too early, it waits on",
            waiting(late, why),
            Due,
            (Some(waiting(late, why)), QueueAction::WakeAt(late)),
        ));
        rows.push(row(
            "a release is not for those who wait",
            waiting(late, why),
            Released,
            stay(waiting(late, why)),
        ));
    }
    for state in [live(), crawl(), State::Parked, State::Idle, held(), given_up()] {
        rows.push(row("a timer that is not its own", state.clone(), Due, stay(state)));
    }
    for state in [live(), crawl(), State::Parked, State::Idle] {
        rows.push(row("a release that is not for it", state.clone(), Released, stay(state)));
    }
    for (name, state, input, after, next) in rows {
        let mut record = fired(state.clone(), now);
        assert_eq!(apply(&mut record, &input, now), next, "{name} ({state:?})");
        if let Some(after) = after {
            assert_eq!(record.state, after, "{name} ({state:?})");
        }
    }
}

/// How a mark of revision 11 that this engine did not write changes the meaning of a change.
#[test]
fn only_what_is_newer_than_another_engines_mark_overrules_it() {
    let now = Instant::now();
    let (older, newer) = (touch(1, 11), touch(1, 12));
    let base = State::Waiting(now + BASE, Wait::Backoff);
    let theirs = Some(SeenMark { revision: Revision::new(11), mine: false, outdated: false });
    let mine = Some(SeenMark { revision: Revision::new(11), mine: true, outdated: false });
    for (name, state, mark, touch, after, overrules) in [
        ("given up elsewhere, a newer change", given_up(), theirs, newer, base.clone(), Some(11)),
        ("given up elsewhere, a change that engine knew", given_up(), theirs, older, given_up(), None),
        ("given up elsewhere, our own commit", given_up(), theirs, OWN, given_up(), None),
        ("given up here, a foreign change", given_up(), mine, older, base.clone(), Some(11)),
        ("given up here, our own commit", given_up(), mine, OWN, given_up(), Some(11)),
        ("held back elsewhere, a newer change", held(), theirs, newer, base.clone(), Some(11)),
        ("held back elsewhere, a change that engine knew", held(), theirs, older, held(), None),
        ("held by a lock, whatever changes", held(), mine, newer, held(), Some(11)),
        ("held by a lock without a mark", held(), None, newer, held(), None),
    ] {
        let mut record = fired(state, now);
        record.mark = mark;
        record.decided(true, &[touch], false, BASE, now);
        assert_eq!(
            (record.state.clone(), record.supersedes_backoff().map(Revision::get)),
            (after, overrules),
            "{name}"
        );
    }
}

/// A mark that is found when the values given, or a change seen meanwhile, are newer.
#[test]
fn a_mark_that_is_older_than_what_was_seen_holds_nothing_back() {
    let now = Instant::now();
    let base = State::Waiting(now + BASE, Wait::Backoff);
    for (name, given, touched, gave_up, after, overrules) in [
        ("nothing newer, given up", [5, 0], None, true, given_up(), None),
        ("nothing newer, held back", [5, 0], None, false, held(), None),
        ("written with the last change", [11, 0], None, true, given_up(), None),
        ("a newer value was given", [12, 0], None, true, base.clone(), Some(11)),
        ("a newer value was given to one held back", [12, 0], None, false, base.clone(), Some(11)),
        ("a key was deleted later", [5, 0], Some(touch(1, 13)), true, base.clone(), Some(11)),
    ] {
        let mut record = record(now);
        record.state = LOCKING;
        record.give(&snapshot(&given));
        record.decided(true, touched.as_slice(), false, BASE, now);
        let kind = if gave_up { MarkKind::GivenUp } else { MarkKind::Backoff };
        record.marked(Revision::new(11), kind, remote(), BASE, now);
        assert_eq!(
            (record.state.clone(), record.supersedes_backoff().map(Revision::get)),
            (after, overrules),
            "{name}"
        );
    }
}

#[test]
fn a_lock_that_is_held_says_nothing_of_marks_that_others_wrote() {
    let now = Instant::now();
    for (mine, kept) in [(true, Some(11)), (false, None)] {
        let mut record = fired(LOCKING, now);
        record.mark = Some(SeenMark { revision: Revision::new(11), mine, outdated: true });
        assert_eq!(record.held(remote()), QueueAction::Stay);
        record.decided(true, &[touch(1, 12)], false, BASE, now);
        assert_eq!(
            (record.state.clone(), record.supersedes_backoff().map(Revision::get)),
            (held(), kept),
            "mine: {mine}"
        );
    }
}
