//! Circles of modules, and circles of files that don't belong together.
//!
//! What belongs to a folder: `a/mod.rs` and `a.rs` do, to the folder `a`, if the module has files below it; every
//! other file belongs to the folder that it is in. The file of a module of the root is always a folder of its own.
//! Files for tests make no folder.
//!
//! Files of one folder may use each other. So may a module and those inside of it, which are one subject in several
//! files: `a/b.rs` takes what it needs from `a/b/c.rs`, which uses what `a/b.rs` defines. No other two files may be
//! in a circle, be it directly or through others: not `a/b/c.rs` and `a/d/e.rs`, nor `a/b/c.rs` and `a/f.rs`.

use super::Heights;
use super::arrows::Arrows;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where arrows lead from each place.
type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Circles of modules of the root. One with an arrow upward is left out, because that arrow is a fault already.
pub(super) fn of_modules(arrows: &Arrows, heights: &Heights) -> Vec<String> {
    let rises = |from: &str, to: &str| heights.get(from).is_some_and(|low| heights.get(to) > Some(low));
    let graph = graph(arrows.modules.keys().filter(|(from, to)| !rises(from, to)));
    let faults = circles(&graph, |_, _| true).into_iter().map(|circle| {
        fault("modules", &circle, |from, to| {
            let site =
                arrows.modules[&(from.to_owned(), to.to_owned())].first().expect("a place of the arrow");
            format!("{}:{} uses `{to}`", site.file, site.line)
        })
    });
    faults.collect()
}

/// Circles of files of two subjects. They are looked for in each module of the root alone, because what leads to
/// another and back is a circle of modules.
pub(super) fn of_files(arrows: &Arrows) -> Vec<String> {
    let top = |file: &str| arrows.module_of[file].first();
    let graph = graph(arrows.files.keys().filter(|(from, to)| top(from) == top(to)));
    let two_subjects = |one: &str, other: &str| {
        let (inner, outer) = (&arrows.module_of[one], &arrows.module_of[other]);
        let one_in_other = inner.starts_with(outer) || outer.starts_with(inner);
        folder(arrows, one) != folder(arrows, other) && !one_in_other
    };
    let faults = circles(&graph, two_subjects).into_iter().map(|circle| {
        fault("files of different folders", &circle, |from, to| {
            format!("{from}:{} uses {to}", arrows.files[&(from.to_owned(), to.to_owned())])
        })
    });
    faults.collect()
}

/// The folder that a file belongs to, as the modules from the root to it.
fn folder<'a>(arrows: &'a Arrows, file: &str) -> &'a [String] {
    let module = &arrows.module_of[file];
    let is_below = |other: &Vec<String>| other.len() > module.len() && other.starts_with(module);
    if module.len() <= 1 || arrows.module_of.values().any(is_below) {
        module
    } else {
        &module[..module.len() - 1]
    }
}

fn fault(of: &str, circle: &[&str], step: impl Fn(&str, &str) -> String) -> String {
    let steps: Vec<String> = circle.windows(2).map(|pair| step(pair[0], pair[1])).collect();
    let place = steps[0].split(' ').next().unwrap_or_default();
    format!("{place}: a circle of {of}: {}: remove one of these arrows", steps.join(", "))
}

fn graph<'a>(arrows: impl Iterator<Item = &'a (String, String)>) -> Graph<'a> {
    let mut graph = Graph::new();
    for (from, to) in arrows {
        graph.entry(from).or_default().insert(to);
    }
    graph
}

/// Circles through two places that must not be in one. The shortest come first, and each has an arrow between such
/// places that those before it don't have.
fn circles<'a>(graph: &Graph<'a>, apart: impl Fn(&str, &str) -> bool) -> Vec<Vec<&'a str>> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    for (one, others) in graph.keys().map(|one| (*one, ways(graph, one))) {
        for (other, there) in others.iter().filter(|(other, _)| one < **other && apart(one, other)) {
            if let Some(back) = ways(graph, other).get(one) {
                found.push([one].iter().chain(there).chain(back).copied().collect());
            }
        }
    }
    found.sort_by_key(Vec::len);
    let mut told: BTreeSet<(&str, &str)> = BTreeSet::new();
    found.retain(|circle| {
        let arrows: Vec<(&str, &str)> = circle.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let between: Vec<(&str, &str)> =
            arrows.iter().copied().filter(|(from, to)| apart(from, to)).collect();
        let before = told.len();
        told.extend(if between.is_empty() { arrows } else { between });
        told.len() > before
    });
    found
}

/// A shortest way from one place to each other that it reaches, without the place itself.
fn ways<'a>(graph: &Graph<'a>, from: &'a str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut queue = VecDeque::from([(from, Vec::new())]);
    while let Some((at, way)) = queue.pop_front() {
        for next in graph.get(at).into_iter().flatten() {
            if *next != from && !ways.contains_key(next) {
                let way: Vec<&str> = way.iter().copied().chain([*next]).collect();
                ways.insert(next, way.clone());
                queue.push_back((next, way));
            }
        }
    }
    ways
}
