//! Counts the instructions of a child by function, with callgrind of Valgrind. It doesn't see the kernel's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

/// Where the counts of one child go.
pub struct Callgrind {
    folder: TempDir,
}

/// What was counted.
#[derive(Default)]
pub struct Counts {
    /// The instructions of each function itself.
    pub functions: HashMap<String, u64>,
    /// Calls of the allocator for more memory, by caller.
    pub allocations: HashMap<String, u64>,
    /// Calls that copy memory, by caller.
    pub copies: HashMap<String, u64>,
}

impl Callgrind {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Runs this program under callgrind. Nothing is counted until [`begin`](Self::begin).
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes"]);
        command.args(["--dump-line=no", "--compress-strings=no", "--compress-pos=no"]);
        command.arg(format!("--callgrind-out-file={}", self.out().display())).arg(program);
        command
    }

    pub async fn begin(&self, pid: u32) {
        ask(pid, &["instrumentation", "on"]).await;
    }

    /// What has been counted since the beginning.
    pub async fn end(&self, pid: u32) -> Counts {
        ask(pid, &["dump"]).await;
        ask(pid, &["instrumentation", "off"]).await;
        // Dumps of a running program have numbers.
        let file = self.out().with_extension("1");
        parse(&std::fs::read_to_string(file).expect("what callgrind has counted"))
    }
}

async fn ask(pid: u32, what: &[&str]) {
    let asked = Command::new("vgdb").arg(format!("--pid={pid}")).args(what).output().await;
    let asked = asked.expect("vgdb, which is part of Valgrind");
    assert!(asked.status.success(), "vgdb {what:?}: {}", String::from_utf8_lossy(&asked.stderr));
}

/// Whether there is callgrind.
pub fn is_there() -> bool {
    std::process::Command::new("valgrind").arg("--version").output().is_ok()
}

fn parse(text: &str) -> Counts {
    // What Rust calls for more memory.
    const ALLOCATORS: [&str; 3] = ["__rust_alloc", "__rust_realloc", "__rust_alloc_zeroed"];
    let mut counts = Counts::default();
    let (mut function, mut callee) = (String::new(), "");
    let mut is_call = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = name.to_owned();
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            // The next line has the cost of the calls, which is that of the callee.
            is_call = true;
            let calls = calls.split(' ').next().and_then(|calls| calls.parse::<u64>().ok());
            let by_caller = match callee {
                callee if ALLOCATORS.iter().any(|name| callee.ends_with(name)) => {
                    Some(&mut counts.allocations)
                }
                callee if callee.starts_with("__memcpy") => Some(&mut counts.copies),
                _ => None,
            };
            if let Some(by_caller) = by_caller {
                *by_caller.entry(function.clone()).or_default() += calls.expect("a number of calls");
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || first == '+')
            && !std::mem::take(&mut is_call)
            && let Some(cost) = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok())
        {
            *counts.functions.entry(function.clone()).or_default() += cost;
        }
    }
    counts
}
