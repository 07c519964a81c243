//! Prints what fires, in which order, and how long after the change that made it fire.

use crate::options::Server;
use crate::probe::Found;
use etcd_rules::{Error, Firing, Outcome, Rule};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Report(Arc<Mutex<State>>);

struct State {
    start: Instant,
    fired: usize,
    failed: usize,
    /// The lines in the order of their times. The line of a firing is empty until it ends.
    lines: VecDeque<Option<String>>,
    /// How many lines were printed.
    printed: usize,
    /// By server.
    histories: HashMap<String, History>,
}

#[derive(Default)]
struct History {
    /// The last change that may make the rule fire.
    change: Option<(Change, Instant)>,
    polled: Option<Instant>,
    /// Changes of the state that this program makes itself and the watch has not shown yet.
    own: usize,
}

#[derive(Clone)]
enum Change {
    State(String),
    StateByOthers(String),
    DelayEnded,
    EngineStarted,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::State(state) => write!(f, "state = {state}"),
            Change::StateByOthers(state) => write!(f, "state = {state}, by somebody else"),
            Change::DelayEnded => f.write_str("its poll delay ended"),
            Change::EngineStarted => f.write_str("the engine's start"),
        }
    }
}

impl State {
    /// Prints what is known, up to the first firing that has not ended.
    fn print(&mut self) {
        while let Some(Some(line)) = self.lines.front() {
            print(line);
            self.lines.pop_front();
            self.printed += 1;
        }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        let state = State {
            start,
            fired: 0,
            failed: 0,
            lines: VecDeque::new(),
            printed: 0,
            histories: HashMap::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Prints what runs where, and how to read the lines. The clock starts here.
    pub(crate) fn header(&self, server: &Server, rule: &Rule, delay: Duration) {
        let Server { version, endpoints, .. } = server;
        let endpoints = endpoints.join(",");
        let which = if server.is_embedded() {
            format!(
                "embedded, in the memory of this program, at {endpoints}; speaks as etcd {version}\n     \
                 (on a real one: --endpoints HOST:PORT)"
            )
        } else {
            format!("{version} at {endpoints}, yours (--endpoints)")
        };
        print(&format!(
            "\
etcd {which}
rule {rule}

Every poll puts a poll delay, a key with a TTL of {delay:?}. Such keys share leases, so that they go after
2 to 4 s, and the next poll begins. Times are until the callback starts, with its lock taken: from before
this program sends a put, or from when a plain watch beside the engine shows that a delay has ended.
Join in, if you have etcdctl:
  ETCDCTL_API=3 etcdctl --endpoints {endpoints} put /servers/web-1/state inactive

 seconds    #  rule  server    found                     started"
        ));
        self.state().start = Instant::now();
    }

    /// Prints something that happens to a server.
    pub(crate) fn note(&self, text: &str) {
        let mut state = self.state();
        let text = format!("{:8.3}    -  {text}", state.start.elapsed().as_secs_f64());
        state.lines.push_back(Some(text));
        state.print();
    }

    pub(crate) fn summary(&self) {
        let mut state = self.state();
        state.lines.retain(Option::is_some);
        state.print();
        print(&format!("fired {}, failed {}", state.fired, state.failed));
    }

    /// Notes that the engine starts. Servers that exist by now make the rule fire when the engine finds them.
    pub(crate) fn engine_starts(&self) {
        let now = Instant::now();
        for history in self.state().histories.values_mut() {
            history.change = Some((Change::EngineStarted, now));
        }
    }

    /// This program is about to set a server's state.
    pub(crate) fn changing(&self, id: &str, to: &str) {
        let mut state = self.state();
        let history = state.histories.entry(id.to_owned()).or_default();
        history.own += 1;
        history.change = Some((Change::State(to.to_owned()), Instant::now()));
    }

    /// It did not.
    pub(crate) fn not_changed(&self, id: &str) {
        if let Some(history) = self.state().histories.get_mut(id) {
            history.own = history.own.saturating_sub(1);
            history.change = None;
        }
    }

    /// The watch shows a state.
    pub(crate) fn state_seen(&self, id: &str, to: &str) {
        let mut state = self.state();
        let history = state.histories.entry(id.to_owned()).or_default();
        if history.own > 0 {
            history.own -= 1;
        } else {
            history.change = Some((Change::StateByOthers(to.to_owned()), Instant::now()));
        }
    }

    /// The watch shows that a poll delay is gone.
    pub(crate) fn delay_ended(&self, id: &str) {
        let mut state = self.state();
        if let Some(history) = state.histories.get_mut(id) {
            history.change = Some((Change::DelayEnded, Instant::now()));
        }
    }

    /// Runs a callback and prints a line about it, when it ends or is cancelled.
    pub(crate) async fn record<F, Fut>(self, firing: Firing, callback: F) -> Result<Outcome, Error>
    where
        F: FnOnce(Firing, Line) -> Fut,
        Fut: Future<Output = Result<Outcome, Error>>,
    {
        let mut entry = Entry::new(self, &firing);
        let result = callback(firing, entry.line.clone()).await;
        entry.end = match &result {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        result
    }
}

/// What a callback adds to its line.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<OnceLock<Found>>);

impl Line {
    pub(crate) fn found(&self, found: Found) {
        // Once for each firing.
        let _ = self.0.set(found);
    }
}

/// One firing. Printed when dropped, which is also how a cancelled one ends.
struct Entry {
    report: Report,
    line: Line,
    id: String,
    rule: String,
    attempt: u32,
    number: usize,
    /// Of its line.
    place: usize,
    started: Instant,
    /// Why it failed, if it did.
    end: Option<String>,
}

impl Entry {
    fn new(report: Report, firing: &Firing) -> Self {
        let (started, number, place) = {
            let mut state = report.state();
            state.fired += 1;
            state.lines.push_back(None);
            (Instant::now(), state.fired, state.printed + state.lines.len() - 1)
        };
        Self {
            number,
            place,
            line: Line::default(),
            id: firing.attribute("id").unwrap_or("?").to_owned(),
            rule: firing.rule().to_owned(),
            attempt: firing.attempt(),
            started,
            end: Some("cancelled".to_owned()),
            report,
        }
    }

    fn found(&self) -> String {
        match (&self.end, self.line.0.get()) {
            (Some(why), _) => format!("failed: {why}"),
            (None, Some(Found { result: Ok(()), took })) => format!("ok, in {}", Short(*took)),
            (None, Some(Found { result: Err(why), took })) => format!("down, {why} in {}", Short(*took)),
            (None, None) => "nothing".to_owned(),
        }
    }

    fn cause(&self, change: Option<(Change, Instant)>, polled: Option<Instant>) -> String {
        let Some((change, at)) = change else {
            return match self.attempt {
                1 => "(what changed was not seen)".to_owned(),
                attempt => format!("as attempt {attempt}"),
            };
        };
        let since = match self.started.checked_duration_since(at) {
            Some(since) => format!("{} after {change}", Short(since)),
            None => format!("before the watch showed that {change}"),
        };
        match (change, polled) {
            (Change::DelayEnded, Some(polled)) => {
                format!("{since} ({:.1} s)", at.saturating_duration_since(polled).as_secs_f64())
            }
            _ => since,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.report.state();
        state.failed += usize::from(self.end.is_some());
        let start = state.start;
        let history = state.histories.entry(self.id.clone()).or_default();
        // A change that this program makes while the callback runs belongs to the next line.
        let mine = |(change, at): &mut (Change, Instant)| {
            matches!(change, Change::DelayEnded) || *at <= self.started
        };
        let change = history.change.take_if(mine);
        let polled = history.polled.replace(Instant::now());
        let seconds = self.started.saturating_duration_since(start).as_secs_f64();
        let (found, cause) = (self.found(), self.cause(change, polled));
        let Self { number, rule, id, .. } = &*self;
        let text = format!("{seconds:8.3} {number:4}  {rule:4}  {id:8}  {found:24}  {cause}");
        let place = self.place.checked_sub(state.printed);
        if let Some(line) = place.and_then(|place| state.lines.get_mut(place)) {
            *line = Some(text);
        }
        state.print();
    }
}

/// A duration to read: `0.2 ms`, `1.3 s`.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            seconds if seconds < 1.0 => write!(f, "{:.1} ms", seconds * 1e3),
            seconds => write!(f, "{seconds:.1} s"),
        }
    }
}

/// Prints a line on standard output. An error means that it was closed, so nobody is interested.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
