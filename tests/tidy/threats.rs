//! The tests that `docs/threats.md` names exist.

use std::fs;
use std::path::Path;

/// The tests of a text, in modules of it too.
fn tests(text: &str) -> Vec<&str> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            let named = lines.find_map(|line| line.split_once("fn ")?.1.split('(').next());
            found.extend(named);
        }
    }
    found
}

/// `file: test` of each row of a table, and rows that name none.
fn rows(page: &str) -> Vec<Result<(&str, &str), &str>> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    rows.map(|row| {
        let last = row.trim_end_matches([' ', '|']).rsplit("| ").next().unwrap_or_default();
        last.trim_matches('`').split_once(": ").filter(|(file, _)| file.ends_with(".rs")).ok_or(row)
    })
    .collect()
}

#[test]
fn every_answer_to_a_threat_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/threats.md")).expect("a readable page");
    let rows = rows(&page);
    assert!(rows.len() > 20, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        match row {
            Err(row) => wrong.push(format!("no test is named: {row}")),
            Ok((file, test)) => match fs::read_to_string(root.join(file)) {
                Ok(text) if tests(&text).contains(&test) => {}
                Ok(_) => wrong.push(format!("there is no test {test} in {file}")),
                Err(error) => wrong.push(format!("{file}: {error}")),
            },
        }
    }
    assert!(wrong.is_empty(), "docs/threats.md:\n{}", wrong.join("\n"));
}

#[test]
fn rows_and_tests_are_found() {
    let page = "| what | the answer | test |\n|---|---|---|\n| a | b | `src/a.rs: one` |\n| a | b | none |\n";
    assert_eq!(rows(page), [Ok(("src/a.rs", "one")), Err("| a | b | none |")]);
    let source = "#[test]\nfn one() {}\nmod tests {\n    #[tokio::test(start_paused = true)]\n    #[ignore]\n    async fn two() {}\n    fn three() {}\n}\n";
    assert_eq!(tests(source), ["one", "two"]);
}
