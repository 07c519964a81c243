//! Rules about the source files that no compiler lint covers.

use std::fs;
use std::path::{Path, PathBuf};

/// A longer file under `src/` needs a table of contents, and then it is two files.
const LONGEST_SOURCE_FILE: usize = 700;
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

/// Applies the checks to every file in the folders, and panics with everything that is wrong.
fn check(folders: &[&str], checks: &[Check]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = folders.iter().flat_map(|folder| rust_files(&root.join(folder))).collect();
    assert!(!files.is_empty(), "no files in {folders:?}: nothing was checked");
    let mut wrong: Vec<String> = Vec::new();
    for (path, text) in &files {
        let shown = path.strip_prefix(root).unwrap_or(path).display();
        wrong.extend(checks.iter().filter_map(|check| check(text)).map(|fault| format!("{shown}: {fault}")));
    }
    wrong.sort();
    assert!(wrong.is_empty(), "untidy:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_about() {
    check(&["src", "examples", "benches", "tests"], &[begins_with_docs]);
}

#[test]
fn source_files_are_short_their_queues_bounded_and_their_log_messages_constant() {
    check(&["src"], &[is_not_too_long, has_no_unbounded_queue, has_constant_log_messages]);
}

#[test]
fn the_checks_can_fail() {
    let long = "x\n".repeat(LONGEST_SOURCE_FILE + 1);
    let cases: [(&str, Check, &str, bool); 9] = [
        ("a file that begins with docs", begins_with_docs, "//! A file.\n", true),
        ("a file that begins with code", begins_with_docs, "mod a;\n//! Late.\n", false),
        ("a file of the greatest length", is_not_too_long, &long[2..], true),
        ("a file that is one line longer", is_not_too_long, &long, false),
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
