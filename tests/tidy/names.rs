//! Names that were private words of this project, and the words that its readers know.
//!
//! An identifier of the table may not be used in the places beside it. Comments and strings may contain the word,
//! because many are ordinary English. A name that is wrong for one thing only is forbidden where that thing is.

use crate::files_of;
use crate::imports::Files;
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use syn::ext::IdentExt;

/// Names, what to say instead, and the modules or other places in which the names are forbidden.
type Rename = (&'static [&'static str], &'static str, &'static [&'static str]);

const EVERYWHERE: &[&str] = &["src"];

const RENAMES: &[Rename] = &[
    (&["Pending"], "WorkQueue", &["src/dispatch"]),
    (&["Pending"], "PendingRead", &["src/firing"]),
    (&["Record"], "InstanceState", EVERYWHERE),
    (&["Busy", "LiveFiring"], "ActiveFiring", &["src/dispatch", "src/engine", "src/testing"]),
    (
        &["Live"],
        "ActiveFirings",
        &["src/dispatch/actor", "src/dispatch/running.rs", "src/engine", "src/testing"],
    ),
    (&["Census"], "WorkqueueStats", EVERYWHERE),
    (&["Note"], "an event of WorkqueueStats", EVERYWHERE),
    (&["Load"], "depth", EVERYWHERE),
    (&["Path"], "TriggerLatency", &["src/dispatch"]),
    (&["Came"], "Timestamps", EVERYWHERE),
    (&["KnownMark"], "InstanceMark, with a MarkKind", EVERYWHERE),
    (&["KeyMark"], "KeyHash", EVERYWHERE),
    (&["Ticket"], "QueueEntry in the work queue, LeaseTicket for leases", EVERYWHERE),
    (&["ageing"], "starvation_limit", EVERYWHERE),
    (&["Keeper"], "LeaseManager", EVERYWHERE),
    (&["keeper"], "lease_manager", &["src/dispatch", "src/engine", "src/lock"]),
    (&["Releases"], "LockWatcher", EVERYWHERE),
    (&["Requests"], "TxnSender", &["src/crawl", "src/dispatch", "src/engine", "src/lock"]),
    (&["LockStep"], "AcquireTxn", EVERYWHERE),
    (&["EndStep"], "CommitTxn", EVERYWHERE),
    (&["LockEnd"], "LockOutcome", EVERYWHERE),
    (&["EndEnd"], "CommitOutcome", EVERYWHERE),
    (&["Elsewhere"], "RemoteHolder", &["src/dispatch"]),
    (&["Elsewhere"], "UnwatchedKeys", &["src/simulation"]),
    (&["overrule"], "supersedes_backoff", EVERYWHERE),
    (&["Link"], "EtcdClient", EVERYWHERE),
    (&["carry", "Cargo", "Carrier"], "TokenChannel", EVERYWHERE),
    (&["Reader"], "Subscriber", EVERYWHERE),
    (&["Appeared"], "Created", EVERYWHERE),
    (&["Vanished"], "Deleted", EVERYWHERE),
    (&["Found"], "KeyValue", EVERYWHERE),
    (&["soil"], "mark_dirty", EVERYWHERE),
    (&["bury"], "tombstone", EVERYWHERE),
    (&["dig"], "collect_tombstones", EVERYWHERE),
    (&["graves"], "tombstones", EVERYWHERE),
    (&["suspects"], "mismatches", EVERYWHERE),
    (&["Sighting"], "LastEvent", EVERYWHERE),
    (&["Heard"], "WatchMessage", EVERYWHERE),
    (&["Standings"], "WatchProgress", EVERYWHERE),
    (&["Following"], "StreamGeneration", EVERYWHERE),
    (&["Splits", "Learned"], "SplitPoints", &["src/crawl", "src/read", "src/watch"]),
    (&["Pace", "Rests"], "Throttle", EVERYWHERE),
    (&["Part"], "SupervisedActor", &["src/engine", "src/runtime"]),
    (&["Part"], "ChangeBatch", &["src/watch"]),
    (&["Part"], "Operation", &["src/lock"]),
    (&["Stage"], "ActorThread", &["src/engine", "src/runtime"]),
    (&["Brakes", "Brake", "brakes", "brake"], "RuleControls, or Controls for those of one rule", EVERYWHERE),
    (&["Generation"], "Incarnation", EVERYWHERE),
    (&["Telling", "RunTelling"], "Telemetry", EVERYWHERE),
    (&["told"], "notified", &["src/dispatch", "src/events", "src/health", "src/metrics", "src/runtime"]),
    (
        &["tell"],
        "emit an event, report the end of a callback; only a message is told to an actor",
        &["src/dispatch/run", "src/evaluate", "src/events", "src/health", "src/metrics"],
    ),
    (&["settle"], "what waits, and for what", &["src/dispatch/actor", "src/dispatch/record", "src/health"]),
    (&["Settling", "settle_down", "settled"], "AwaitingOwnEvent", &["src/dispatch", "src/health"]),
    (&["Finish", "Then"], "FiringOutcome", &["src/dispatch", "src/firing"]),
    (&["FiringEnd"], "AfterFiring", EVERYWHERE),
    (&["Locked"], "LockReply", &["src/lock"]),
    (&["Ended"], "EndReply", &["src/lock"]),
    (
        &["look"],
        "status",
        &["src/dispatch/actor", "src/dispatch/work_queue", "src/engine", "src/index/actor"],
    ),
    (&["hand_on"], "pass_lock", EVERYWHERE),
    (&["hand_over"], "flush_answers", EVERYWHERE),
    (&["hand_out"], "flush", EVERYWHERE),
    (&["latest"], "watch_cell", &["src/lib.rs"]),
    (&["Latest"], "WatchCell", EVERYWHERE),
    (&["Setter"], "WatchCellSender", EVERYWHERE),
    (&["broken"], "mutants", &["src/lib.rs"]),
    (&["Promise"], "Mutant", EVERYWHERE),
    (&["is_broken"], "is_active", EVERYWHERE),
    (&["Shown"], "View", &["src/http"]),
    (&["Refused"], "ApiError", &["src/http"]),
    (&["ask"], "handler", &["src/http"]),
    (&["respond"], "router", &["src/http"]),
    (&["On"], "RequestKind", &["src/embedded", "src/simulation"]),
    (&["Refusal"], "RpcError", EVERYWHERE),
    (&["Way"], "LinkState", EVERYWHERE),
    (&["strike"], "apply_fault", EVERYWHERE),
    (&["led"], "wait_for_leader", EVERYWHERE),
    (&["thawed"], "wait_until_thawed", EVERYWHERE),
    (&["Story"], "History", EVERYWHERE),
    (&["Act"], "PlanStep", EVERYWHERE),
    (&["Life"], "EngineRun", EVERYWHERE),
    (&["Later"], "Heal", EVERYWHERE),
    (&["calm"], "quiesce", &["src/simulation"]),
    (&["Held"], "Gate", &["benches"]),
    (&["Held"], "HeldMutex", &["src/crawl"]),
    (&["Held"], "KeyContent", &["src/index"]),
    (&["Noted"], "BenchRecorder", &["benches"]),
    (&["Apart"], "CorePinning", &["benches"]),
    (&["told"], "what it is: testimony, reported, delivered", &["src/etcd", "src/index"]),
    (&["Told"], "IdentityAnswer, or ReportTrouble for a function", &["src/etcd"]),
    (&["ask"], "read_testimony, request_token, request_decision", &["src/etcd", "src/index"]),
    (&["look", "Look"], "report_events, ViewedKey, observe", &["src/etcd", "src/index"]),
    (&["settle"], "apply_merge", &["src/index/mod.rs"]),
    (&["Mistake"], "ConfigError", EVERYWHERE),
    (&["Missed"], "Lagged", &["src/events"]),
];

/// Whether a file is this one, in this folder, or that of the folder's module.
fn is_in(file: &str, place: &str) -> bool {
    file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// The first line of every identifier in the tokens.
fn identifiers(tokens: TokenStream, found: &mut BTreeMap<String, usize>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                found.entry(name.unraw().to_string()).or_insert(name.span().start().line);
            }
            TokenTree::Group(group) => identifiers(group.stream(), found),
            TokenTree::Literal(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Every forbidden name in the files, at its first line in each.
fn faults(files: &Files) -> Vec<String> {
    let mut faults = BTreeSet::new();
    for (file, text) in files {
        let tokens: TokenStream = match text.parse() {
            Ok(tokens) => tokens,
            Err(error) => {
                faults.insert((file, 0, format!("is no Rust: {error}")));
                continue;
            }
        };
        let mut found = BTreeMap::new();
        identifiers(tokens, &mut found);
        for (names, instead, places) in RENAMES {
            if places.iter().any(|place| is_in(file, place)) {
                let wrong = names.iter().filter_map(|name| Some((name, *found.get(*name)?)));
                faults.extend(wrong.map(|(name, line)| (file, line, format!("`{name}`: say {instead}"))));
            }
        }
    }
    faults.into_iter().map(|(file, line, fault)| format!("{file}:{line}: {fault}")).collect()
}

#[test]
fn the_places_of_the_table_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = |place: &str| root.join(place).exists() || root.join(format!("{place}.rs")).exists();
    let gone: BTreeSet<&str> =
        RENAMES.iter().flat_map(|(_, _, places)| *places).copied().filter(|place| !there(place)).collect();
    assert!(gone.is_empty(), "nothing is checked there, name what took their place: {gone:?}");
}

#[test]
fn names_are_words_that_readers_know() {
    let faults = faults(&files_of(&["src", "benches"]));
    assert!(faults.is_empty(), "untidy:\n{}", faults.join("\n"));
}

#[test]
fn a_name_is_noticed_as_an_identifier_and_only_where_it_is_forbidden() {
    let cases = [
        ("a type", "src/lock/a.rs", "struct Keeper;", Some("src/lock/a.rs:1: `Keeper`: say LeaseManager")),
        ("a function", "src/index/a.rs", "\nfn soil() {}", Some("src/index/a.rs:2: `soil`: say mark_dirty")),
        ("a raw identifier", "src/a.rs", "fn r#dig() {}", Some("src/a.rs:1: `dig`: say collect_tombstones")),
        ("in a macro", "src/a.rs", "m! { [(Link)] }", Some("src/a.rs:1: `Link`: say EtcdClient")),
        (
            "the file of a module",
            "src/dispatch.rs",
            "type T = Pending;",
            Some("src/dispatch.rs:1: `Pending`: "),
        ),
        (
            "a file below a module",
            "src/dispatch/work_queue/b.rs",
            "mod look;",
            Some("src/dispatch/work_queue/b.rs:1: `look`: "),
        ),
        ("a benchmark", "benches/etcd/a.rs", "struct Held;", Some("benches/etcd/a.rs:1: `Held`: say Gate")),
        ("elsewhere", "src/embedded/a.rs", "Poll::Pending", None),
        ("a module whose name only begins so", "src/dispatcher/a.rs", "struct Pending;", None),
        ("a comment", "src/lock/a.rs", "// Keeper\n/* Keeper */ /// Keeper\nstruct S;", None),
        ("a string", "src/lock/a.rs", "const S: &str = \"Keeper\";", None),
        ("a longer name", "src/lock/a.rs", "struct BookKeeper; fn bookkeeper() {}", None),
    ];
    for (case, file, text, expected) in cases {
        let faults = faults(&Files::from([(file.to_owned(), text.to_owned())]));
        match expected {
            Some(expected) => {
                assert!(faults.len() == 1 && faults[0].starts_with(expected), "{case}: {faults:#?}");
            }
            None => assert!(faults.is_empty(), "{case}: {faults:#?}"),
        }
    }
}
