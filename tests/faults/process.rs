//! An engine as a process of its own, seen from the parent.

use crate::history::Process;
use crate::moment::now;
use crate::report::Reader;
use crate::role::{SETUP, Setup};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a shutdown may take: callbacks have 5 s, and etcd a few.
const STOP: Duration = Duration::from_secs(30);

/// An engine; it may have had several processes.
pub struct EngineProcess {
    pub setup: Setup,
    pub report: Reader,
    child: Option<Child>,
    /// The last one is that of the child.
    pub processes: Vec<Process>,
    frozen: bool,
}

impl EngineProcess {
    pub fn new(setup: Setup) -> Self {
        let report = Reader::of(setup.engine, setup.report.clone());
        Self { setup, report, child: None, processes: Vec::new(), frozen: false }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts a process; does nothing while one runs.
    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        self.setup.process += 1;
        let program = std::env::current_exe().expect("this program has a path");
        let setup = serde_json::to_string(&self.setup).expect("a setup as JSON");
        let child = Command::new(program)
            .args(["role::engine_process", "--exact", "--ignored", "--nocapture"])
            .env(SETUP, setup)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("a process of an engine"));
        self.report.refresh();
        self.report.health.push(crate::history::Told {
            engine: self.setup.engine,
            at: now(),
            state: "starting".to_owned(),
            problems: Vec::new(),
        });
        self.processes.push(Process { engine: self.setup.engine, began: now(), ..Process::default() });
    }

    fn process(&mut self) -> &mut Process {
        self.processes.last_mut().expect("it was started")
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only if it has ended, and then there is nothing to tell it.
            let _ = kill(pid, signal);
        }
    }

    /// The most memory that it had, as the system tells.
    pub fn sample(&mut self) {
        let Some(pid) = self.pid() else { return };
        // A process that has just ended has no such file.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
        let process = self.process();
        process.memory = process.memory.max(peak.unwrap_or_default() << 10);
    }

    /// As a crash would.
    pub fn kill(&mut self) {
        self.sample();
        if let Some(mut child) = self.child.take() {
            self.end_of_frozen();
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
            let at = now();
            self.process().killed = Some(at);
            self.process().ended = Some(at);
        }
    }

    /// It stands still. Proven: the system says that it is stopped.
    pub fn freeze(&mut self) {
        let Some(pid) = self.pid() else { return };
        if !self.frozen {
            self.signal(Signal::SIGSTOP);
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child can be waited for");
            let at = now();
            self.process().frozen.push((at, u64::MAX));
            self.frozen = true;
        }
    }

    pub fn thaw(&mut self) {
        if self.frozen {
            self.end_of_frozen();
            self.signal(Signal::SIGCONT);
        }
    }

    fn end_of_frozen(&mut self) {
        if self.frozen {
            let at = now();
            self.process().frozen.last_mut().expect("it was frozen").1 = at;
            self.frozen = false;
        }
    }

    /// Asks it to shut down. Tells what was wrong with that, if anything was.
    pub async fn stop(&mut self) -> Option<String> {
        self.thaw();
        self.sample();
        let child = self.child.as_mut()?;
        let asked = child.stdin.as_mut().expect("a pipe").write_all(b"stop\n");
        let at = now();
        self.process().asked_to_stop = Some(at);
        let engine = self.setup.engine;
        if let Err(error) = asked {
            return Some(format!("engine {engine} takes no orders: {error}"));
        }
        let deadline = Instant::now() + STOP;
        while let Some(child) = &mut self.child {
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                let at = now();
                self.report.refresh();
                let (drift, stopped) = (self.report.drift.take(), self.report.stopped.take());
                let process = self.process();
                process.ended = Some(at);
                process.drift = drift;
                return match stopped {
                    _ if !status.success() => Some(format!("engine {engine} ended with {status}")),
                    None => Some(format!("engine {engine} ended without a word")),
                    Some(Some(error)) => Some(format!("engine {engine}: shutdown: {error}")),
                    Some(None) => None,
                };
            }
            if Instant::now() > deadline {
                self.kill();
                return Some(format!(
                    "engine {engine} was still there {STOP:?} after its shutdown was asked for"
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(format!("engine {} ended by itself: {status}", self.setup.engine))
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
