//! Table tests: the witness of each leaf and operator, and which leaves are evaluated.

use super::*;

/// Name, condition, values by slot; truth, witness.
type Case<'a> = (&'a str, Condition, &'a [Option<&'a str>], bool, &'a [Check]);

#[test]
fn witnesses_are_few_checks_that_prove_the_truth() {
    use Check::*;
    let (long, other) = ("x".repeat(MAX_VALUE_IN_CHECK + 1), "x".repeat(MAX_VALUE_IN_CHECK));
    let (long, other) = (long.as_str(), other.as_str());
    let [a, b, c] = ["/a", "/b", "/c"].map(key);
    // Slots are given in the order in which keys are first named. Here that is always a, b, c.
    let cases: &[Case<'_>] = &[
        ("absence", a.absent(), &[None], true, &[Absent(Slot(0))]),
        ("no absence, whatever the value", a.absent(), &[Some(long)], false, &[Exists(Slot(0))]),
        ("existence, whatever the value", a.exists(), &[Some("1")], true, &[Exists(Slot(0))]),
        ("no existence", a.exists(), &[None], false, &[Absent(Slot(0))]),
        ("an equal value", a.equals("1"), &[Some("1")], true, &[ValueIs(Slot(0))]),
        ("an equal value at the limit", a.equals(other), &[Some(other)], true, &[ValueIs(Slot(0))]),
        ("an equal value past the limit", a.equals(long), &[Some(long)], true, &[Unchanged(Slot(0))]),
        ("another value", a.equals("2"), &[Some("1")], false, &[ValueIsNot(Slot(0), LeafNumber::new(0))]),
        (
            "another value, long",
            a.equals("2"),
            &[Some(long)],
            false,
            &[ValueIsNot(Slot(0), LeafNumber::new(0))],
        ),
        ("another value than a long one", a.equals(long), &[Some("1")], false, &[ValueIs(Slot(0))]),
        ("no value", a.equals("2"), &[None], false, &[Absent(Slot(0))]),
        ("not equal, negated by the operator", a.not_equals("2"), &[None], true, &[Absent(Slot(0))]),
        ("a closure", a.compare("is even", is_even), &[Some("1")], false, &[ValueIs(Slot(0))]),
        (
            "a closure on a long value",
            a.compare("is even", is_even),
            &[Some(long)],
            false,
            &[Unchanged(Slot(0))],
        ),
        ("a closure on no value", a.compare("is even", is_even), &[None], false, &[Absent(Slot(0))]),
        (
            "all equal",
            all_equal(["/a", "/b"]),
            &[Some("1"), Some("1")],
            true,
            &[ValueIs(Slot(0)), ValueIs(Slot(1))],
        ),
        ("all absent", all_equal(["/a", "/b"]), &[None, None], true, &[Absent(Slot(0)), Absent(Slot(1))]),
        (
            "two of three differ",
            all_equal(["/a", "/b", "/c"]),
            &[Some("1"), Some("1"), Some("2")],
            false,
            &[ValueIs(Slot(0)), ValueIs(Slot(2))],
        ),
        (
            "one of two is absent",
            a.same_as("/b"),
            &[None, Some("2")],
            false,
            &[Absent(Slot(0)), Exists(Slot(1))],
        ),
        (
            "a true and",
            a.exists() & b.equals("1"),
            &[Some("1"), Some("1")],
            true,
            &[Exists(Slot(0)), ValueIs(Slot(1))],
        ),
        (
            "a false and: the false child",
            a.exists() & b.exists(),
            &[Some("1"), None],
            false,
            &[Absent(Slot(1))],
        ),
        (
            "a true or: the child with the fewest checks",
            a.same_as("/b") | c.exists(),
            &[Some("1"), Some("1"), Some("1")],
            true,
            &[Exists(Slot(2))],
        ),
        (
            "a true or: the first of equals",
            a.exists() | b.exists(),
            &[Some("1"), Some("1")],
            true,
            &[Exists(Slot(0))],
        ),
        (
            "a true or: the first of equals with several checks",
            a.same_as("/b") | c.same_as("/a"),
            &[Some("1"), Some("1"), Some("1")],
            true,
            &[ValueIs(Slot(0)), ValueIs(Slot(1))],
        ),
        (
            "a false or: all children",
            a.exists() | b.exists(),
            &[None, None],
            false,
            &[Absent(Slot(0)), Absent(Slot(1))],
        ),
        (
            "a false and: the child with the fewest checks",
            !a.same_as("/b") & c.exists(),
            &[Some("1"), Some("1"), None],
            false,
            &[Absent(Slot(2))],
        ),
        (
            "one check for a key: value over existence",
            a.exists() & a.equals("1"),
            &[Some("1")],
            true,
            &[ValueIs(Slot(0))],
        ),
        (
            "one check for a key: in either order",
            a.equals("1") & a.exists(),
            &[Some("1")],
            true,
            &[ValueIs(Slot(0))],
        ),
        (
            "one check for a key: not a value over existence",
            a.exists() & a.not_equals("2"),
            &[Some("1")],
            true,
            &[ValueIsNot(Slot(0), LeafNumber::new(1))],
        ),
        (
            "one check for a key: two values it is not",
            a.not_equals("2") & a.not_equals("3"),
            &[Some("1")],
            true,
            &[ValueIs(Slot(0))],
        ),
        (
            "one check for a key: two values that a long one is not",
            a.not_equals("2") & a.not_equals("3"),
            &[Some(long)],
            true,
            &[Unchanged(Slot(0))],
        ),
        (
            "one check for a key: the same twice",
            a.exists() & !a.absent(),
            &[Some("1")],
            true,
            &[Exists(Slot(0))],
        ),
        ("nothing to prove", Condition::all([]), &[], true, &[]),
        (
            "nothing proves an or",
            Condition::any([a.exists(), Condition::all([])]),
            &[Some("1")],
            true,
            &[Exists(Slot(0))],
        ),
        ("nothing can be true of no alternatives", Condition::any([]), &[], false, &[]),
    ];
    for (case, condition, values, truth, checks) in cases {
        let verdict = compiled(condition).evaluate(&texts(values));
        assert_eq!((verdict.truth, &verdict.witness[..]), (*truth, *checks), "{case}: {condition}");
    }
}

#[test]
fn the_truth_is_found_without_needless_leaves() {
    let condition = compiled(&((key("/a").exists() | key("/b").exists()) & key("/c").exists()));
    for (truths, asked) in
        [([true; 3], vec![0, 2]), ([false; 3], vec![0, 1]), ([false, true, true], vec![0, 1, 2])]
    {
        let mut leaves = Vec::new();
        condition.truth_by(&mut |leaf| {
            leaves.push(leaf.index());
            truths[leaf.index()]
        });
        assert_eq!(leaves, asked);
    }
}
