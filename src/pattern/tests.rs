//! Table tests for every rule of the syntax. The matcher is compared with a regular expression.

use super::*;
use crate::properties::check;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

#[test]
fn keys_match_whole_and_segment_by_segment() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        ("an attribute takes one segment", "/servers/:id", "/servers/7", Some("id=7")),
        ("a segment may contain a colon", "/servers/:id", "/servers/eu:7", Some("id=eu:7")),
        ("a segment may begin with a colon", "/servers/:id", "/servers/:id", Some("id=:id")),
        ("a segment may be any UTF-8", "/servers/:id", "/servers/köln 7", Some("id=köln 7")),
        ("an attribute never takes two segments", "/servers/:id", "/servers/7/8", None),
        ("an attribute is not empty", "/servers/:id", "/servers/", None),
        ("an attribute in the middle is not empty", "/servers/:id/state", "/servers//state", None),
        ("a key with a slash more does not match", "/servers/:id", "/servers/7/", None),
        ("a key that is too short does not match", "/servers/:id/state", "/servers/7", None),
        ("text before the key does not match", "/a/:x", "/z/a/b", None),
        ("text after the key does not match", "/a/:x/b", "/a/1/bc", None),
        ("a literal is matched whole", "/a/:x/b", "/a/1/", None),
        ("regex characters are literal", "/a.b/:x", "/aXb/1", None),
        ("regex characters match themselves", "/a.b+(c)/:x", "/a.b+(c)/1", Some("x=1")),
        ("a colon inside a segment is literal", "/a:b/:x", "/a:b/1", Some("x=1")),
        ("a star inside a segment is literal", "/a*/:x", "/a*/1", Some("x=1")),
        ("a pattern without attributes matches itself", "/config/on", "/config/on", Some("")),
        ("a pattern without attributes matches nothing else", "/config/on", "/config/one", None),
        ("keys need no leading slash", "servers/:id", "servers/7", Some("id=7")),
        ("a leading slash is not optional in the key", "servers/:id", "/servers/7", None),
        ("a leading slash is not optional in the pattern", "/servers/:id", "servers/7", None),
        ("one attribute alone is a pattern", ":id", "7", Some("id=7")),
        ("one attribute alone takes no leading slash", ":id", "/7", None),
        ("the rest takes one segment", "/log/*path", "/log/a", Some("path=a")),
        ("the rest takes many segments", "/log/*path", "/log/a/b/", Some("path=a/b/")),
        ("the rest may begin with a slash", "/log/*path", "/log//a", Some("path=/a")),
        ("the rest is not empty", "/log/*path", "/log/", None),
        ("the rest alone takes everything", "*all", "/a/b", Some("all=/a/b")),
        ("the rest alone is not empty either", "*all", "", None),
        ("an attribute used twice matches equal texts", "/:a/x/:a", "/1/x/1", Some("a=1")),
        ("an attribute used twice matches no different texts", "/:a/x/:a", "/1/x/2", None),
        ("a rest that repeats an attribute equals it", "/:a/*a", "/1/1", Some("a=1")),
        ("a rest that repeats an attribute is no longer", "/:a/*a", "/1/1/1", None),
        ("several attributes have names in order", "/:b/:a", "/1/2", Some("a=2 b=1")),
        ("an empty key matches nothing", ":id", "", None),
    ];
    for (case, text, key, expected) in cases {
        let found = pattern(text).matches(key).map(|attributes| attributes.to_string());
        assert_eq!(found.as_deref(), *expected, "{case}");
    }
}

#[test]
fn malformed_patterns_name_the_place_and_the_remedy() {
    use PatternErrorKind::*;
    let cases: &[(&str, &str, usize, PatternErrorKind)] = &[
        ("no text", "", 0, Empty),
        ("an empty segment", "/a//b", 3, EmptySegment),
        ("an empty segment at the start", "//b", 1, EmptySegment),
        ("a slash at the end", "/a/", 3, TrailingSlash),
        ("only a slash", "/", 1, TrailingSlash),
        ("a colon without a name", "/a/:/b", 3, Unnamed(':')),
        ("a star without a name", "/a/*", 3, Unnamed('*')),
        ("a rest that is not last", "/a/*b/c", 3, RestNotLast),
        ("a dot in a name", "/ä/:a.b", 6, Name('.')),
        ("a letter outside ASCII in a name", "/:é", 2, Name('é')),
        ("two colons", "/::a", 2, Name(':')),
    ];
    for (case, text, position, kind) in cases {
        let error = Pattern::parse(text).expect_err(case);
        assert_eq!((error.pattern(), error.position(), error.kind()), (*text, *position, *kind), "{case}");
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("pattern {text:?}, byte {position}: ")), "{case}: {shown}");
        assert!(shown.contains(';') && !shown.ends_with('.'), "{case}: {shown}");
    }
}

#[test]
fn attributes_without_a_key_are_refused() {
    let cases: &[(&str, &str, Option<&str>, &str)] = &[
        ("a missing attribute is named", "/:a", None, "attribute \"a\" is not given"),
        ("a missing rest is named", "/x/*a", None, "attribute \"a\" is not given"),
        ("an empty value is refused", "/:a", Some(""), "attribute \"a\" is empty"),
        ("an empty rest is refused", "/*a", Some(""), "attribute \"a\" is empty"),
        ("a slash in one segment is refused", "/:a", Some("1/2"), "its value \"1/2\" has a slash"),
        ("a slash is refused in either place", "/:a/*a", Some("1/2"), "has a slash"),
    ];
    for (case, text, value, expected) in cases {
        let attributes: Attributes =
            value.map(|value| ("a", value)).into_iter().chain([("b", "2")]).collect();
        let shown = pattern(text).format(&attributes).expect_err(case).to_string();
        assert!(shown.contains(expected) && shown.contains(text), "{case}: {shown}");
    }
    let attributes = Attributes::from([("a", "1/2"), ("unknown", "")]);
    assert_eq!(pattern("/x/*a").format(&attributes).unwrap(), "/x/1/2", "the rest may have slashes");
}

#[test]
fn the_parts_of_a_pattern() {
    let literal = |text: &str| Segment::Literal(text.into());
    let cases: &[(&str, &str, &[&str], &[Segment])] = &[
        (
            "/a/:x/b/:y/:x",
            "/a/",
            &["x", "y"],
            &[
                literal(""),
                literal("a"),
                Segment::Attribute(0),
                literal("b"),
                Segment::Attribute(1),
                Segment::Attribute(0),
            ],
        ),
        ("a/b", "a/b", &[], &[literal("a"), literal("b")]),
        ("/*all", "/", &["all"], &[literal(""), Segment::Rest(0)]),
        (":x/*x", "", &["x"], &[Segment::Attribute(0), Segment::Rest(0)]),
    ];
    for (text, prefix, attributes, segments) in cases {
        let pattern = pattern(text);
        assert_eq!(pattern.literal_prefix(), *prefix, "{text}");
        assert!(pattern.attributes().iter().map(|name| &**name).eq(attributes.iter().copied()), "{text}");
        assert_eq!(pattern.segments(), *segments, "{text}");
        assert_eq!(pattern.to_string(), *text);
    }
    assert_eq!(pattern("/a/:x"), "/a/:x".parse().unwrap());
    assert_ne!(pattern("/a/:x"), pattern("/a/:y"));
    assert_eq!(format!("{:?}", pattern("/a/:x")), "Pattern(\"/a/:x\")");
}

#[test]
fn attributes_are_a_map_whatever_the_order_of_insertion() {
    let (one, two) = (Attributes::from([("a", "1"), ("b", "2")]), Attributes::from([("b", "2"), ("a", "1")]));
    assert_eq!(one, two);
    assert_eq!(one.cmp(&two), std::cmp::Ordering::Equal);
    assert_eq!(HashMap::from([(one, 1)]).get(&two), Some(&1));
    assert_eq!(Attributes::from([("a", "1"), ("a", "2")]).to_string(), "a=2", "the last of a name counts");
    assert_eq!(format!("{two:?}"), r#"{"a": "1", "b": "2"}"#);
    assert!(Attributes::new().is_empty() && two.len() == 2 && two.get("c").is_none());
}

/// The pattern as a regular expression with a group for each occurrence of an attribute, and the names of the
/// attributes.
struct Oracle {
    regex: regex::Regex,
    names: Vec<String>,
}

impl Oracle {
    fn new(text: &str) -> Self {
        let mut names = Vec::new();
        let segment = |segment: &str| match segment.split_at_checked(1) {
            Some((mark @ (":" | "*"), name)) => {
                names.push(name.to_owned());
                if mark == ":" { "([^/]+)".to_owned() } else { "((?s:.+))".to_owned() }
            }
            _ => regex::escape(segment),
        };
        let segments: Vec<String> = text.split('/').map(segment).collect();
        Self { regex: regex::Regex::new(&format!(r"\A{}\z", segments.join("/"))).unwrap(), names }
    }

    fn matches(&self, key: &str) -> Option<Attributes> {
        let found = self.regex.captures(key)?;
        let mut attributes = Attributes::new();
        for (at, name) in self.names.iter().enumerate() {
            let value = &found[at + 1];
            if attributes.get(name).is_some_and(|earlier| earlier != value) {
                return None;
            }
            attributes.insert(name.as_str(), value);
        }
        Some(attributes)
    }
}

/// Texts of patterns, in which attributes often repeat.
fn patterns() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "a.", "é", "a:b", "b*", ":x", ":x", ":x", ":y", ":z_-9"]);
    let rest = prop::option::weighted(0.3, prop::sample::select(vec!["*x", "*all"]));
    (any::<bool>(), prop::collection::vec(segment, 0..5), rest)
        .prop_filter("a pattern has a segment", |(_, segments, rest)| !segments.is_empty() || rest.is_some())
        .prop_map(|(slash, segments, rest)| {
            let segments: Vec<&str> = segments.into_iter().chain(rest).collect();
            format!("{}{}", if slash { "/" } else { "" }, segments.join("/"))
        })
}

/// A key that nearly matches a pattern, by replacing its attributes and perhaps damaging the result. Or a key
/// of random segments.
fn keys_near(text: &str) -> impl Strategy<Value = String> + use<> {
    const PARTS: [&str; 8] = ["a", "b", "ab", "é", "a:b", ":x", "", "\n"];
    let segments: Vec<String> = text.split('/').map(str::to_owned).collect();
    let near =
        (prop::collection::vec(0..4_usize, segments.len()), 0..6_usize).prop_map(move |(picks, damage)| {
            let mut parts: Vec<&str> = Vec::new();
            for (segment, pick) in segments.iter().zip(picks) {
                match segment.as_bytes().first() {
                    // Mostly take the same part, so that a repeated attribute often has equal values.
                    Some(b':') => parts.push(PARTS[[0, 0, 0, 3][pick]]),
                    Some(b'*') => parts.push(["a", "a/b", "/", "é/\n/"][pick]),
                    _ => parts.push(segment),
                }
            }
            match damage {
                0 if !parts.is_empty() => drop(parts.pop()),
                1 => parts.push(""),
                _ => {}
            }
            parts.join("/")
        });
    let any_parts = prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..5);
    prop_oneof![4 => near, 1 => any_parts.prop_map(|parts| parts.join("/"))]
}

#[test]
fn the_matcher_agrees_with_a_regular_expression() {
    let inputs = patterns().prop_flat_map(|text| {
        let keys = prop::collection::vec(keys_near(&text), 3);
        (Just(text), keys)
    });
    let (matched, repeated) = (Cell::new(0), Cell::new(0));
    check(2048, &inputs, |(text, keys)| {
        let (pattern, oracle) = (pattern(&text), Oracle::new(&text));
        for key in keys {
            let found = pattern.matches(&key);
            prop_assert_eq!(&found, &oracle.matches(&key), "{} on {:?}", text, key);
            let Some(found) = found else { continue };
            prop_assert!(key.starts_with(pattern.literal_prefix()));
            prop_assert_eq!(pattern.format(&found).unwrap(), key.as_str(), "the round trip of {}", text);
            let (values, mut written) = (pattern.captures(&key).unwrap(), String::from("> "));
            prop_assert_eq!(values.len(), pattern.attributes().len());
            pattern.write_key(|index| values[index], &mut written);
            prop_assert_eq!(&written[2..], key.as_str());
            matched.set(matched.get() + 1);
            let named = pattern.segments().iter().filter(|part| !matches!(part, Segment::Literal(_))).count();
            repeated.set(repeated.get() + usize::from(named > values.len()));
        }
        Ok(())
    });
    assert!(
        matched.get() > 1500 && repeated.get() > 150,
        "{matched:?} matches, {repeated:?} with a repetition"
    );
}

#[test]
fn a_formatted_key_matches_with_the_same_attributes() {
    let value = || prop::sample::select(vec!["a", "b", "é:", ":x", "a/b", "/", "", "*"]);
    let inputs = (patterns(), value(), value(), value(), value());
    let formatted = Cell::new(0);
    check(2048, &inputs, |(text, x, y, z, all)| {
        let pattern = Pattern::parse(&text).unwrap();
        let given = Attributes::from([("x", x), ("y", y), ("z_-9", z), ("all", all)]);
        let used = |name: &str| pattern.attributes().iter().any(|known| &**known == name);
        let used: Attributes = given.iter().filter(|(name, _)| used(name)).collect();
        match pattern.format(&given) {
            Ok(key) => {
                prop_assert_eq!(pattern.matches(&key), Some(used), "{} on {}", text, key);
                formatted.set(formatted.get() + 1);
            }
            Err(_) => prop_assert!(used.iter().any(|(_, value)| value.is_empty() || value.contains('/'))),
        }
        Ok(())
    });
    assert!(formatted.get() > 500, "only {formatted:?} keys");
}

#[test]
fn parsing_any_text_gives_a_pattern_of_that_text_or_an_error_inside_it() {
    check(4096, &"[/:*a.é_-]{0,8}", |text| {
        match Pattern::parse(&text) {
            Ok(pattern) => prop_assert_eq!(pattern.as_str(), text),
            Err(error) => prop_assert!(text.is_char_boundary(error.position()), "{}", error),
        }
        Ok(())
    });
}

#[test]
fn fixed_attributes_become_literal_text() {
    let fixed = Attributes::from([("geo", "eu"), ("odd", ":x"), ("deep", "a/b")]);
    for (pattern, text, prefix, names, key) in [
        (
            "/:geo/servers/:id/state",
            "/eu/servers/:id/state",
            "/eu/servers/",
            &["id"][..],
            "/eu/servers/7/state",
        ),
        ("/:id/:geo/:id", "/:id/eu/:id", "/", &["id"], "/7/eu/7"),
        ("/:geo/enabled", "/eu/enabled", "/eu/enabled", &[], "/eu/enabled"),
        (":geo/:id", "eu/:id", "eu/", &["id"], "eu/7"),
        ("/:odd/:id", "/:x/:id", "/:x/", &["id"], "/:x/7"),
        ("/log/*deep", "/log/a/b", "/log/a/b", &[], "/log/a/b"),
        ("/plain/:id", "/plain/:id", "/plain/", &["id"], "/plain/7"),
    ] {
        let pattern = Pattern::parse(pattern).unwrap().fix(&fixed);
        assert_eq!((pattern.as_str(), pattern.literal_prefix()), (text, prefix));
        assert!(pattern.attributes().iter().map(|name| &**name).eq(names.iter().copied()), "{text}");
        let id = Attributes::from([("id", "7")]);
        assert_eq!(pattern.format(&id).unwrap(), key, "{text}");
        assert!(pattern.matches(key).is_some() && pattern.matches("/na/servers/7/state").is_none(), "{text}");
    }
}
