//! Log lines while etcd is away for long: there is one for each change. The tests use an embedded etcd, in
//! one thread with a paused clock.

use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, Faults};
use crate::engine::Engine;
use crate::runtime::env::Env;
use crate::{Error, Firing, Health, Outcome, Reveal, Rule, key};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const SECOND: Duration = Duration::from_secs(1);

/// A line as an operator sees it at level `INFO` and above.
#[derive(Clone, Debug, Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields += &format!("{name}={value:?} "),
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::INFO && event.metadata().target().starts_with("etcd_rules") {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap_or_else(|e| e.into_inner()).push(line);
        }
    }
}

impl Log {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

type Fault = fn(&Faults);

/// Outages of etcd, and how they end.
const OUTAGES: [(&str, Fault, Fault); 4] = [
    ("unreachable", |faults| faults.set_reachable(false), |faults| faults.set_reachable(true)),
    ("frozen", Faults::freeze, Faults::thaw),
    ("no leader", Faults::lose_leader, Faults::elect_leader),
    ("no space", |faults| faults.set_no_space(true), |faults| faults.set_no_space(false)),
];

/// Plays each outage for ten minutes while fifty instances are firing. Returns the lines of each.
fn outages(reveal: Reveal) -> Vec<(&'static str, Vec<Line>)> {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    // `tracing` caches whether a line is enabled. With a single subscriber, another thread without one would
    // disable the line for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let local = LocalSet::new();
        local.block_on(&runtime.expect("a runtime"), async {
            let etcd = EmbeddedEtcd::in_process();
            let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(async |firing: Firing| {
                sleep(3 * SECOND).await;
                Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into())
            });
            let builder = Engine::builder_with_channel("app", etcd.channel()).rule(rule).reveal(reveal);
            // Transactions travel alone here, because an etcd without space still takes puts in nested
            // transactions.
            let mut builder = builder.crawl_interval(20 * SECOND).batch_size(1);
            let start = Instant::now();
            builder.env = Env::local(1, move || UNIX_EPOCH + start.elapsed());
            let engine = builder.build().expect("sound").start().await.expect("it starts");
            engine.ready().await;
            sleep(SECOND).await;
            log.take();
            let mut told = Vec::new();
            for (name, begin, end) in OUTAGES {
                for n in 0..50 {
                    assert!(etcd.write(&Write::Put(&format!("/jobs/ident-{n}"), "secret")));
                }
                sleep(SECOND).await;
                begin(&etcd.faults());
                sleep(600 * SECOND).await;
                end(&etcd.faults());
                sleep(60 * SECOND).await;
                assert_eq!(engine.health(), Health::Ready, "after {name}");
                told.push((name, log.take()));
            }
            told
        })
    })
}

#[test]
fn ten_minutes_of_trouble_are_a_line_for_each_change() {
    let mut messages = BTreeSet::new();
    for (name, lines) in outages(Reveal::Nothing) {
        assert!((2..=MOST).contains(&lines.len()), "{name}: {} lines: {lines:#?}", lines.len());
        assert!(
            lines.windows(2).all(|two| two[0].message != two[1].message || two[0].fields != two[1].fields),
            "{lines:#?}"
        );
        let last = lines.last().map(|line| line.fields.contains("state=\"ready\""));
        assert_eq!(last, Some(true), "{name}: {lines:#?}");
        for line in lines {
            assert!(!line.fields.contains("ident") && !line.fields.contains("secret"), "{line:?}");
            messages.insert(line.message);
        }
    }
    assert!(messages.len() <= 4, "messages are constant: {messages:?}");
}

/// The beginning, lost leases, a failed crawl, one or two problems that end before the rest, and the end.
const MOST: usize = 6;
