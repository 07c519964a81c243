//! The maps of the house are complete: the table of files in `ARCHITECTURE.md`, and the tables at the head of modules.

use crate::files_of;
use crate::imports::Files;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use syn::{Item, ItemMod};

/// A file of tests that is named otherwise.
const ONLY_TESTS: &str = "etcd/provoked.rs";

/// What the first column of the table names whose head is `head`: `a/{b,c}.rs` is two. Rows begin with `prefix`.
fn named(text: &str, prefix: &str, head: &str) -> BTreeSet<String> {
    let first = |line: &str| -> Option<String> {
        let row = line.strip_prefix(prefix)?.trim_start().strip_prefix('|')?;
        Some(row.split('|').next()?.trim().to_owned())
    };
    let rows = text.lines().skip_while(|line| first(line).as_deref() != Some(head)).map_while(first);
    let mut names = BTreeSet::new();
    for cell in rows {
        for name in cell.split('`').skip(1).step_by(2) {
            match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
                Some((before, (each, after))) => {
                    names.extend(each.split(',').map(|each| format!("{before}{each}{after}")));
                }
                None => {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    names
}

/// Files of `src` that the map doesn't name, themselves or by a folder.
fn missing(map: &str, files: &Files) -> Vec<String> {
    let named = named(map, "", "where");
    let is_named = |file: &str| {
        let whole = named.contains(file);
        let module = file.strip_suffix(".rs").is_some_and(|module| named.contains(module));
        let mut folders = file.match_indices('/').map(|(at, _)| &file[..at]);
        whole || module || folders.any(|folder| named.contains(folder))
    };
    let is_needed = |file: &str| {
        let of_tests = file.contains("/tests/") || file.ends_with("/tests.rs");
        !of_tests && !file.ends_with("/mod.rs") && !["lib.rs", ONLY_TESTS].contains(&file)
    };
    let names = files.keys().filter_map(|file| file.strip_prefix("src/"));
    names.filter(|file| is_needed(file) && !is_named(file)).map(str::to_owned).collect()
}

/// Modules that a file declares and that the table at its head, if it has one, doesn't name.
fn left_out(text: &str) -> Vec<String> {
    let named = named(text, "//!", "file");
    if named.is_empty() {
        return Vec::new();
    }
    let is_test = |module: &ItemMod| module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
    let modules = syn::parse_file(text).expect("Rust").items.into_iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && !is_test(&module) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.filter(|module| !named.contains(module) && !named.contains(&format!("{module}.rs"))).collect()
}

#[test]
fn the_map_names_every_file() {
    let map =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("the map");
    let missing = missing(&map, &files_of(&["src"]));
    assert!(missing.is_empty(), "the table of ARCHITECTURE.md lacks {missing:?}");
}

#[test]
fn the_table_of_a_module_names_all_that_is_in_it() {
    let wrong: Vec<String> = files_of(&["src", "tests"])
        .iter()
        .flat_map(|(file, text)| left_out(text).into_iter().map(move |module| format!("{file}: `{module}`")))
        .collect();
    assert!(wrong.is_empty(), "tables lack:\n{}", wrong.join("\n"));
}

#[test]
fn what_a_map_lacks_is_noticed() {
    let files: Files =
        ["src/a.rs", "src/b/mod.rs", "src/b/c.rs", "src/b/d.rs", "src/b/d/e.rs", "src/b/tests.rs"]
            .map(|file| (file.to_owned(), String::new()))
            .into();
    let missing = |rows: &str| missing(&format!("# Map\n\n| where | what |\n|---|---|\n{rows}"), &files);
    assert_eq!(missing("| `a.rs` | x |\n| `b/{c,d}.rs`, `b/d` | `a` |"), [""; 0]);
    assert_eq!(missing("| `a.rs`, `b` | x |"), [""; 0]);
    assert_eq!(missing("| `b/{c,d}.rs` | `a.rs` |"), ["a.rs", "b/d/e.rs"]);
    assert_eq!(missing("| `b` | x |\n\n| other |\n| `a.rs` |"), ["a.rs"]);
    let module = "//! | file | subject |\n//! |---|---|\n//! | [`a`] | x |\nmod a;\nmod b;\n#[cfg(test)]\nmod tests;\n";
    assert_eq!(left_out(module), ["b"]);
    assert_eq!(left_out(&module.replace("[`a`]", "[`a`], `b.rs`")), [""; 0]);
    assert_eq!(left_out("//! No table.\nmod a;\n"), [""; 0]);
    assert_eq!(left_out("//! | path | tells |\n//! |---|---|\n//! | `a` | x |\nmod b;\n"), [""; 0]);
}
