//! The examples end by themselves, on the etcd that they say they use, and leave nothing in one that was given.

use crate::support::{Etcd, assert_nothing_left};
use std::path::PathBuf;
use std::process::{Command, Output};

/// Builds an example, and returns the program. Together with the crate and with all features, as its tests are built:
/// then little is left to do.
fn build(example: &str) -> PathBuf {
    const BUILD: &str = "build --quiet --offline --all-features -p etcd-rules -p examples --example";
    let built = Command::new(env!("CARGO"))
        .args(BUILD.split(' '))
        .arg(example)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the example does not compile");
    let here = std::env::current_exe().expect("a path");
    here.ancestors().nth(2).expect("the folder of this build").join("examples").join(example)
}

/// Runs an example without anything on its PATH, and returns the lines that it printed.
async fn run(example: &'static str, arguments: Vec<String>) -> Vec<String> {
    let ended = tokio::task::spawn_blocking(move || {
        Command::new(build(example)).args(arguments).env("PATH", "/nonexistent").output().expect("it starts")
    });
    let Output { status, stdout, stderr } = ended.await.expect("no panic");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    stdout.lines().map(str::to_owned).collect()
}

/// The numbers in a summary such as `fired 12, failed 0`.
fn summary(lines: &[String]) -> (u64, u64) {
    let last = lines.last().map(String::as_str).unwrap_or_default();
    let numbers = last.strip_prefix("fired ").and_then(|rest| rest.split_once(", failed "));
    let (fired, failed) = numbers.unwrap_or_else(|| panic!("not a summary: {last}"));
    (fired.parse().expect("a number"), failed.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_runs_on_the_embedded_etcd_unless_told_otherwise() {
    let lines = run("quickstart", vec!["--for".to_owned(), "3s".to_owned()]).await;
    assert!(lines[0].starts_with("etcd embedded, in the memory of this program"), "{}", lines[0]);
    assert!(summary(&lines).0 >= 4, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_runs_on_an_etcd_that_it_is_given_and_cleans_up() {
    let etcd = Etcd::start().await;
    let before = etcd.revision().await;
    let arguments = ["--for", "3s", "--endpoints", &etcd.endpoint()].map(str::to_owned);
    let lines = run("quickstart", arguments.to_vec()).await;
    assert!(lines[0].contains(&etcd.endpoint()) && lines[0].contains("yours"), "{}", lines[0]);
    assert!(summary(&lines).0 >= 4, "{lines:?}");
    assert!(etcd.revision().await > before, "it used that etcd");
    assert_nothing_left(&etcd, "/", std::time::Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_polling_example_fires_exactly_as_often_as_it_must() {
    let lines = run("polling", Vec::new()).await;
    assert!(lines[0].starts_with("etcd embedded, in the memory of this program"), "{}", lines[0]);
    assert_eq!(lines.last().map(String::as_str), Some("fired 25, expected 25"));
}
