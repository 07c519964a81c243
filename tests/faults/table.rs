//! The table of `docs/reliability.md`, of one run of the suite or of several.

use crate::moment::{Micros, seconds};
use crate::scenario::{Scenario, Verdict};
use crate::scenarios;
use crate::side_by_side::NO_SERVER;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A violation of a run is doubtful if the machine was so late in waking a thread that only slept.
pub const LATE: Micros = 500_000;

/// All verdicts so far, in a file with a line for each: `FAULTS_VERDICTS`, or `target/faults.jsonl`.
pub struct Table {
    verdicts: Vec<Verdict>,
    file: PathBuf,
}

impl Table {
    /// With `RESUME=1` it has what the file keeps. Otherwise it is empty, and the file that was there is kept beside.
    pub fn open() -> Self {
        let file = std::env::var_os("FAULTS_VERDICTS").filter(|file| !file.is_empty());
        let file = file.map_or_else(|| target().join("faults.jsonl"), PathBuf::from);
        let resumes = std::env::var_os("RESUME").is_some_and(|value| !value.is_empty() && value != "0");
        Self::of(file, resumes)
    }

    fn of(file: PathBuf, resumes: bool) -> Self {
        if !resumes {
            let mut old = file.clone().into_os_string();
            old.push(".old");
            // There may be none.
            let _ = fs::rename(&file, old);
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        // The last line may be half of one.
        let verdicts = kept.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut this = Self { verdicts: verdicts.filter(has_shown).collect(), file };
        this.write();
        this
    }

    pub fn has(&self, scenario: &str, seed: u64) -> bool {
        self.verdicts.iter().any(|verdict| verdict.scenario == scenario && verdict.seed == seed)
    }

    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Adds a verdict, and writes `target/faults.md` anew, so that a run that is broken off leaves it too.
    pub fn add(&mut self, verdict: Verdict) {
        let line = line(&verdict);
        self.verdicts.push(verdict);
        let mut file =
            fs::File::options().create(true).append(true).open(&self.file).expect("a file for verdicts");
        file.write_all(line.as_bytes()).expect("the verdict can be written");
        let table = target().join("faults.md");
        fs::write(&table, summary(&scenarios::all(), &self.verdicts)).expect("the table can be written");
    }

    fn write(&mut self) {
        let lines: String = self.verdicts.iter().map(line).collect();
        fs::write(&self.file, lines).expect("verdicts can be written");
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

fn line(verdict: &Verdict) -> String {
    let mut line = serde_json::to_string(verdict).expect("a verdict as JSON");
    line.push('\n');
    line
}

/// A run that ended without a verdict is to be run again.
fn has_shown(verdict: &Verdict) -> bool {
    verdict.server != NO_SERVER
}

/// What was run, in a sentence.
fn heading(verdicts: &[Verdict]) -> String {
    let of = |what: fn(&Verdict) -> &str| verdicts.iter().map(what).collect::<BTreeSet<_>>();
    let scenarios = of(|verdict| &verdict.scenario).len();
    let servers = of(|verdict| &verdict.server).into_iter().collect::<Vec<_>>().join(" and ");
    let seeds = verdicts.iter().map(|verdict| verdict.seed);
    let (first, last) = (seeds.clone().min().unwrap_or_default(), seeds.max().unwrap_or_default());
    let wrong = verdicts.iter().filter(|verdict| !verdict.violations.is_empty());
    let (wrong, doubtful) = (wrong.clone().count(), wrong.filter(|verdict| verdict.late > LATE).count());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "\n{} runs of {scenarios} scenarios, seeds {first} to {last}, on {servers}, on {cores} processors: {wrong} with \
         violations, of which {doubtful} are doubtful, because the machine was busy.\n\n",
        verdicts.len()
    )
}

/// The table.
fn summary(all: &[Scenario], verdicts: &[Verdict]) -> String {
    let mut text = heading(verdicts);
    text.push_str(
        "| scenario | what happens | etcd | runs | with violations | recovery, median / longest | callbacks told to end |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for scenario in all {
        let mut by_server: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
        for verdict in verdicts.iter().filter(|verdict| verdict.scenario == scenario.name) {
            by_server.entry(&verdict.server).or_default().push(verdict);
        }
        for (server, verdicts) in by_server {
            let mut recoveries: Vec<_> = verdicts.iter().map(|verdict| verdict.recovery).collect();
            recoveries.sort_unstable();
            let (median, longest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
            let wrong = verdicts.iter().filter(|verdict| !verdict.violations.is_empty());
            let (wrong, doubtful) = (wrong.clone().count(), wrong.filter(|run| run.late > LATE).count());
            let cancelled: usize = verdicts.iter().map(|verdict| verdict.cancelled).sum();
            let mut broken: BTreeSet<String> = verdicts
                .iter()
                .flat_map(|verdict| &verdict.violations)
                .map(|violation| format!("{:?}", violation.promise))
                .collect();
            broken.extend((doubtful > 0).then(|| format!("{doubtful} doubtful")));
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
    text.push('\n');
    text
}

#[test]
fn verdicts_of_several_runs_are_in_one_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("verdicts");
    let verdict = |seed: u64, recovery: u64, wrong: bool, server: &str| {
        let violations = if wrong { r#"[{"promise": "Once", "text": "twice"}]"# } else { "[]" };
        let late = if seed == 3 { LATE + 1 } else { 1 };
        let json = format!(
            r#"{{"scenario": "leader-killed", "server": "{server}", "seed": {seed}, "violations": {violations},
            "recovery": {recovery}, "took": 1, "cpu": 1, "late": {late}, "jobs": 1, "runs": 1, "cancelled": 2,
            "epochs": 1, "notes": []}}"#
        );
        serde_json::from_str::<Verdict>(&json).expect("a verdict")
    };
    let mut kept = String::new();
    for (seed, recovery, wrong, server) in [
        (1, 3_000_000, false, "3.4.23"),
        (3, 1_000_000, true, "3.4.23"),
        (5, 2_000_000, false, "3.4.23"),
        (7, 0, true, NO_SERVER),
    ] {
        kept += &line(&verdict(seed, recovery, wrong, server));
    }
    // The suite was killed while it wrote.
    kept += &line(&verdict(9, 1, false, "3.4.23"))[..40];
    fs::write(&file, &kept).expect("written");
    let table = Table::of(file.clone(), true);
    let has = |seed| table.has("leader-killed", seed);
    assert_eq!([1, 3, 5, 7, 9].map(has), [true, true, true, false, false], "what is to be run again");
    let text = summary(&scenarios::all(), &table.verdicts);
    let row = text.lines().find(|line| line.contains("`leader-killed`")).expect("its row");
    assert!(row.ends_with("| 3.4.23 | 3 | 1 (1 doubtful, Once) | 2.0 s / 3.0 s | 6 |"), "{row}");
    assert!(text.trim_start().starts_with("3 runs of 1 scenarios, seeds 1 to 5, on 3.4.23, on "), "{text}");
    assert_eq!(Table::of(file.clone(), true).verdicts.len(), 3, "only what is whole is kept");
    assert!(Table::of(file.clone(), false).verdicts.is_empty());
    let beside = fs::read_to_string(folder.path().join("verdicts.old")).expect("the old file");
    assert_eq!((beside.lines().count(), fs::read_to_string(file).expect("a file")), (3, String::new()));
}
