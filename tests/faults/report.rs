//! What an engine's process tells its parent: lines of JSON in a file, each written at once.

use crate::history::{Fate, Run, Told};
use crate::jobs;
use crate::moment::{Micros, now};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Line {
    Start {
        run: String,
        rule: String,
        id: String,
        token: i64,
        attempt: u32,
    },
    /// A callback noticed that it is to end.
    Told {
        run: String,
    },
    End {
        run: String,
        fate: Fate,
    },
    Health {
        state: String,
        problems: Vec<String>,
    },
    /// The last words of a shutdown: the figures before it, and whether it went well.
    Stats {
        drift: u64,
    },
    Stopped {
        error: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct Stamped {
    at: Micros,
    #[serde(flatten)]
    line: Line,
}

/// The end of the process.
pub struct Writer(Mutex<File>);

impl Writer {
    pub fn open(path: &Path) -> Self {
        Self(Mutex::new(File::options().create(true).append(true).open(path).expect("a file for the report")))
    }

    pub fn tell(&self, line: Line) {
        let mut text = serde_json::to_string(&Stamped { at: now(), line }).expect("a line of JSON");
        text.push('\n');
        // One write: a process that is killed leaves whole lines.
        let mut file = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(text.as_bytes()).expect("the report can be written");
    }
}

/// The end of the parent: all that was told so far.
pub struct Reader {
    engine: usize,
    path: PathBuf,
    read: u64,
    rest: Vec<u8>,
    pub runs: Vec<Run>,
    by_name: HashMap<String, usize>,
    pub health: Vec<Told>,
    pub drift: Option<u64>,
    pub stopped: Option<Option<String>>,
}

impl Reader {
    pub fn of(engine: usize, path: PathBuf) -> Self {
        Self {
            engine,
            path,
            read: 0,
            rest: Vec::new(),
            runs: Vec::new(),
            by_name: HashMap::new(),
            health: Vec::new(),
            drift: None,
            stopped: None,
        }
    }

    /// Reads what is new.
    pub fn refresh(&mut self) {
        // The process makes the file when it begins.
        let Ok(mut file) = File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(self.read)).expect("a file can be read from anywhere");
        let mut new = Vec::new();
        self.read += file.read_to_end(&mut new).expect("the report can be read") as u64;
        self.rest.extend_from_slice(&new);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line: Stamped = serde_json::from_slice(&line).expect("a line of the report");
            self.take(line);
        }
    }

    fn take(&mut self, Stamped { at, line }: Stamped) {
        match line {
            Line::Start { run, rule, id, token, attempt } => {
                let lock = jobs::lock(&rule, &id);
                self.by_name.insert(run.clone(), self.runs.len());
                let engine = self.engine;
                let (told, end) = (None, None);
                self.runs.push(Run {
                    name: run,
                    engine,
                    rule,
                    id,
                    lock,
                    token,
                    attempt,
                    start: at,
                    told,
                    end,
                });
            }
            Line::Told { run } => self.run(&run).told = Some(at),
            Line::End { run, fate } => self.run(&run).end = Some((at, fate)),
            Line::Health { state, problems } => {
                self.health.push(Told { engine: self.engine, at, state, problems });
            }
            Line::Stats { drift } => self.drift = Some(drift),
            Line::Stopped { error } => self.stopped = Some(error),
        }
    }

    fn run(&mut self, name: &str) -> &mut Run {
        let at = self.by_name.get(name).expect("a run starts before anything else is told of it");
        &mut self.runs[*at]
    }

    /// What the engine says of itself now.
    pub fn state(&self) -> &str {
        self.health.last().map_or("starting", |told| told.state.as_str())
    }
}
