//! Rules about the source files that no compiler lint covers.
//!
//! | file | subject |
//! |---|---|
//! | `main.rs` | how a file begins, how long and wide it is, its queues and log messages; tests of options |
//! | [`layers`] | the layers of the modules, and circles |
//! | [`maps`] | that the maps of the house name every file |
//! | [`names`], [`types`] | names that have a better one; names that several types have |
//! | [`threats`] | the tests that the page on threats names |
//! | [`imports`], [`resolve`] | every path in the code, and what it leads to |

mod imports;
mod layers;
mod maps;
mod names;
mod resolve;
mod threats;
mod types;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A longer file needs a table of contents, and then it is two files.
const LONGEST_SOURCE_FILE: usize = 500;
/// In characters. What is longer is read by nobody beside a second file.
const WIDEST_COMMENT: usize = 120;
/// What ignores or lacks a bound; see `clippy.toml`, which a local `allow` could silence.
const UNBOUNDED: [&str; 2] = ["do_send(", "unbounded_channel"];

type Check = fn(&str) -> Option<String>;

/// The first line says what the file is about.
fn begins_with_docs(text: &str) -> Option<String> {
    // The crate's own documentation begins with the README.
    let begins = text.starts_with("//! ") || text.starts_with("#![doc = include_str!");
    (!begins).then(|| "does not begin with a `//!` line that says what it is about".to_owned())
}

fn is_not_too_long(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LONGEST_SOURCE_FILE)
        .then(|| format!("has {lines} lines, more than {LONGEST_SOURCE_FILE}: split it"))
}

/// Comments are hardly wider than the code. Tables and examples can't be broken.
fn has_no_wide_comment(text: &str) -> Option<String> {
    let mut in_example = false;
    text.lines().zip(1..).find_map(|(line, number)| {
        let comment = line.trim_start().strip_prefix("//")?.trim_start_matches(['/', '!']);
        in_example ^= comment.trim_start().starts_with("```");
        let whole = in_example || comment.starts_with("     ") || comment.trim_start().starts_with('|');
        (!whole && line.chars().count() > WIDEST_COMMENT)
            .then(|| format!("line {number}: a comment of more than {WIDEST_COMMENT} characters"))
    })
}

/// Every queue is bounded. Comments may name the things that are not.
fn has_no_unbounded_queue(text: &str) -> Option<String> {
    let mut code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.find_map(|(number, line)| {
        let word = UNBOUNDED.iter().find(|word| line.contains(**word))?;
        Some(format!("line {}: `{word}` has no bound", number + 1))
    })
}

/// Lines of the log have constant messages, so that they can be counted and searched for; what varies is in
/// fields.
fn has_constant_log_messages(text: &str) -> Option<String> {
    const MACROS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
    text.match_indices("tracing::").find_map(|(at, path)| {
        let rest = &text[at + path.len()..];
        let called = MACROS.iter().find(|name| rest.starts_with(**name))?;
        let call = &rest[called.len()..];
        let call = call.split_inclusive(");").next().unwrap_or(call);
        let message = call.rsplit('"').nth(1)?;
        (message.contains('{')).then(|| format!("the log message \"{message}\" is not constant: use fields"))
    })
}

/// Every `.rs` file in a folder of the project, with its text; none if there is no such folder.
fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable source file");
            files.push((path, text));
        }
    }
    files
}

/// Every `.rs` file in these folders of the project, by its path from the project's root.
fn files_of(folders: &[&str]) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: BTreeMap<String, String> = folders
        .iter()
        .flat_map(|folder| rust_files(&root.join(folder)))
        .map(|(path, text)| {
            let parts = path.strip_prefix(root).expect("a file of the project").components();
            let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
            (parts.join("/"), text)
        })
        .collect();
    assert!(!files.is_empty(), "no files in {folders:?}: nothing was checked");
    files
}

/// Applies the checks to every file in the folders, and panics with everything that is wrong.
fn check(folders: &[&str], checks: &[Check]) {
    let mut wrong: Vec<String> = Vec::new();
    for (path, text) in files_of(folders) {
        wrong.extend(checks.iter().filter_map(|check| check(&text)).map(|fault| format!("{path}: {fault}")));
    }
    wrong.sort();
    assert!(wrong.is_empty(), "untidy:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_about() {
    check(&["src", "examples", "benches", "tests"], &[begins_with_docs]);
}

#[test]
fn files_are_short_and_narrow_queues_bounded_and_log_messages_constant() {
    check(&["src", "examples", "benches", "tests"], &[is_not_too_long, has_no_wide_comment]);
    check(&["src"], &[has_no_unbounded_queue, has_constant_log_messages]);
}

#[test]
fn the_checks_can_fail() {
    let long = "x\n".repeat(LONGEST_SOURCE_FILE + 1);
    let wide = format!("/// {}", "word ".repeat(24));
    let table = wide.replacen("///", "/// |", 1);
    let example = format!("/// ```\n{wide}\n/// ```\n");
    let after = format!("{example}    {wide}");
    let cases: [(&str, Check, &str, bool); 13] = [
        ("a file that begins with docs", begins_with_docs, "//! A file.\n", true),
        ("a file that begins with code", begins_with_docs, "mod a;\n//! Late.\n", false),
        ("a file of the greatest length", is_not_too_long, &long[2..], true),
        ("a file that is one line longer", is_not_too_long, &long, false),
        ("a wide comment", has_no_wide_comment, &wide, false),
        ("a row of a table", has_no_wide_comment, &table, true),
        ("a wide line of an example", has_no_wide_comment, &example, true),
        ("a wide comment after an example", has_no_wide_comment, &after, false),
        ("a comment about `do_send`", has_no_unbounded_queue, "    // do_send( ignores the bound\n", true),
        ("a call of `do_send`", has_no_unbounded_queue, "//! A.\n    address.do_send(message);\n", false),
        (
            "a constant log message",
            has_constant_log_messages,
            "tracing::warn!(%rule, text = format!(\"{n}\"), \"it failed\");",
            true,
        ),
        (
            "a log message that varies",
            has_constant_log_messages,
            "tracing::warn!(\n    rule,\n    \"{rule} failed\"\n);",
            false,
        ),
        ("an unbounded channel", has_no_unbounded_queue, "let (a, b) = mpsc::unbounded_channel();\n", false),
    ];
    for (case, check, text, passes) in cases {
        assert_eq!(check(text).is_none(), passes, "{case}");
    }
}

/// An option, and the file (see [`test_file`]) and the name of its test.
type Shown = (&'static str, &'static str, &'static str);

/// Every option of an engine and of a rule, with the test that shows its effect.
const OPTIONS: &[(&str, &[Shown])] = &[
    (
        "src/embedded/server.rs",
        &[
            ("port", "embedded/foreign", "the_address_is_chosen_and_advertised"),
            ("address", "embedded/foreign", "the_address_is_chosen_and_advertised"),
            ("advertise", "embedded/foreign", "the_address_is_chosen_and_advertised"),
        ],
    ),
    (
        "src/engine/builder.rs",
        &[
            ("rule", "firing", "what_is_true_at_start_and_what_becomes_true_fires_once"),
            ("rules", "firing", "rules_without_attributes_and_of_equal_keys_fire"),
            (
                "expand",
                "expansion",
                "an_expanded_attribute_resolves_everywhere_and_other_values_do_not_exist",
            ),
            ("constrain", "expansion", "a_constraint_hides_all_other_keys_even_where_the_watch_is_wider"),
            ("name", "operations/scrape", "a_scrape_shows_what_happened"),
            ("namespace", "options", "locks_lie_below_the_namespace"),
            ("concurrency", "options", "no_more_callbacks_run_than_the_engine_and_each_rule_allow"),
            ("evaluators", "threads", "nothing_remains_after_a_shutdown_or_a_drop"),
            ("settle", "options", "what_flickers_does_not_fire_where_it_must_settle"),
            (
                "instance_rate",
                "tracing/main",
                "rules_that_undo_each_other_are_slowed_down_and_the_log_names_both",
            ),
            ("lock_ttl", "options", "every_lock_has_the_time_to_live_of_its_rule_or_else_of_the_engine"),
            ("crawl_interval", "crawl", "crawls_come_at_the_interval_with_as_much_jitter_as_is_wanted"),
            ("crawl_jitter", "crawl", "crawls_come_at_the_interval_with_as_much_jitter_as_is_wanted"),
            ("crawl_rate", "crawl", "a_crawl_reads_no_faster_than_its_rate"),
            ("owners", "fleet", "an_engine_that_is_no_member_tries_everything_and_writes_no_key"),
            ("crawl_mutex", "crawl", "with_a_mutex_one_engine_crawls_at_a_time_and_without_several_do"),
            ("crawl_ageing", "crawl", "what_a_crawl_found_waits_for_live_work_until_it_has_aged"),
            ("start_timeout", "embedding", "without_etcd_it_keeps_trying_or_fails_in_time_as_configured"),
            ("shutdown_deadline", "options", "run_until_lets_callbacks_finish_until_its_deadline"),
            ("lag_limit", "health", "lagging_while_the_index_is_held_up"),
            ("max_txn_ops", "configuration", "more_keys_than_a_transaction_allows_is_a_mistake"),
            ("max_request_bytes", "large", "what_is_larger_than_the_option_allows_is_given_up"),
            ("reveal", "tracing/main", "no_key_and_no_value_is_told_unless_it_may_be"),
            ("batch_size", "options", "a_batch_size_of_one_sends_every_transaction_alone"),
            (
                "event_buffer",
                "events",
                "a_receiver_that_does_not_receive_holds_up_nothing_and_is_told_what_it_missed",
            ),
            ("runtime", "options", "callbacks_run_on_the_runtime_that_was_given"),
        ],
    ),
    (
        "src/engine/link_options.rs",
        &[
            ("key_prefix", "key_prefix", "engines_under_two_prefixes_share_nothing"),
            ("connect_options", "trouble", "a_rule_without_permission_fails_alone_and_recovers"),
            ("credentials", "credentials", "a_password_changes_under_a_running_engine"),
            (
                "connect_timeout",
                "options",
                "a_connection_that_does_not_come_about_is_given_up_after_the_connect_timeout",
            ),
            (
                "request_timeout",
                "options",
                "a_request_without_an_answer_is_given_up_after_the_request_timeout",
            ),
            ("cluster_id", "cluster", "an_endpoint_of_another_cluster_is_not_used"),
            ("watch_silence", "options", "a_watch_that_is_silent_is_left_after_twice_the_silence"),
            ("rebalance", "spread", "after_a_rolling_restart_no_member_has_more_than_twice_its_share"),
        ],
    ),
    (
        "src/engine/for_rules.rs",
        &[
            ("layer", "layers", "layers_are_around_every_callback_and_the_first_is_the_outermost"),
            ("time_limit", "layers", "an_engine_has_a_time_limit_for_all_rules_and_a_rule_its_own"),
            ("backoff", "layers", "an_engine_has_a_backoff_for_all_rules_and_a_rule_its_own"),
            ("rule_concurrency", "layers", "an_engine_has_limits_for_all_rules_and_a_rule_its_own"),
            ("rule_rate_limit", "layers", "an_engine_has_limits_for_all_rules_and_a_rule_its_own"),
            ("min_interval", "layers", "an_engine_has_limits_for_all_rules_and_a_rule_its_own"),
        ],
    ),
    (
        "src/http/mod.rs",
        &[
            ("endpoint", "http", "probes_follow_the_health_of_all_engines"),
            ("address", "http", "on_an_address_that_others_reach_pages_are_served_only_if_told"),
            ("metrics", "http", "only_reading_is_possible_and_only_as_it_should"),
            ("page", "http", "on_an_address_that_others_reach_pages_are_served_only_if_told"),
        ],
    ),
    (
        "src/rule/shown.rs",
        &[
            ("show", "shown", "a_shown_key_makes_no_instance_and_fires_nothing"),
            (
                "show_unchecked",
                "shown",
                "an_optimistic_commit_expects_a_shown_key_unchanged_unless_it_is_unchecked",
            ),
        ],
    ),
    (
        "src/rule/mod.rs",
        &[
            ("when", "firing", "what_is_true_at_start_and_what_becomes_true_fires_once"),
            ("lock", "locks", "rules_that_share_a_lock_exclude_each_other_within_and_across_engines"),
            ("poll", "polling", "it_polls_again_and_again_and_never_before_the_interval"),
            ("time_limit", "firing", "a_time_limit_ends_a_callback_and_counts_as_a_failure"),
            ("lock_ttl", "options", "every_lock_has_the_time_to_live_of_its_rule_or_else_of_the_engine"),
            ("concurrency", "options", "no_more_callbacks_run_than_the_engine_and_each_rule_allow"),
            ("settle", "options", "what_flickers_does_not_fire_where_it_must_settle"),
            (
                "instance_rate",
                "tracing/main",
                "rules_that_undo_each_other_are_slowed_down_and_the_log_names_both",
            ),
            (
                "rate_limit",
                "controls",
                "of_a_rule_with_a_rate_limit_so_many_start_at_once_and_the_rest_one_by_one",
            ),
            (
                "min_interval",
                "controls",
                "an_instance_of_a_rule_with_a_least_interval_rests_between_two_firings",
            ),
            ("dry_run", "controls", "in_a_dry_run_nothing_happens_but_that_it_is_counted_listed_and_told"),
            ("paused", "controls", "a_rule_may_begin_paused_and_is_so_in_its_own_engine_only"),
            ("backoff", "locks", "a_foreign_change_cuts_the_wait_to_the_base_delay"),
            ("layer", "layers", "layers_are_around_every_callback_and_the_first_is_the_outermost"),
            ("optimistic", "firing", "optimistic_rules_fire_without_a_lock"),
            ("run", "firing", "failures_are_retried_with_backoff_and_a_panic_is_a_failure"),
        ],
    ),
];

/// The methods of a builder that change it: `pub fn name(mut self, …)`, also over several lines.
fn options(text: &str) -> Vec<&str> {
    let public = text.split("\n    pub fn ").skip(1).filter(|method| {
        let arguments = method.split_once('(').map_or("", |(_, arguments)| arguments);
        arguments.trim_start().starts_with("mut self")
    });
    public.map(|method| method.split(['(', '<']).next().unwrap_or_default()).collect()
}

/// The names of the tests in a text: functions right behind `#[test]` or `#[tokio::test…]`.
fn tests(text: &str) -> Vec<&str> {
    let marked = text.split("\n#[test]\n").skip(1).chain(text.split("\n#[tokio::test").skip(1));
    let named = marked.filter_map(|marked| marked.split_once("fn ")?.1.split('(').next());
    named.collect()
}

/// The path of a file of tests: a module of the integration tests, or else a path below `tests/`.
fn test_file(root: &Path, name: &str) -> String {
    let module = format!("tests/integration/{name}.rs");
    if root.join(&module).exists() { module } else { format!("tests/{name}.rs") }
}

#[test]
fn every_option_has_a_test_that_shows_its_effect() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a readable source file");
    let mut wrong = Vec::new();
    for (source, table) in OPTIONS {
        let text = read(source);
        let found = options(&text);
        let listed: Vec<&str> = table.iter().map(|(option, ..)| *option).collect();
        let missing = found.iter().filter(|option| !listed.contains(option));
        wrong.extend(missing.map(|option| format!("{source}: no test is listed for the option `{option}`")));
        let gone = listed.iter().filter(|option| !found.contains(option));
        wrong.extend(gone.map(|option| format!("{source}: there is no option `{option}` (any more)")));
        for (option, file, test) in *table {
            let file = test_file(root, file);
            if !tests(&read(&file)).contains(test) {
                wrong.push(format!("{source}: the test of `{option}`, `{test}`, is not in {file}"));
            }
        }
    }
    assert!(wrong.is_empty(), "add them to `OPTIONS` in tests/tidy/main.rs:\n{}", wrong.join("\n"));
}

#[test]
fn options_and_tests_are_found() {
    let source = "impl B {\n    pub fn one(mut self) -> Self {\n    pub fn two<V: Into<String>>(\n        mut self,\n    pub fn three(&self)\n    fn four(mut self)\n";
    assert_eq!(options(source), ["one", "two"]);
    let source = "use x;\n#[test]\nfn one() {}\n\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn two() {}\nfn three() {}\n";
    assert_eq!(tests(source), ["one", "two"]);
}
