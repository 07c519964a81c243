//! What operators get: the documentation of the metrics, the dashboards, the alerts, and that all of it is true.
//!
//! `docs/metrics.md` and `dashboards/*.json` are made here: `REGENERATE=1 cargo test --test integration
//! operations::` writes them anew; without that they must be as they would be written.

mod alerts;
mod dashboards;
mod documentation;
mod expressions;
mod prometheus;
mod scrape;

use std::path::PathBuf;

/// A file of the project.
fn project_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file must hold this text; with `REGENERATE` in the environment it is written.
fn assert_generated(path: &str, text: &str) {
    if std::env::var_os("REGENERATE").is_some() {
        let file = project_file(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert!(
        read(path) == text,
        "{path} is out of date: REGENERATE=1 cargo test --test integration operations::"
    );
}
