//! The report of a benchmark: rows on the terminal, and in a JSON file to which several benchmarks add.

#![allow(dead_code, unreachable_pub, reason = "every benchmark is a crate of its own and takes a part")]

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub ours: f64,
    /// The result of the floor, which is the same without the engine, measured in the same run.
    pub floor: Option<f64>,
    pub ratio: Option<f64>,
    /// A bound on `ratio`, or on `ours` if there is no floor.
    pub goal: Option<String>,
    pub unit: String,
    /// The server and its flags, or "none" for benchmarks in memory.
    pub server: String,
    /// The lowest and highest of the rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_spread: Option<(f64, f64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_spread: Option<(f64, f64)>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
}

impl Row {
    /// A row with the median of several rounds.
    pub fn new(name: impl Into<String>, unit: &str, server: &str, ours: &[f64]) -> Self {
        Self {
            name: name.into(),
            ours: median(ours),
            floor: None,
            ratio: None,
            goal: None,
            unit: unit.into(),
            server: server.into(),
            ours_spread: spread(ours),
            floor_spread: None,
            not_measured: None,
        }
    }

    /// The row without its figures.
    pub fn not_measured(self, why: &str) -> Self {
        let Self { name, goal, unit, server, .. } = self;
        let not_measured = Some(why.to_owned());
        Self { goal, not_measured, ..Self::new(name, &unit, &server, &[0.0]) }
    }

    pub fn floor(mut self, floor: &[f64]) -> Self {
        let middle = median(floor);
        self.floor = Some(middle);
        self.ratio = (middle > 0.0).then(|| self.ours / middle);
        self.floor_spread = spread(floor);
        self
    }

    pub fn goal(mut self, goal: impl Into<String>) -> Self {
        self.goal = Some(goal.into());
        self
    }

    /// Whether the goal is met. `None` if there is no goal, or nothing was measured.
    pub fn met(&self) -> Option<bool> {
        let goal = self.goal.as_deref().filter(|_| self.not_measured.is_none())?;
        let is = self.ratio.unwrap_or(self.ours);
        let bound = |text: &str| text.trim().parse::<f64>().unwrap_or_else(|_| panic!("goal `{goal}`"));
        Some(match (goal.strip_prefix(">="), goal.strip_prefix("<=")) {
            (Some(least), _) => is >= bound(least),
            (_, Some(most)) => is <= bound(most),
            _ => panic!("goal `{goal}` is no bound"),
        })
    }

    pub fn print(&self) {
        if let Some(why) = &self.not_measured {
            return println!("{:<58} not measured: {why}", self.name);
        }
        let floor = self
            .floor
            .map_or(String::new(), |floor| format!("{} {}", short(floor), within(self.floor_spread)));
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let verdict = match self.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        println!(
            "{:<58} {:>22} {:>22} {:>6} {:>9} {:<6} {}",
            self.name,
            format!("{} {}", short(self.ours), within(self.ours_spread)),
            floor,
            ratio,
            self.goal.as_deref().unwrap_or(""),
            verdict,
            self.unit,
        );
    }
}

pub fn print_head(what: &str) {
    println!("\n{what}: medians (least-greatest of the rounds)");
    println!("{:<58} {:>22} {:>22} {:>6} {:>9} {:<6} unit", "", "engine", "floor", "ratio", "goal", "");
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn within(spread: Option<(f64, f64)>) -> String {
    spread.map_or(String::new(), |(low, high)| format!("({}-{})", short(low), short(high)))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (values.len() > 1).then_some((low, high))
}

/// The rows of the file. None if there is no file.
pub fn read(file: &Path) -> Vec<Row> {
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).expect("a list of rows"),
        Err(_) => Vec::new(),
    }
}

/// Adds rows to the file. They replace rows of the same name and server.
pub fn add(file: &Path, rows: &[Row]) {
    let mut all = read(file);
    for row in rows {
        match all.iter_mut().find(|known| known.name == row.name && known.server == row.server) {
            Some(known) => *known = row.clone(),
            None => all.push(row.clone()),
        }
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).expect("a folder for the results");
    }
    let text = serde_json::to_string_pretty(&all).expect("rows are JSON");
    std::fs::write(file, text + "\n").expect("a file for the results");
}

/// A short name for what a file says (FNV-1a), so that it shows if a baseline is another one than it was.
pub fn hash_of(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Names a baseline's source.
pub fn print_source(what: &str, file: &str, text: &str) {
    println!("the {what}'s source, {file}: {}", hash_of(text));
}

/// Paths in arguments are relative to the project's folder, though cargo starts benchmarks in that of their package.
pub fn enter_project_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(folder).expect("the project's folder");
}

/// The arguments without those that cargo adds; `--json FILE` taken out. `None`: only whether it runs is
/// asked (`cargo test` does).
pub fn arguments() -> Option<(Vec<String>, Option<PathBuf>)> {
    let mut all: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if all.iter().any(|argument| argument == "--test") {
        return None;
    }
    let at = all.iter().position(|argument| argument == "--json");
    let json = at.map(|at| {
        assert!(at + 1 < all.len(), "--json needs a file");
        let file = all.remove(at + 1);
        all.remove(at);
        PathBuf::from(file)
    });
    enter_project_folder();
    Some((all, json))
}
