//! One name, one type.
//!
//! A type that leaves its file has a name that no other such type has, so that a reader who meets the name anywhere
//! knows which one it is. The embedded etcd is a server of its own. Its words are etcd's, so its types are compared
//! among themselves. So are those of tests, which nobody meets elsewhere.

use crate::files_of;
use crate::imports::Files;
use std::collections::BTreeMap;
use syn::visit::Visit;
use syn::{Attribute, Ident, Item, ItemMod, Visibility};

/// Files that only tests have, beside those in folders and files named `tests`.
const TESTS: [&str; 4] = ["src/simulation/", "src/fuzz.rs", "src/properties.rs", "src/etcd/provoked.rs"];

/// Types that leave the file, with their lines.
#[derive(Default)]
struct Types(Vec<(String, usize)>);

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

impl Types {
    fn add(&mut self, visibility: &Visibility, name: &Ident) {
        if !matches!(visibility, Visibility::Inherited) {
            self.0.push((name.to_string(), name.span().start().line));
        }
    }
}

impl<'a> Visit<'a> for Types {
    fn visit_item(&mut self, item: &'a Item) {
        let (attributes, visibility, name) = match item {
            Item::Struct(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Enum(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Trait(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Type(item) => (&item.attrs, &item.vis, &item.ident),
            Item::Union(item) => (&item.attrs, &item.vis, &item.ident),
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            self.add(visibility, name);
        }
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        if !is_test(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

/// Names that several types have, with where these are.
fn faults(files: &Files) -> Vec<String> {
    let mut found: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
    for (file, text) in files {
        let of_tests = file.contains("/tests/") || file.ends_with("/tests.rs");
        if of_tests || TESTS.iter().any(|test| file.starts_with(test)) {
            continue;
        }
        let embedded = file.starts_with("src/embedded/");
        let mut types = Types::default();
        types.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")));
        for (name, line) in types.0 {
            found.entry((embedded, name)).or_default().push(format!("{file}:{line}"));
        }
    }
    let twice = found.into_iter().filter(|(_, places)| places.len() > 1);
    twice.map(|((_, name), places)| format!("`{name}`: {}", places.join(", "))).collect()
}

#[test]
fn no_two_types_have_one_name() {
    let faults = faults(&files_of(&["src"]));
    assert!(faults.is_empty(), "several types have one name:\n{}", faults.join("\n"));
}

#[test]
fn a_name_that_two_types_have_is_noticed() {
    let cases = [
        ("two that leave their files", ["pub(crate) struct A;", "pub enum A {}"], true),
        ("a trait and an alias", ["pub(super) trait A {}", "pub type A = ();"], true),
        ("in a module", ["mod m { pub(super) struct A; }", "pub struct A;"], true),
        ("private", ["struct A;", "pub struct A;"], false),
        ("of tests", ["#[cfg(test)] mod tests { pub(super) struct A; }", "pub struct A;"], false),
        ("an associated type", ["impl T for S { type A = (); }", "pub struct A;"], false),
        ("different", ["pub struct A;", "pub struct B;"], false),
    ];
    let files = |places: [&str; 2], texts: [&str; 2]| -> Files {
        places.into_iter().zip(texts).map(|(place, text)| (place.to_owned(), text.to_owned())).collect()
    };
    for (case, texts, is_fault) in cases {
        let faults = faults(&files(["src/a.rs", "src/lock/b.rs"], texts));
        assert_eq!(faults.len(), usize::from(is_fault), "{case}: {faults:?}");
    }
    let both = ["pub struct A;", "pub struct A;"];
    for (places, is_fault) in [
        (["src/embedded/a.rs", "src/b.rs"], false),
        (["src/embedded/a.rs", "src/embedded/b.rs"], true),
        (["src/lock/tests.rs", "src/b.rs"], false),
        (["src/lock/tests/a.rs", "src/b.rs"], false),
        (["src/simulation/a.rs", "src/b.rs"], false),
    ] {
        assert_eq!(faults(&files(places, both)).len(), usize::from(is_fault), "{places:?}");
    }
}
