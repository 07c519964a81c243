//! Small crates that break a rule in one way each, which must be noticed, and others that only look like it.
//!
//! Each is the same crate of three layers with some of its files replaced or added.

mod circles;

use super::{Layer, faults};
use crate::imports::Files;

const LAYERS: &[Layer] = &[("first", &["low", "twin"]), ("second", &["mid"]), ("third", &["high"])];

const CRATE: &[(&str, &str)] = &[
    ("src/lib.rs", "mod high;\nmod low;\nmod mid;\nmod twin;\npub use high::{High, rise};"),
    ("src/low.rs", "pub struct Low;"),
    ("src/twin.rs", "pub struct Twin;"),
    ("src/mid/mod.rs", "pub(crate) mod part;\npub(crate) use part::Part;\nuse crate::low::Low;"),
    ("src/mid/part.rs", "pub struct Part;\npub const PART: u8 = 1;"),
    (
        "src/high.rs",
        "pub struct High;\npub trait Tall {}\npub fn rise() {}\npub const PEAK: u8 = 9;\n\
         macro_rules! climb { () => {} }\npub(crate) use climb;\nuse crate::{mid::Part, low};",
    ),
];

type Changes<'a> = &'a [(&'a str, &'a str)];

fn faults_with(changes: Changes<'_>) -> Vec<String> {
    let files: Files =
        CRATE.iter().chain(changes).map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    faults(&files, LAYERS)
}

/// Each must have a fault that begins with the first text and contains the second, and no other.
fn must_fail(cases: &[(&str, Changes<'_>, &str, &str)]) {
    for (case, changes, place, about) in cases {
        let faults = faults_with(changes);
        assert!(!faults.is_empty(), "not noticed: {case}");
        for fault in &faults {
            assert!(
                fault.starts_with(place) && fault.contains(about),
                "{case}: not as expected: {faults:#?}"
            );
        }
    }
}

fn must_pass(cases: &[(&str, Changes<'_>)]) {
    for (case, changes) in cases {
        let faults = faults_with(changes);
        assert!(faults.is_empty(), "{case}: {faults:#?}");
    }
}

/// Cases in which `src/low.rs` has an arrow upward at its second line.
fn low_rises(cases: &[(&str, &str)]) {
    for (case, line) in cases {
        let text = format!("//! Low.\n{line}");
        let place = "src/low.rs:2: an arrow upward, from `low` (layer 1, first) to `high` (layer 3, third)";
        must_fail(&[(case, &[("src/low.rs", &text)], place, "src/high.rs defines")]);
    }
}

#[test]
fn an_arrow_upward_is_noticed_however_it_is_written() {
    must_pass(&[("the crate itself", &[])]);
    low_rises(&[
        ("an import", "use crate::high::High;"),
        ("an import of the module", "use crate::high;"),
        ("a group of imports", "use crate::{twin::Twin, high::{PEAK, High}};"),
        ("a group that names the module itself", "use crate::high::{self};"),
        ("a renamed import", "use crate::high::High as Tiny;"),
        ("a renamed module", "use crate::high as below; fn f() -> below::High { below::High }"),
        ("a renamed root", "use crate as all; fn f() -> all::high::High { loop {} }"),
        ("a renamed root in a group", "use crate::{self as all}; type H = all::high::High;"),
        ("a glob import", "use crate::high::*;"),
        ("a glob import in a group", "use crate::{high::*};"),
        ("an import by `super`", "use super::high::High;"),
        ("an import by `self` and `super`", "mod inner { use self::super::super::high::High; }"),
        ("an import in a function", "fn f() { use crate::high::rise; rise(); }"),
        (
            "an import around a function with items of its own",
            "use crate as all; fn f() { use std::mem; all::high::rise() }",
        ),
        ("an import for its methods", "use crate::high::Tall as _;"),
        ("a raw identifier", "use crate::r#high::High;"),
        ("a public import in a private module", "mod inner { pub(super) use crate::high::High; }"),
        ("a path in an expression", "fn f() { crate::high::rise() }"),
        ("a path in a type", "fn f(_: Option<&crate::high::High>) {}"),
        (
            "a path in a pattern",
            "fn f(n: u8) -> bool { matches(n) } fn matches(n: u8) -> bool { match n { crate::high::PEAK => true, _ => false } }",
        ),
        ("a path in a field", "struct S { high: Vec<crate::high::High> }"),
        ("a path in a bound", "fn f<T: crate::high::Tall>() {}"),
        ("a path in a qualified path", "fn f<T>() { <T as crate::high::Tall>::grow() }"),
        ("a path in an implementation", "struct S; impl crate::high::Tall for S {}"),
        ("a path in the arguments of a path", "fn f() { g::<crate::high::High>() } fn g<T>() {}"),
        ("a path in a closure in a constant", "const F: fn() = || crate::high::rise();"),
        ("a chain of `super`", "mod inner { mod inner { fn f() { super::super::super::high::rise() } } }"),
        ("a path in a macro's arguments", "fn f() { println!(\"{}\", crate::high::PEAK) }"),
        ("a path in a macro's arguments in brackets", "fn f() { vec![Some(super::high::PEAK)]; }"),
        ("a path in a macro's body", "macro_rules! m { () => { crate::high::rise() } }"),
        ("a path of `$crate`", "macro_rules! m { () => { $crate::high::rise() } }"),
        (
            "an import in a macro's body",
            "macro_rules! m { () => { use crate::{twin::Twin, high::High as H}; } }",
        ),
        ("a glob import in a macro's body", "macro_rules! m { () => { use crate::high::*; } }"),
        (
            "a chain of `super` in a macro's body",
            "mod inner { macro_rules! m { () => { super::super::high::rise() } } }",
        ),
        ("items made by a macro", "thread_local! { static H: crate::high::High = crate::high::High; }"),
        ("a macro by its path", "fn f() { crate::high::climb!() }"),
        ("a path in an attribute", "#[derive(crate::high::Tall)] struct S;"),
        ("a path in the text of an attribute", "struct S { #[serde(with = \"crate::high\")] high: u8 }"),
        ("a name that `lib.rs` exports", "use crate::High;"),
        ("a name that `lib.rs` exports, in a group", "use crate::{High as H, twin::Twin};"),
        ("a name that `lib.rs` exports, in an expression", "fn f() { crate::rise() }"),
        ("a name that `lib.rs` exports, through `super`", "fn f() { super::rise() }"),
        ("a name that `lib.rs` exports, in a macro's body", "macro_rules! m { () => { $crate::rise() } }"),
        ("an import for a feature", "#[cfg(feature = \"x\")] use crate::high::High;"),
        ("an item for a feature", "#[cfg(feature = \"x\")] fn f() { crate::high::rise() }"),
        ("an item outside of tests", "#[cfg(not(test))] fn f() { crate::high::rise() }"),
        (
            "an item for tests or a feature",
            "#[cfg(any(test, feature = \"x\"))] fn f() { crate::high::rise() }",
        ),
        ("a module for a feature", "#[cfg(feature = \"x\")] mod inner { use crate::high::High; }"),
        ("a test that is in no module for tests", "#[test] fn f() { crate::high::rise() }"),
        ("an import beside one for tests", "#[cfg(test)] use crate::mid::Part; use crate::high::High;"),
    ]);
}

#[test]
fn an_arrow_upward_is_noticed_through_other_files() {
    must_fail(&[
        (
            "an export of a third module, which itself is a fault",
            &[("src/twin.rs", "pub use crate::high::High;"), ("src/low.rs", "use crate::twin::High;")],
            "src/",
            "src/high.rs defines",
        ),
        (
            "the glob export of a third module",
            &[("src/twin.rs", "pub(crate) use crate::high::*;"), ("src/low.rs", "use crate::twin::PEAK;")],
            "src/",
            "high",
        ),
        (
            "an import that a module has from the module around it",
            &[
                (
                    "src/low.rs",
                    "mod inner;\n#[cfg(unix)] mod other { pub use crate::mid::Part; }\nuse other::Part;",
                ),
                ("src/low/inner.rs", "use super::Part;"),
            ],
            "src/low",
            "src/mid/part.rs defines",
        ),
        (
            "a glob import from the module around, through which `lib.rs` is reached",
            &[
                ("src/low.rs", "mod inner;\nuse crate as all;"),
                ("src/low/inner.rs", "use super::*;\ntype H = all::High;"),
            ],
            "src/low/inner.rs:2: an arrow upward",
            "src/high.rs defines",
        ),
        (
            "a file with a path of its own",
            &[
                ("src/low.rs", "#[path = \"deep/odd.rs\"]\nmod inner;"),
                ("src/deep/odd.rs", "use crate::high::High;"),
            ],
            "src/deep/odd.rs:1: an arrow upward, from `low`",
            "`high`",
        ),
        (
            "a macro that `#[macro_use]` makes known",
            &[
                ("src/lib.rs", "#[macro_use]\nmod high;\nmod low;\nmod mid;\nmod twin;"),
                ("src/low.rs", "fn f() { climb!() }"),
            ],
            "src/low.rs:1: an arrow upward",
            "`climb`",
        ),
        (
            "a macro that is exported",
            &[
                (
                    "src/high.rs",
                    "#[macro_export]\nmacro_rules! scale { () => {} }\npub struct High;\npub fn rise() {}",
                ),
                ("src/low.rs", "fn f() { crate::scale!() }"),
            ],
            "src/low.rs:1: an arrow upward",
            "`crate::scale`",
        ),
    ]);
}

#[test]
fn what_is_no_arrow_upward_passes() {
    let low: &[(&str, &str)] = &[
        ("an import for tests", "#[cfg(test)] use crate::high::High;"),
        ("an import for tests with a feature", "#[cfg(all(test, feature = \"x\"))] use crate::high::High;"),
        ("a module for tests", "#[cfg(test)] mod tests { use super::*; use crate::high::High; }"),
        ("a method for tests", "struct S; impl S { #[cfg(test)] fn f(_: crate::high::High) {} }"),
        ("a field for tests", "struct S { #[cfg(test)] high: crate::high::High }"),
        ("an arm for tests", "fn f(n: u8) { match n { #[cfg(test)] crate::high::PEAK => {} _ => {} } }"),
        (
            "elements for tests",
            "fn f() { [#[cfg(test)] crate::high::PEAK, #[cfg(test)] g(crate::high::PEAK)]; }",
        ),
        (
            "a statement for tests",
            "fn f() { #[cfg(test)] crate::high::rise(); #[cfg(test)] let _ = crate::high::PEAK; }",
        ),
        ("a comment", "// use crate::high::High;\n/* crate::high::rise() */"),
        ("documentation", "/// See [`crate::high::High`].\nstruct S;"),
        ("documentation in an attribute", "#[doc(alias = \"crate::high::High\")] struct S;"),
        ("documentation of a module", "mod inner { //! [`crate::high`]\n }"),
        ("a string", "const TEXT: &str = \"use crate::high::High;\";"),
        ("a string in a macro", "fn f() { println!(\"crate::high::rise\") }"),
        ("a visibility", "mod inner { pub(in crate::low) struct S; }"),
        ("another crate", "use ::high::High; fn f() { ::high::rise() } use high::Tall;"),
        (
            "a field, a method and a variable of that name",
            "fn f(high: Wide) { high.high.rise(); let rise = high; rise() }",
        ),
        ("a name of its own that is like one of `lib.rs`", "pub struct High; fn f() -> High { self::High }"),
        (
            "a module of its own that is like one above",
            "mod high { pub struct High; } use high::High; type H = self::high::High;",
        ),
        ("a number in a macro", "fn f() { println!(\"{}\", self as u8) }"),
        ("its own layer", "use crate::twin::Twin;"),
    ];
    for (case, text) in low {
        must_pass(&[(case, &[("src/low.rs", text)])]);
    }
    must_pass(&[
        (
            "a file for tests",
            &[("src/low.rs", "#[cfg(test)]\nmod tests;"), ("src/low/tests.rs", "use crate::high::High;")],
        ),
        (
            "a file of a module for tests",
            &[
                ("src/low.rs", "#[cfg(test)]\nmod tests;"),
                ("src/low/tests.rs", "mod world;"),
                ("src/low/tests/world.rs", "use crate::high::High;"),
            ],
        ),
        (
            "a file that says it is for tests",
            &[("src/low.rs", "mod tests;"), ("src/low/tests.rs", "#![cfg(test)]\nuse crate::High;")],
        ),
        (
            "an arrow downward by what `lib.rs` exports",
            &[("src/high.rs", "use crate::mid::{self, Part};\npub struct High;\npub fn rise() {}")],
        ),
        (
            "an empty module in `lib.rs`",
            &[("src/lib.rs", "mod high;\nmod low;\nmod mid;\nmod twin;\n#[cfg(doctest)] mod guide {}")],
        ),
    ]);
}

#[test]
fn a_file_for_tests_and_for_more_is_checked() {
    for other in ["src/high.rs", "src/twin.rs"] {
        let text = "#[cfg(test)]\n#[path = \"low/inner.rs\"]\nmod inner;\npub struct High;\npub fn rise() {}";
        must_fail(&[(
            "a file that one module has for tests and another always",
            &[(other, text), ("src/low.rs", "mod inner;"), ("src/low/inner.rs", "use crate::high::High;")],
            "src/low/inner.rs:1: an arrow upward, from `low`",
            "`high`",
        )]);
    }
}

#[test]
fn an_arrow_is_shown_where_it_begins() {
    let low = "use crate::high::High;\nfn f(h: High) -> High {\n    High::from(crate::high::rise())\n}";
    let faults = faults_with(&[("src/low.rs", low)]);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains("(line 1: `crate::high::High`; line 3: `crate::high::rise`)"), "{faults:#?}");
}

#[test]
fn the_table_names_every_module_once_and_no_other() {
    let modules = "mod high;\nmod low;\nmod mid;\nmod twin;";
    must_fail(&[
        (
            "a module that is in no layer",
            &[("src/lib.rs", &format!("{modules}\n#[cfg(test)]\nmod new;")), ("src/new.rs", "")],
            "src/lib.rs: `new` is in no layer",
            "add it",
        ),
        (
            "a module in `lib.rs` that is in no layer",
            &[("src/lib.rs", &format!("{modules}\nmod new {{ struct S; }}"))],
            "src/lib.rs: `new` is in no layer",
            "add it",
        ),
        (
            "a module that is gone",
            &[
                ("src/lib.rs", "mod high;\nmod low;\nmod mid;\n#[cfg(doctest)] mod twin {}"),
                ("src/low.rs", "#[cfg(test)] #[path = \"twin.rs\"] mod twin;"),
            ],
            "LAYERS: there is no module `twin`",
            "remove it",
        ),
    ]);
    let files: Files = CRATE.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    let twice: &[Layer] = &[("first", &["low", "twin"]), ("second", &["mid", "low"]), ("third", &["high"])];
    let faults = faults(&files, twice);
    assert!(
        faults.iter().any(|fault| fault.starts_with("LAYERS: `low` is in the table twice")),
        "{faults:#?}"
    );
}

#[test]
fn only_lib_exports_what_another_module_defines() {
    let cases: &[(&str, &str)] = &[
        ("a public export", "pub use crate::low::Low;"),
        ("an export in the crate", "pub(crate) use crate::low::Low;"),
        ("an export in the module around, which is the root", "pub(super) use crate::low::Low;"),
        ("an export of a module", "pub(crate) use crate::low;"),
        ("a renamed export in a group", "pub use crate::{low::{Low as L}};"),
        ("a glob export", "pub use crate::low::*;"),
    ];
    for (case, line) in cases {
        let text = format!("pub struct High;\n{line}\npub fn rise() {{}}");
        let change: Changes<'_> = &[("src/high.rs", &text)];
        must_fail(&[(case, change, "src/high.rs:2: `", "is exported by `high`, but src/low.rs defines it")]);
    }
    must_pass(&[
        (
            "an export of a file of its own",
            &[("src/mid/mod.rs", "pub(crate) mod part;\npub use part::*;\npub use part::Part;")],
        ),
        (
            "an import that the modules below see",
            &[(
                "src/mid/mod.rs",
                "pub(crate) mod part;\npub(self) use crate::low::Low;\npub use part::Part;",
            )],
        ),
        (
            "an export of another crate",
            &[("src/mid/mod.rs", "pub(crate) mod part;\npub use bytes::Bytes;\npub use part::Part;")],
        ),
    ]);
}

#[test]
fn what_could_not_be_followed_is_a_fault() {
    must_fail(&[
        (
            "code that is included",
            &[("src/low.rs", "\nfn f() { include!(\"x\") }")],
            "src/low.rs:2: includes code",
            "module",
        ),
        (
            "items that are included",
            &[("src/low.rs", "include!(\"x\");")],
            "src/low.rs:1: includes code",
            "module",
        ),
        (
            "a root that is renamed in a macro",
            &[("src/low.rs", "macro_rules! m { () => { use crate as all; use super::super as up; } }")],
            "src/low.rs:1: renames a module in a macro",
            "name what",
        ),
        (
            "a root that is renamed in a macro, in a group",
            &[("src/low.rs", "macro_rules! m { () => { use crate::{twin::Twin, self as all}; } }")],
            "src/low.rs:1: renames a module in a macro",
            "name what",
        ),
        (
            "a second name of the crate",
            &[("src/low.rs", "extern crate self as all;")],
            "src/low.rs:1: gives this crate",
            "`crate`",
        ),
        (
            "a glob import of the root",
            &[("src/low.rs", "use crate::*;")],
            "src/low.rs:1: `crate` takes in",
            "name what",
        ),
        (
            "a glob import of the root by `super`",
            &[("src/low.rs", "use super::*;")],
            "src/low.rs:1: `super` takes in",
            "name what",
        ),
        (
            "a glob import of the root that brings a name",
            &[("src/low.rs", "use super::*;\nfn f(_: High) {}")],
            "src/low.rs:",
            "",
        ),
        (
            "something that `lib.rs` defines",
            &[
                ("src/lib.rs", "mod high;\nmod low;\nmod mid;\nmod twin;\npub struct Own;"),
                ("src/low.rs", "use crate::Own;"),
            ],
            "src/low.rs:1: `crate::Own` is defined in src/lib.rs",
            "move it",
        ),
        (
            "a file that no `mod` names",
            &[("src/low/lost.rs", "use crate::high::High;")],
            "src/low/lost.rs:1: no `mod`",
            "delete it",
        ),
        (
            "a module without a file",
            &[("src/low.rs", "mod lost;")],
            "src/low.rs:1: the file of the module `lost`",
            "not there",
        ),
        (
            "a file of two modules",
            &[
                ("src/low.rs", "mod inner;"),
                ("src/low/inner.rs", ""),
                (
                    "src/mid/mod.rs",
                    "pub mod part;\npub use part::Part;\n#[path = \"../low/inner.rs\"]\nmod inner;",
                ),
            ],
            "src/low/inner.rs:1: this file is that of two modules",
            "use the other",
        ),
        ("a file that is no Rust", &[("src/low.rs", "pub struct Low;\nfn f( {}")], "src/low.rs:2: ", ""),
    ]);
}
