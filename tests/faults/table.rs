//! The table of `docs/reliability.md`, of one run of the suite or of several.

use crate::moment::seconds;
use crate::scenario::{Scenario, Verdict};
use crate::scenarios;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// All verdicts so far. If the variable `FAULTS_VERDICTS` names a file, it has those of earlier runs of the suite too, and
/// is given the new ones.
pub struct Table {
    verdicts: Vec<Verdict>,
    file: Option<PathBuf>,
}

impl Table {
    pub fn open() -> Self {
        Self::of(std::env::var_os("FAULTS_VERDICTS").map(PathBuf::from))
    }

    fn of(file: Option<PathBuf>) -> Self {
        let kept = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let verdicts = kept.lines().map(|line| serde_json::from_str(line).expect("a verdict as JSON"));
        Self { verdicts: verdicts.collect(), file }
    }

    /// Adds a verdict, and writes `target/faults.md` anew, so that a run that is broken off leaves it too.
    pub fn add(&mut self, verdict: &Verdict) {
        let mut line = serde_json::to_string(verdict).expect("a verdict as JSON");
        self.verdicts.push(serde_json::from_str(&line).expect("a verdict as JSON"));
        if let Some(file) = &self.file {
            line.push('\n');
            let mut file =
                fs::File::options().create(true).append(true).open(file).expect("a file for verdicts");
            file.write_all(line.as_bytes()).expect("the verdict can be written");
        }
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults.md");
        fs::write(&table, summary(&scenarios::all(), &self.verdicts)).expect("the table can be written");
    }
}

/// The table.
fn summary(all: &[Scenario], verdicts: &[Verdict]) -> String {
    let mut text = "| scenario | what happens | etcd | runs | with violations | recovery, median / longest | callbacks told to end |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for scenario in all {
        let mut by_server: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
        for verdict in verdicts.iter().filter(|verdict| verdict.scenario == scenario.name) {
            by_server.entry(&verdict.server).or_default().push(verdict);
        }
        for (server, verdicts) in by_server {
            let mut recoveries: Vec<_> = verdicts.iter().map(|verdict| verdict.recovery).collect();
            recoveries.sort_unstable();
            let (median, longest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
            let wrong = verdicts.iter().filter(|verdict| !verdict.violations.is_empty()).count();
            let cancelled: usize = verdicts.iter().map(|verdict| verdict.cancelled).sum();
            let broken: BTreeSet<String> = verdicts
                .iter()
                .flat_map(|verdict| &verdict.violations)
                .map(|violation| format!("{:?}", violation.promise))
                .collect();
            let broken = broken.into_iter().collect::<Vec<_>>().join(", ");
            let broken = if broken.is_empty() { broken } else { format!(" ({broken})") };
            text.push_str(&format!(
                "| `{}` | {} | {server} | {} | {wrong}{broken} | {:.1} s / {:.1} s | {cancelled} |\n",
                scenario.name,
                scenario.about,
                verdicts.len(),
                seconds(median),
                seconds(longest),
            ));
        }
    }
    text
}

#[test]
fn verdicts_of_several_runs_are_in_one_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("verdicts");
    let verdict = |seed: u64, recovery: u64, wrong: bool| {
        let violations = if wrong { r#"[{"promise": "Once", "text": "twice"}]"# } else { "[]" };
        let json = format!(
            r#"{{"scenario": "leader-killed", "server": "3.4.23", "seed": {seed}, "violations": {violations},
            "recovery": {recovery}, "took": 1, "cpu": 1, "late": 1, "jobs": 1, "runs": 1, "cancelled": 2, "epochs": 1,
            "notes": []}}"#
        );
        serde_json::from_str::<Verdict>(&json).expect("a verdict")
    };
    for (seed, recovery, wrong) in [(1, 3_000_000, false), (3, 1_000_000, true), (5, 2_000_000, false)] {
        let line = serde_json::to_string(&verdict(seed, recovery, wrong)).expect("JSON");
        let mut kept = fs::File::options().create(true).append(true).open(&file).expect("a file");
        writeln!(kept, "{line}").expect("written");
    }
    let table = Table::of(Some(file));
    let text = summary(&scenarios::all(), &table.verdicts);
    let row = text.lines().find(|line| line.contains("`leader-killed`")).expect("its row");
    assert!(row.ends_with("| 3.4.23 | 3 | 1 (Once) | 2.0 s / 3.0 s | 6 |"), "{row}");
}
