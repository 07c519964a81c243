//! The first example of the README runs as it stands there: only the endpoint is another one.

use crate::support::{Etcd, assert_nothing_left, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The first Rust block, with the lines that the documentation hides.
fn example() -> String {
    let readme = include_str!("../../README.md");
    let block = readme.split("```").find_map(|block| block.strip_prefix("rust,no_run\n"));
    let lines = block.expect("the README begins with an example").lines();
    lines.map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect()
}

/// Builds the program in a package of its own, that depends on this crate as a user's would; but with the features
/// and the profile that the dependencies of these tests have. So this crate is compiled once more, and they are not.
fn build(endpoint: &str) -> std::path::PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    std::fs::create_dir_all(package.join("src")).unwrap();
    let ours = include_str!("../../Cargo.toml");
    let profiles = &ours[ours.find("[profile.dev]").expect("the profiles are last in the manifest")..];
    let features = ["embedded", "http", "prometheus", "tls", "tls-roots"];
    let manifest = format!(
        "[package]\nname = \"readme\"\nedition = \"2024\"\n\n[dependencies]\n\
         etcd-rules = {{ path = {here:?}, features = {features:?} }}\n\
         tokio = {{ version = \"1\", features = [\"full\", \"test-util\"] }}\n\n[workspace]\n\n{profiles}"
    );
    std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
    std::fs::copy(here.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let program = example().replace("127.0.0.1:2379", endpoint);
    assert!(program.contains(endpoint), "the example names the endpoint");
    std::fs::write(package.join("src/main.rs"), program).unwrap();
    // Where these tests are built, too.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(&package)
        .status()
        .unwrap();
    assert!(built.success(), "the example does not compile");
    target.join("debug/readme")
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_example_of_the_readme_runs() {
    let etcd = Etcd::start().await;
    let program = build(&etcd.endpoint());
    etcd.put("/servers/one/ip", "10.0.0.1").await;
    etcd.put("/servers/one/state", "active").await;
    let mut running = Running(Command::new(program).spawn().unwrap());
    eventually(20 * SECOND, "it polled", async || etcd.get("/servers/one/status").await == Some("ok".into()))
        .await;
    etcd.delete("/servers/one/status").await;
    eventually(20 * SECOND, "and again", async || etcd.get("/servers/one/status").await.is_some()).await;
    kill(Pid::from_raw(running.0.id() as i32), Signal::SIGINT).unwrap();
    let mut ended = None;
    eventually(20 * SECOND, "Ctrl-C ends it", async || {
        ended = running.0.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert!(ended.unwrap().success());
    etcd.delete("/servers/internal/one/poll_delay").await;
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}
