//! A key is recognised by its form exactly if the rule makes that key of the binding.

use super::super::forms::Forms;
use super::*;
use crate::condition::key;
use crate::properties::check;
use proptest::prelude::*;

const PATTERNS: [&str; 8] =
    ["/a/:x/:y", "/a/:y/:x", "/:x/:y/:x", ":x/b/:y/c", "/a/:x/*y", "/:y/:x/ä/:y", "/:x/*y", "a/:x"];

/// Values with much in common, short and long, some with slashes.
fn value() -> impl Strategy<Value = String> {
    let part = prop::sample::select(&["a", "b", "ä", "ab", ":", "b/c", "a-long-value-of-a-key"][..]);
    prop::collection::vec(part, 1..3).prop_map(|parts| parts.concat())
}

#[test]
fn a_key_fits_a_form_if_the_rule_makes_it_of_the_binding_and_no_other_does() {
    let rules = rules(PATTERNS.map(|pattern| key(pattern).exists()));
    let forms = Forms::new(&rules);
    let values = (value(), value());
    let change = (any::<prop::sample::Index>(), prop::sample::select(&b"ab/"[..]), 0..3);
    check(4096, &(0..PATTERNS.len(), values, change), |(number, (x, y), (at, byte, how))| {
        let (rule, compiled) = (RuleIndex::new(number), &rules[number]);
        let values = compiled.attributes().iter().map(|name| if **name == *"x" { &*x } else { &*y });
        let binding = Binding::new(values);
        let key = compiled.key(Slot(0), &binding).into_bytes();
        prop_assert!(forms.fits(rule, Slot(0), &binding, &key));
        let mut other = key.clone();
        let at = at.index(key.len());
        match how {
            0 => other[at] = byte,
            1 => other.insert(at, byte),
            _ => drop(other.remove(at)),
        }
        prop_assert_eq!(forms.fits(rule, Slot(0), &binding, &other), other == key);
        prop_assert!(!forms.fits(rule, Slot(0), &binding, &[&key[..], b"a"].concat()));
        Ok(())
    });
}

#[test]
fn a_key_that_one_instance_reads_is_not_stored_and_comes_back_whole() {
    let mut index = ready([key("/a/:x/:y").exists(), key("/b/:x").exists(), key("/b/:z").exists()], &[]);
    let is_stored = |index: &Index, key: &str| {
        let entry = index.entry_of(key).expect("it has an entry");
        assert_eq!(index.key_of(entry), key);
        matches!(index.mirror.entry(entry).readers, Readers::Listed(_))
    };
    deliver(&mut index, [put("/a/1/2", "v", 101), put("/b/1", "v", 102)]);
    assert_eq!((is_stored(&index, "/a/1/2"), is_stored(&index, "/b/1")), (false, true), "two read the other");
    let both = "/a/1/2".len() + "/b/1".len() + 2;
    assert_eq!((index.keys(), index.bytes()), (2, both));
    // While a tombstone is needed it has its own text, and the instance may go.
    index.apply(delete("/a/1/2", 103, Deletion::Committed));
    let instance = work_off(&mut index).into_iter().find(|decide| decide.orphaned).expect("it has no key");
    assert!(index.release(instance.instance));
    assert_eq!((is_stored(&index, "/a/1/2"), index.bytes()), (true, "/b/1".len() + 1));
    // It comes back before the tombstone has gone.
    index.apply(put("/a/1/2", "w", 104));
    assert_eq!((is_stored(&index, "/a/1/2"), index.keys(), index.bytes()), (false, 2, both));
    deliver(&mut index, [delete("/a/1/2", 105, Deletion::Delivered)]);
    assert_eq!((index.entry_of("/a/1/2"), index.bytes(), index.tombstones()), (None, "/b/1".len() + 1, 0));
}
