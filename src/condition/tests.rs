//! Table tests: every leaf on every kind of value, texts, mistakes and explanations.

mod witness;

use super::*;
use crate::change::{Revision, Seen};
use crate::pattern::Attributes;
use serde_json::json;

fn leaf() -> Key {
    key("/k")
}

fn compiled(condition: &Condition) -> Compiled {
    condition.compile().unwrap_or_else(|errors| panic!("{condition}: {errors:?}"))
}

/// What is seen of a key: nothing, or a value with a revision of its own.
fn seen(value: Option<&[u8]>) -> Option<Seen> {
    value.map(|value| Seen { value: value.into(), mod_revision: Revision::new(1 + value.len() as i64) })
}

fn texts(values: &[Option<&str>]) -> Vec<Option<Seen>> {
    values.iter().map(|value| seen(value.map(str::as_bytes))).collect()
}

#[test]
fn leaves_test_one_value() {
    let cases: &[(&str, Condition, Option<&[u8]>, bool)] = &[
        ("a missing key is absent", leaf().absent(), None, true),
        ("an empty value is not absent", leaf().absent(), Some(b""), false),
        ("an empty value exists", leaf().exists(), Some(b""), true),
        ("a missing key does not exist", leaf().exists(), None, false),
        ("equals compares whole values", leaf().equals("ab"), Some(b"a"), false),
        ("equals finds its value", leaf().equals("ab"), Some(b"ab"), true),
        ("equals of bytes that are no text", leaf().equals(vec![0xff]), Some(b"\xff"), true),
        ("an empty literal does not equal a missing key", leaf().equals(""), None, false),
        ("not_equals is true of a missing key", leaf().not_equals("a"), None, true),
        ("not_equals is true of another value", leaf().not_equals("a"), Some(b"b"), true),
        ("not_equals is false of its value", leaf().not_equals("a"), Some(b"a"), false),
        ("one_of finds a value", leaf().one_of(["a", "b"]), Some(b"b"), true),
        ("one_of finds no other", leaf().one_of(["a", "b"]), Some(b"ab"), false),
        ("one_of is false of a missing key", leaf().one_of([""]), None, false),
        ("a prefix", leaf().starts_with("ab"), Some(b"abc"), true),
        ("a prefix longer than the value", leaf().starts_with("abc"), Some(b"ab"), false),
        ("no prefix of a missing key", leaf().starts_with(""), None, false),
        ("a regular expression is found anywhere", leaf().matches("b+"), Some(b"abbc"), true),
        ("an anchored regular expression is not", leaf().matches("^b+$"), Some(b"abbc"), false),
        ("a regular expression in bytes that are no text", leaf().matches("b"), Some(b"\xffb"), true),
        ("a regular expression on a missing key", leaf().matches(""), None, false),
        ("greater", leaf().greater_than(9), Some(b"10"), true),
        ("greater is strict", leaf().greater_than(9), Some(b"9"), false),
        ("at least is not strict", leaf().at_least(9), Some(b"9.0"), true),
        ("at least refuses less", leaf().at_least(9), Some(b"8.9"), false),
        ("less", leaf().less_than(9.5), Some(b"9"), true),
        ("less is strict", leaf().less_than(9), Some(b"9"), false),
        ("at most is not strict", leaf().at_most(9), Some(b"9"), true),
        ("at most refuses greater", leaf().at_most(-9), Some(b"-8"), false),
        ("a word is not at most anything", leaf().at_most(9), Some(b"few"), false),
        ("a missing key is not less than anything", leaf().less_than(9), None, false),
        ("a JSON field", leaf().json_field("/a/0", 5), Some(br#"{"a":[5]}"#), true),
        ("a JSON field of another type", leaf().json_field("/a", 5), Some(br#"{"a":"5"}"#), false),
        ("a JSON field that is null", leaf().json_field("/a", json!(null)), Some(br#"{"a":null}"#), true),
        (
            "a JSON field that is missing is not null",
            leaf().json_field("/a", json!(null)),
            Some(b"{}"),
            false,
        ),
        ("a JSON field of a name with a slash", leaf().json_field("/a~1b", 1), Some(br#"{"a/b":1}"#), true),
        ("the whole of a JSON value", leaf().json_field("", json!([1])), Some(b" [1] "), true),
        ("a value that is not JSON", leaf().json_field("", "a"), Some(b"a"), false),
        ("a JSON field of a missing key", leaf().json_field("", json!(null)), None, false),
        ("a closure sees the value", leaf().compare("is even", is_even), Some(b"ab"), true),
        ("a closure sees that a key is missing", leaf().compare("is missing", |v| v.is_none()), None, true),
    ];
    for (case, condition, value, expected) in cases {
        let (compiled, seen) = (compiled(condition), [seen(*value)]);
        assert_eq!(compiled.truth(&seen), *expected, "{case}");
        assert_eq!(compiled.evaluate(&seen).truth, *expected, "{case}");
    }
}

fn is_even(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| value.len() % 2 == 0)
}

#[test]
fn all_equal_compares_values_and_absence() {
    let cases: &[(&str, [Option<&str>; 3], bool)] = &[
        ("equal values", [Some("a"), Some("a"), Some("a")], true),
        ("all absent", [None, None, None], true),
        ("the last one differs", [Some("a"), Some("a"), Some("b")], false),
        ("one is absent", [Some("a"), None, Some("a")], false),
        ("empty is not absent", [Some(""), None, None], false),
    ];
    let condition = compiled(&all_equal(["/a", "/b", "/c"]));
    for (case, values, expected) in cases {
        assert_eq!(condition.truth(&texts(values)), *expected, "{case}");
    }
}

#[test]
fn the_text_has_parentheses_only_where_they_are_needed() {
    let [a, b, c] = ["/a", "/b", "/c"].map(|name| key(name).exists());
    let (a, b, c) = (|| a.clone(), || b.clone(), || c.clone());
    let cases: &[(&str, Condition)] = &[
        ("/a exists and /b exists and /c exists", a() & b() & c()),
        ("/a exists and /b exists and /c exists", a() & (b() & c())),
        ("/a exists or /b exists and /c exists", a() | b() & c()),
        ("(/a exists or /b exists) and /c exists", (a() | b()) & c()),
        ("/c exists and (/a exists or /b exists)", c() & (a() | b())),
        ("not /a exists and /b exists", !a() & b()),
        ("not (/a exists and /b exists)", !(a() & b())),
        ("not (/a exists or /b exists) or /c exists", !(a() | b()) | c()),
        ("not not /a exists", !!a()),
        ("/a exists", Condition::any([Condition::all([a()])])),
        ("(/a exists or /b exists) and /c exists", Condition::all([Condition::any([a() | b()]), c()])),
        ("not (/a exists or /b exists)", !Condition::all([a() | b()])),
        ("true", Condition::all([])),
        ("false and /a exists", Condition::any([]) & a()),
        ("/a exists and true", a() & Condition::all([])),
    ];
    for (expected, condition) in cases {
        assert_eq!(condition.to_string(), *expected);
    }
    assert_eq!(format!("{:?}", a() & b()), "Condition(/a exists and /b exists)");
}

#[test]
fn each_leaf_has_a_text() {
    let cases: &[(&str, Condition)] = &[
        ("/k is absent", leaf().absent()),
        ("/k = \"a\\n\"", leaf().equals("a\n")),
        ("/k != \"a\"", leaf().not_equals("a")),
        ("not /k != \"a\"", !leaf().not_equals("a")),
        ("/k in [\"a\", \"b\"]", leaf().one_of(["a", "b"])),
        ("/k starts with \"a\"", leaf().starts_with("a")),
        ("/k matches \"^a\"", leaf().matches("^a")),
        ("not /k matches \"(\"", !leaf().matches("(")),
        ("/k > 1", leaf().greater_than(1)),
        ("/k >= 1.5", leaf().at_least(1.5)),
        ("/k < -1", leaf().less_than(-1)),
        ("/k <= 1", leaf().at_most(1_u64)),
        ("/k has \"/a\" = {\"b\":1}", leaf().json_field("/a", json!({"b": 1}))),
        ("/k is even", leaf().compare("is even", is_even)),
        ("/k = /l", leaf().same_as("/l")),
        ("/k != /l", !leaf().same_as("/l")),
        ("not /k = /l = /m", !all_equal(["/k", "/l", "/m"])),
    ];
    for (expected, condition) in cases {
        assert_eq!(condition.to_string(), *expected);
        assert_eq!(
            condition.indented(),
            format!("{expected}\n").replace("not /k != \"a\"", "not\n  /k != \"a\"")
        );
    }
}

#[test]
fn the_indented_text_shows_the_tree() {
    let condition =
        (key("/a").equals("x") & !(key("/b").absent() | Condition::all([]))) | !key("/c").exists();
    let expected = [
        "or",
        "  and",
        "    /a = \"x\"",
        "    not",
        "      or",
        "        /b is absent",
        "        true",
        "  not /c exists",
        "",
    ];
    assert_eq!(condition.indented().lines().collect::<Vec<_>>(), &expected[..8]);
}

#[test]
fn mistakes_are_reported_together_and_each_once() {
    let condition = key("/a/").exists() & key("/a/").matches("(") & key("/b").json_field("c", 1)
        | key("/c").less_than(f64::NAN)
        | !all_equal(["/d", "/d"])
        | all_equal([""; 0])
        | key("/e").json_field("/~2", 1)
        | key("/e").same_as("/:")
        | key("/f").json_field("/~0~1", 1);
    let errors = condition.compile().err().unwrap();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "pattern \"/a/\", byte 3: there is nothing after the last slash",
        "key \"/a/\": \"(\" is not a regular expression (unclosed group); correct",
        "key \"/b\": \"c\" is not a JSON pointer; write",
        "key \"/c\": nothing compares with \"not a number\"; give",
        "`all_equal` or `same_as` of [\"/d\", \"/d\"]: a key always equals itself; name",
        "`all_equal` or `same_as` of []: a key always equals itself; name",
        "key \"/e\": \"/~2\" is not a JSON pointer; write",
        "pattern \"/:\", byte 1: `:` has no name; write",
    ];
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected) && !shown.ends_with('.'), "{shown}\n{expected}");
    }
}

#[test]
fn at_most_128_different_keys_are_allowed() {
    let keys = |count| Condition::all((0..count).map(|n| key(format!("/{n}")).exists()));
    assert_eq!(compiled(&(keys(128) & keys(128))).slots.len(), MAX_SLOTS);
    let errors = (keys(300) & key("").exists()).compile().err().unwrap();
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[1], ConditionError::TooManyKeys { count: 300 });
    assert!(errors[1].to_string().contains("128 operations by default"), "{}", errors[1]);
}

#[test]
fn slots_are_the_distinct_patterns_in_order() {
    let condition = compiled(
        &(key("/b").exists() & all_equal(["/a", "/b", "/a"]) & key("/c").absent() & key("/b").absent()),
    );
    let slots: Vec<&str> = condition.slots.iter().map(|pattern| pattern.as_str()).collect();
    assert_eq!(slots, ["/b", "/a", "/c"]);
    let slots = |leaf: &Leaf| leaf.slots.iter().map(|slot| slot.index()).collect::<Vec<_>>();
    let leaves: Vec<Vec<usize>> = condition.leaves.iter().map(slots).collect();
    assert_eq!(leaves, [&[0][..], &[1, 0], &[2], &[0]]);
}

#[test]
fn an_explanation_shows_every_part_with_what_was_seen() {
    let condition = key("/a/:id").equals("x")
        & !(key("/b").same_as("/a/:id") | Condition::any([]))
        & key("/b").not_equals("y")
        & !key("/c").compare("is even", is_even);
    let explanation = compiled(&condition).explain(&[seen(Some(b"x")), seen(Some(b"y")), None], |slot| {
        ["/a/7", "/b", "/c"][slot.index()].into()
    });
    let expected = "\
✗ and
  ✓ /a/7 = \"x\"  (it is \"x\" since revision 2)
  ✓ not
    ✗ or
      ✗ /b = /a/7  (/b is \"y\" since revision 2, /a/7 is \"x\" since revision 2)
      ✗ false
  ✗ /b != \"y\"  (it is \"y\" since revision 2)
  ✓ not /c is even  (it is absent)
";
    assert_eq!(explanation.to_string(), expected);
    assert_eq!(explanation.children.len(), 4);
    assert_eq!(explanation.children[0].seen[0].mod_revision, Some(2));
}

#[test]
fn an_explanation_says_why_a_leaf_could_not_compare() {
    let cases = [
        (key("/k").at_least(5), "many", ", which is no decimal number)"),
        (
            key("/k").at_least(5),
            "1e1000000000000000000",
            ", whose exponent has more than 18 digits, which is",
        ),
        (key("/k").json_field("/a", 1), "{\"a\":1", ", which is no JSON: EOF while parsing"),
        (key("/k").json_field("/a/b", 1), "{\"a\":1}", ", which has nothing at \"/a/b\")"),
    ];
    for (condition, value, text) in cases {
        let explained = condition.evaluate_on(&Attributes::new(), [("/k", value)]).unwrap();
        assert!(explained.to_string().contains(text), "{explained}");
    }
    let different =
        key("/k").json_field("/a", 2).evaluate_on(&Attributes::new(), [("/k", "{\"a\":1}")]).unwrap();
    assert_eq!((different.truth, &different.seen[0].obstacle), (false, &None));
}

#[test]
fn evaluation_on_a_map_reports_mistakes_and_missing_attributes() {
    let evaluate = |condition: Condition| {
        condition
            .evaluate_on(&Attributes::from([("id", "7")]), [("/a/7", "x")])
            .map_err(|error| error.to_string())
    };
    let explanation = evaluate(key("/a/:id").equals("x")).unwrap();
    assert!(explanation.truth);
    assert_eq!(explanation.seen[0].mod_revision, None, "the revision is not known");
    let error = evaluate(key("/a/").exists() | key("/:").exists()).unwrap_err();
    assert!(
        error.starts_with("the condition has mistakes: pattern \"/a/\"")
            && error.contains("; pattern \"/:\"")
    );
    let error = evaluate(key("/a/:other").exists()).unwrap_err();
    assert!(error.contains("attribute \"other\" is not given"), "{error}");
}

#[test]
fn conditions_can_be_shared_among_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Condition>();
    shared::<Compiled>();
    shared::<(Leaf, Test, Evaluation, Witness)>();
    shared::<Explanation>();
}
