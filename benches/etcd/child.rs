//! Runs the side that is measured in a process of its own. That is this program again, or the peer's. It gets
//! its work by arguments and standard input, and answers with lines of JSON.

use crate::process::this_program;
use crate::spec::{Outcome, Ready, Side, Spec};
use crate::{engine, floor};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a child may take to get ready, or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the peer may take to get ready: it pauses after every key that it finds.
const PATIENCE_WITH_PEER: Duration = Duration::from_secs(3600);

/// How long the peer may go on after it has said what it saw. Its shutdown may take for ever, which says nothing
/// of what was measured.
const PEERS_END: Duration = Duration::from_secs(30);

const CHILD: &str = "--child";

/// The work of this process, if it is a child.
pub fn spec() -> Option<Spec> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CHILD).skip(1);
    arguments.next().map(|spec| serde_json::from_str(&spec).expect("a specification"))
}

/// Runs the work of a child until its standard input ends.
pub async fn run(spec: Spec) {
    let outcome = match spec.side {
        Side::Engine => engine::run(spec, said, asked_to_end).await,
        Side::Floor => floor::run(spec, said, asked_to_end).await,
        Side::Peer(_) => panic!("the peer is another program"),
    };
    println!("{}", serde_json::to_string(&outcome).expect("JSON"));
}

fn said(ready: Ready) {
    println!("{}", serde_json::to_string(&ready).expect("JSON"));
}

async fn asked_to_end() {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {}
}

pub struct Child {
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    is_peer: bool,
}

impl Child {
    /// Starts a child and waits until it is ready. `peer` is the peer's program.
    pub async fn start(spec: &Spec, peer: Option<&Path>) -> (Self, Ready) {
        let program = match spec.side {
            Side::Peer(_) => peer.expect("the peer's program, with `--peer`").to_owned(),
            Side::Engine | Side::Floor => this_program(),
        };
        Self::start_by(Command::new(program), spec).await
    }

    /// The same by a command that runs a program of this kind.
    pub async fn start_by(mut command: Command, spec: &Spec) -> (Self, Ready) {
        command.arg(CHILD).arg(serde_json::to_string(spec).expect("JSON"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("a program");
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("piped");
        let is_peer = matches!(spec.side, Side::Peer(_));
        let mut this = Self { process, stdin, lines: BufReader::new(stdout).lines(), is_peer };
        let ready = this.hear(if is_peer { PATIENCE_WITH_PEER } else { PATIENCE }).await;
        (this, ready)
    }

    async fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> T {
        let whose = if self.is_peer { "the peer" } else { "the child" };
        let Ok(line) = timeout(patience, self.lines.next_line()).await else {
            panic!("{whose} has said nothing for {patience:?}");
        };
        let line = line.expect("a pipe").unwrap_or_else(|| panic!("{whose} ended early"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    pub fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Lets it end by itself.
    pub async fn end(mut self) -> Outcome {
        if let Some(mut stdin) = self.stdin.take() {
            stdin.flush().await.expect("a pipe");
        }
        let outcome = self.hear(PATIENCE).await;
        if !self.is_peer {
            let status = self.process.wait().await.expect("a child");
            assert!(status.success(), "the child failed: {status}");
        } else if let Ok(status) = timeout(PEERS_END, self.process.wait()).await {
            let status = status.expect("a child");
            if !status.success() {
                println!("    the peer failed when it had said what it saw: {status}");
            }
        } else {
            println!("    the peer had not ended {PEERS_END:?} after it had said what it saw, and is killed");
            self.process.kill().await.expect("a child");
        }
        outcome
    }
}
