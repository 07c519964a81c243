//! What the compiler says of callbacks that can't be: the message has to lead to the mistake.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The crate as it was built for this program: the newest library beside it.
fn library(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("the folder of this program");
    let library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libetcd_rules-") && name.ends_with(".rlib")
    };
    let changed =
        |path: &PathBuf| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let paths = files.filter_map(|file| file.ok().map(|file| file.path()));
    paths.filter(library).max_by_key(changed).expect("the library of this crate")
}

/// What the compiler says of the body of a function that makes a rule.
fn compiled(body: &str) -> Result<(), String> {
    let program = std::env::current_exe().expect("the path of this program");
    let folder = program.parent().expect("its folder");
    let sources = tempfile::tempdir().expect("a folder for the source");
    let source = sources.path().join("source.rs");
    let head = "use etcd_rules::{Error, Firing, Outcome, Rule};\npub fn rule() -> Rule {\n";
    std::fs::write(&source, format!("{head}{body}\n}}\n")).expect("the source is written");
    let cargo = PathBuf::from(std::env::var_os("CARGO").expect("cargo runs the tests"));
    let output = Command::new(cargo.with_file_name("rustc"))
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--color=never"])
        .arg("-L")
        .arg(folder)
        .arg("--extern")
        .arg(format!("etcd_rules={}", library(folder).display()))
        .arg("--out-dir")
        .arg(sources.path())
        .arg(&source)
        .output()
        .expect("rustc beside cargo");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// The compiler refuses the body, and says all of this.
fn refused(body: &str, expected: &[&str]) {
    let said = compiled(body).expect_err(body);
    for words in expected {
        assert!(said.contains(words), "{words:?} is missing in:\n{said}");
    }
}

#[test]
fn a_callback_compiles_and_one_that_holds_what_is_not_send_is_told_by_value_and_await() {
    let body = |counted: &str| {
        format!(
            r#"Rule::new("count").run(async |firing: Firing| -> Result<Outcome, Error> {{
                let counted = std::{counted}::new(1);
                firing.get("/orders/:id").await?;
                println!("{{counted}}");
                Ok(Outcome::done())
            }})"#
        )
    };
    compiled(&body("sync::Arc")).unwrap_or_else(|said| panic!("{said}"));
    let expected = [
        "future cannot be sent between threads safely",
        "has type `Rc<i32>` which is not `Send`",
        "await occurs here, with `counted` maybe used later",
        "required by this bound in `Rule::run`",
    ];
    refused(&body("rc::Rc"), &expected);
}

#[test]
fn a_callback_that_borrows_what_ends_before_it_is_told_by_name() {
    let body = r#"let orders = String::from("/orders");
        Rule::new("count").run(async |firing: Firing| -> Result<Outcome, Error> {
            println!("{orders}");
            firing.get("/orders/:id").await?;
            Ok(Outcome::done())
        })"#;
    refused(
        body,
        &["`orders` does not live long enough", "argument requires that `orders` is borrowed for `'static`"],
    );
}

#[test]
fn a_callback_without_a_result_is_told_what_is_expected() {
    let body = r#"Rule::new("count").run(async |_: Firing| {})"#;
    refused(body, &["expected `Result<_, _>`", "found `()`"]);
}
