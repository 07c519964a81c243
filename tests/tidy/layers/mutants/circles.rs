//! Circles of modules and of files, and what only looks like one.

use super::{must_fail, must_pass};

#[test]
fn circles_are_noticed() {
    let in_mid = "pub(crate) mod part;\npub(crate) mod one;\npub(crate) mod two;";
    must_fail(&[(
        "a circle in a layer",
        &[
            ("src/low.rs", "use crate::twin::Twin;\npub struct Low;"),
            ("src/twin.rs", "\nuse crate::low::Low;\npub struct Twin;"),
        ],
        "src/low.rs:1: a circle of modules",
        "src/low.rs:1 uses `twin`, src/twin.rs:2 uses `low`",
    )]);
    must_fail(&[
        (
            "a circle of files in neighbouring folders",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "pub(crate) mod a;\npub struct One;"),
                ("src/mid/one/a.rs", "use super::One;\nuse crate::mid::two::b::B;\npub struct A;"),
                ("src/mid/two/mod.rs", "pub(crate) mod b;"),
                ("src/mid/two/b.rs", "use super::super::one::a;\npub struct B(a::A);"),
            ],
            "src/mid/one/a.rs:2: a circle of files of different folders",
            "src/mid/two/b.rs:2 uses src/mid/one/a.rs",
        ),
        (
            "a circle of a file and one in the folder beside it",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "mod a;\npub use a::A;\npub struct One;"),
                ("src/mid/one/a.rs", "use crate::mid::two::Two;\npub struct A;"),
                ("src/mid/two.rs", "\nuse super::one::A;\npub struct Two(A);"),
            ],
            "src/mid/one/a.rs:1: a circle of files of different folders",
            "src/mid/two.rs:2 uses src/mid/one/a.rs",
        ),
        (
            "a circle of the file of a folder and one beside it",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "mod a;\nuse super::two::Two;\npub struct One(Two);"),
                ("src/mid/one/a.rs", ""),
                ("src/mid/two.rs", "use super::one::One;\npub struct Two(One);"),
            ],
            "src/mid/one.rs:2: a circle of files of different folders",
            "src/mid/two.rs:1 uses src/mid/one.rs",
        ),
        (
            "a circle of neighbouring folders through the folder around them",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "pub(crate) mod a;\npub struct One;"),
                ("src/mid/one/a.rs", "use crate::mid::part::Part;\npub struct A;"),
                ("src/mid/part.rs", "use super::two::Two;\nuse super::one::a;\npub struct Part(a::A);"),
                ("src/mid/two.rs", "mod b;\nuse super::part::Part;\npub struct Two;"),
                ("src/mid/two/b.rs", "use super::Two;"),
            ],
            "src/mid/",
            "a circle of files of different folders",
        ),
    ]);
    must_pass(&[
        ("one arrow in a layer", &[("src/low.rs", "use crate::twin::Twin;")]),
        (
            "a folder and a folder in it",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "mod a;\nuse a::A;\npub struct One;"),
                ("src/mid/one/a.rs", "use super::*;\npub struct A;\nfn f(_: One) {}"),
                ("src/mid/two.rs", "use super::one::One;"),
            ],
        ),
        (
            "a folder and one in a folder in it",
            &[
                ("src/mid/mod.rs", &format!("{in_mid}\npub use part::Part;\npub struct Mid(one::a::A);")),
                ("src/mid/one.rs", "pub(crate) mod a;"),
                ("src/mid/one/a.rs", "use crate::mid::Mid;\npub struct A(Mid);"),
                ("src/mid/two.rs", ""),
            ],
        ),
        (
            "files of one folder",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "use super::two::Two;\npub struct One;"),
                ("src/mid/two.rs", "use super::one::One;\npub struct Two;"),
            ],
        ),
        (
            "files of one folder, of which one has a folder for its tests",
            &[
                ("src/mid/mod.rs", in_mid),
                ("src/mid/one.rs", "use super::two::Two;\npub struct One;\n#[cfg(test)]\nmod tests;"),
                ("src/mid/one/tests.rs", ""),
                ("src/mid/two.rs", "use super::one::One;\npub struct Two;\n#[cfg(test)]\nmod tests;"),
                ("src/mid/two/tests.rs", ""),
            ],
        ),
        (
            "an index that exports what its files define",
            &[
                (
                    "src/mid/mod.rs",
                    &format!("{in_mid}\npub use one::One;\npub use two::Two;\npub use part::Part;"),
                ),
                ("src/mid/one.rs", "mod a;\nuse super::Two;\npub struct One;"),
                ("src/mid/one/a.rs", "use super::super::Part;"),
                ("src/mid/two.rs", "mod b;\npub struct Two;"),
                ("src/mid/two/b.rs", "use crate::mid::Part;"),
            ],
        ),
    ]);
}
