//! The modules stand in layers, and each uses only what is in its own layer or below.
//!
//! [`LAYERS`] is the only list of the layers. An *arrow* leads from a file to the file that defines what the first
//! one names. How it is named makes no difference: `imports.rs` reads every path, and `resolve.rs` follows each to
//! the definition. Arrows of tests don't count. Nor do those of `src/lib.rs`, which is above all modules: it declares
//! them, and exports what is public.
//!
//! | file | subject |
//! |---|---|
//! | [`arrows`] | all arrows of a crate, and the paths that may not be written |
//! | [`circles`] | arrows that lead back to where they began |
//! | [`mutants`] | small crates that break a rule, each of which must be noticed |
//!
//! What is checked:
//!
//! - Every module of the root is in the table once, and the table names no other.
//! - No arrow leads upward. What `lib.rs` itself defines is above all, so that nothing can use it.
//! - The modules of the root are in no circle. Those of one layer may use each other one way.
//! - Files of different folders are in no circle; `circles.rs` says what belongs to a folder.
//! - What a module defines is exported by itself and by `lib.rs`, and by no other module of the root.
//! - Nothing is written that the reader could not follow: `include!`, `extern crate self`, a glob import of the
//!   root, a file to which no `mod` leads.

mod arrows;
mod circles;
mod mutants;

use crate::imports::{Files, Tree};
use arrows::Arrows;
use std::collections::{BTreeMap, BTreeSet};

/// A name and the modules of the root that are in it.
pub(crate) type Layer = (&'static str, &'static [&'static str]);

/// The layers from the lowest to the highest. `ARCHITECTURE.md` says what each is for.
pub(crate) const LAYERS: &[Layer] = &[
    ("tools", &["cancellation", "embedded", "mutants", "raw_codec", "typed_index", "watch_cell"]),
    ("vocabulary", &["change", "limits", "pattern", "time", "value"]),
    ("conditions", &["condition"]),
    ("rules", &["compiled", "firing", "rule", "trace"]),
    ("reports", &["error", "events", "inspect"]),
    ("outside", &["etcd", "metrics", "prometheus"]),
    ("support", &["health", "read", "runtime"]),
    ("index", &["index"]),
    ("workers", &["crawl", "evaluate", "fleet", "lock", "watch"]),
    ("dispatch", &["dispatch"]),
    ("engine", &["engine"]),
    ("users", &["bench", "fuzz", "http", "properties", "simulation", "testing"]),
];

/// The number of each module's layer; of the lowest it is 0.
type Heights = BTreeMap<&'static str, usize>;

/// Everything that is wrong with the modules of these files.
fn faults(files: &Files, layers: &[Layer]) -> Vec<String> {
    let tree = Tree::read(files);
    let arrows = Arrows::of(&tree);
    let heights: Heights = layers
        .iter()
        .enumerate()
        .flat_map(|(height, (_, modules))| modules.iter().map(move |module| (*module, height)))
        .collect();
    let mut faults = tree.faults.clone();
    faults.extend(faults_of_table(&tree, layers));
    faults.extend(arrows.forbidden.iter().cloned());
    faults.extend(upward(&arrows, layers, &heights));
    faults.extend(circles::of_modules(&arrows, &heights));
    faults.extend(circles::of_files(&arrows));
    faults
}

fn faults_of_table(tree: &Tree, layers: &[Layer]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut listed = BTreeSet::new();
    for module in layers.iter().flat_map(|(_, modules)| *modules) {
        if !listed.insert((*module).to_owned()) {
            faults.push(format!("LAYERS: `{module}` is in the table twice: leave it in one layer"));
        }
    }
    for module in tree.top.difference(&listed) {
        faults.push(format!("src/lib.rs: `{module}` is in no layer: add it to LAYERS"));
    }
    for module in listed.difference(&tree.top) {
        faults.push(format!("LAYERS: there is no module `{module}`: remove it from the table"));
    }
    faults
}

/// The arrows that lead upward, with one line for all that a file uses of another.
fn upward(arrows: &Arrows, layers: &[Layer], heights: &Heights) -> Vec<String> {
    let mut faults = Vec::new();
    for ((from, to), sites) in &arrows.modules {
        let (Some(low), Some(high)) = (heights.get(from.as_str()), heights.get(to.as_str())) else {
            continue;
        };
        if low >= high {
            continue;
        }
        let layer = |height: &usize| format!("layer {}, {}", height + 1, layers[*height].0);
        let mut by_file: BTreeMap<(&str, &str), BTreeMap<usize, Vec<String>>> = BTreeMap::new();
        for site in sites {
            let lines = by_file.entry((&site.file, &site.defined_in)).or_default();
            lines.entry(site.line).or_default().push(format!("`{}`", site.name));
        }
        for ((file, defined_in), lines) in by_file {
            let first = lines.keys().next().copied().unwrap_or_default();
            let used: Vec<String> =
                lines.iter().map(|(line, names)| format!("line {line}: {}", names.join(", "))).collect();
            faults.push(format!(
                "{file}:{first}: an arrow upward, from `{from}` ({}) to `{to}` ({}), for what {defined_in} defines \
                 ({}): move that to `{from}` or below, or let a layer above hand it in",
                layer(low),
                layer(high),
                used.join("; ")
            ));
        }
    }
    faults
}

#[test]
fn no_module_uses_one_of_a_higher_layer_and_none_are_in_a_circle() {
    let faults = faults(&crate::files_of(&["src"]), LAYERS);
    assert!(faults.is_empty(), "untidy:\n{}", faults.join("\n"));
}
