//! An engine as a process of its own: this program again.

use crate::member::{Counts, Ready, Spec};
use crate::process::this_program;
use serde::de::DeserializeOwned;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long an engine may take to get ready, to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

const CHILD: &str = "--member";

/// The work of this process, if it is an engine.
pub fn spec() -> Option<Spec> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CHILD).skip(1);
    arguments.next().map(|spec| serde_json::from_str(&spec).expect("a specification"))
}

pub struct EngineProcess {
    process: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl EngineProcess {
    /// Starts an engine, and waits until it is ready.
    pub async fn start(spec: &Spec) -> (Self, Ready) {
        let mut command = Command::new(this_program());
        command.arg(CHILD).arg(serde_json::to_string(spec).expect("JSON"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("a program");
        let stdin = process.stdin.take().expect("piped");
        let stdout = process.stdout.take().expect("piped");
        let mut this = Self { process, stdin, lines: BufReader::new(stdout).lines() };
        let ready = this.hear().await;
        (this, ready)
    }

    async fn hear<T: DeserializeOwned>(&mut self) -> T {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("an engine has said nothing for {PATIENCE:?}"));
        let line = line.expect("a pipe").expect("an engine ended early");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    /// What it has counted so far.
    pub async fn counts(&mut self) -> Counts {
        self.stdin.write_all(b"count\n").await.expect("a pipe");
        self.stdin.flush().await.expect("a pipe");
        self.hear().await
    }

    pub fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) {
        self.process.kill().await.expect("it runs");
    }

    /// Lets it end by itself.
    pub async fn end(self) {
        let Self { mut process, stdin, lines } = self;
        drop(stdin);
        let status = timeout(PATIENCE, process.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("an engine did not end for {PATIENCE:?}"));
        let status = status.expect("a child");
        drop(lines);
        assert!(status.success(), "an engine failed: {status}");
    }
}
