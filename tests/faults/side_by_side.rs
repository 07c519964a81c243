//! Runs side by side. Each has a process of its own, with its own servers and engines, ports, panics and output, so
//! that they share nothing but the machine.

use crate::checker::{Promise, Violation};
use crate::guard;
use crate::moment::{Micros, now, seconds};
use crate::scenario::{Scenario, Verdict};
use crate::table::LATE;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The variable with the [`Order`].
const ORDER: &str = "FAULTS_RUN";

/// A run that takes longer hangs.
const HANGS: Duration = Duration::from_secs(45 * 60);

/// The server of a run that ended without a verdict.
pub const NO_SERVER: &str = "?";

/// What a process is to run, and where its verdict is expected.
#[derive(Serialize, Deserialize, Clone, Debug)]
struct Order {
    scenario: String,
    seed: u64,
    verdict: PathBuf,
}

/// Does these runs, of a scenario with a seed each, `jobs` of them at a time. `told` is given each verdict when it is
/// there, with what its process wrote, one at a time.
pub fn run(runs: &[(&Scenario, u64)], jobs: usize, told: impl FnMut(Verdict, &str) + Send) {
    let next = AtomicUsize::new(0);
    let told = Mutex::new(told);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((scenario, seed)) = runs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let (verdict, output) = in_a_process(scenario, *seed);
                    told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())(verdict, &output);
                }
            });
        }
    });
}

fn in_a_process(scenario: &Scenario, seed: u64) -> (Verdict, String) {
    let began = now();
    let folder = tempfile::Builder::new().prefix("etcd-rules-run-").tempdir().expect("a folder");
    let order =
        Order { scenario: scenario.name.to_owned(), seed, verdict: folder.path().join("verdict.json") };
    let output = folder.path().join("output");
    let ended = carry_out(&order, &output);
    let output = String::from_utf8_lossy(&std::fs::read(&output).unwrap_or_default()).into_owned();
    let verdict = std::fs::read(&order.verdict).ok().and_then(|text| serde_json::from_slice(&text).ok());
    (verdict.unwrap_or_else(|| without_verdict(scenario, seed, began, &ended)), output)
}

/// Waits for the end of the process, and says how it ended.
fn carry_out(order: &Order, output: &Path) -> String {
    let log = std::fs::File::create(output).expect("a file for the output");
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["side_by_side::one_run", "--exact", "--ignored", "--nocapture"])
        .env(ORDER, serde_json::to_string(order).expect("an order as JSON"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file for the output"))
        .stderr(log)
        .spawn()
        .expect("a process of a run");
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) if began.elapsed() < HANGS => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                // Its servers and engines end with it. Both fail only if it has just ended.
                let _ = child.kill();
                let _ = child.wait();
                return format!("it did not end within {HANGS:?}");
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// A run that ended without a verdict has shown nothing.
fn without_verdict(scenario: &Scenario, seed: u64, began: Micros, ended: &str) -> Verdict {
    Verdict {
        scenario: scenario.name.to_owned(),
        server: NO_SERVER.to_owned(),
        seed,
        violations: vec![Violation {
            promise: Promise::Felt,
            text: format!("the run ended without a verdict: {ended}"),
        }],
        recovery: 0,
        took: now() - began,
        cpu: 0,
        late: 0,
        jobs: 0,
        runs: 0,
        cancelled: 0,
        epochs: 0,
        notes: Vec::new(),
    }
}

#[test]
#[ignore = "the part of a run's process, which the suite starts"]
fn one_run() {
    let Ok(order) = std::env::var(ORDER) else { return };
    guard::end_with_parent();
    let order: Order = serde_json::from_str(&order).expect("an order");
    let scenario = crate::scenarios::all().into_iter().find(|scenario| scenario.name == order.scenario);
    let scenario = scenario.expect("a scenario of that name");
    let late = Lateness::measure();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut verdict = runtime.block_on(scenario.run(scenario.server(order.seed), order.seed));
    verdict.late = late.most();
    verdict.cpu = cpu();
    let text = serde_json::to_vec(&verdict).expect("a verdict as JSON");
    std::fs::write(&order.verdict, text).expect("the verdict can be written");
}

/// What this process has used of the processors, and all that it started and saw end.
fn cpu() -> Micros {
    let of = |who| {
        let usage = getrusage(who).expect("the system tells what was used");
        let micros = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) as Micros;
        micros(usage.user_time()) + micros(usage.system_time())
    };
    of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)
}

/// How late a thread is woken up that does nothing but sleep.
pub struct Lateness(Arc<AtomicU64>);

impl Lateness {
    /// From now on, for as long as this lives.
    pub fn measure() -> Self {
        const NAP: Duration = Duration::from_millis(50);
        let most = Arc::new(AtomicU64::new(0));
        let measured = Arc::downgrade(&most);
        std::thread::spawn(move || {
            while let Some(most) = measured.upgrade() {
                let before = Instant::now();
                std::thread::sleep(NAP);
                let late = before.elapsed().saturating_sub(NAP);
                most.fetch_max(late.as_micros() as u64, Ordering::SeqCst);
            }
        });
        Self(most)
    }

    pub fn most(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// A doubt about a verdict, if the machine was too busy.
pub fn doubt(verdict: &Verdict) -> Option<String> {
    (verdict.late > LATE).then(|| {
        format!("the machine was busy: it woke a sleeping thread {:.1} s too late", seconds(verdict.late))
    })
}
