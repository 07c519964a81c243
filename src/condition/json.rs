//! Fields in values that are JSON: found by a JSON pointer and compared as they are written.
//!
//! What the pointer passes by is checked to be JSON, and not read any further. So nothing that somebody writes into
//! another field hides the one that is asked for: no number beyond all floats, no half of a surrogate pair, no
//! nesting however deep.

use super::number::Decimal;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// What was found where a pointer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldIs {
    Equal,
    Different,
    /// The pointer leads nowhere.
    Missing,
}

/// A value that is not JSON: why, and where.
pub(super) type NotJson = serde_json::Error;

/// The names in a pointer, unescaped; the pointer is well-formed.
pub(super) fn names(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect()
}

/// Compares what these names lead to with what is expected. Numbers are equal if they are the same number, however
/// they are written. Of fields with the same name the last one counts.
pub(super) fn compare(json: &[u8], names: &[String], expected: &Value) -> Result<FieldIs, NotJson> {
    let mut at: &RawValue = serde_json::from_slice(json)?;
    for name in names {
        match child(at, name) {
            Some(child) => at = child,
            None => return Ok(FieldIs::Missing),
        }
    }
    Ok(if equals(at, expected) { FieldIs::Equal } else { FieldIs::Different })
}

/// What a name leads to.
fn child<'a>(json: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let mut reader = serde_json::Deserializer::from_str(json.get());
    // What is JSON as a whole is so in its parts: no error is possible.
    match json.get().as_bytes().first() {
        Some(b'{') => reader.deserialize_map(LastOf(name)).ok().flatten(),
        Some(b'[') => reader.deserialize_seq(Item(index(name)?)).ok().flatten(),
        _ => None,
    }
}

/// The index that a name is, as RFC 6901 has it: without a sign, and without a zero in front.
fn index(name: &str) -> Option<usize> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    name.parse().ok().filter(|_| plain)
}

fn equals(json: &RawValue, expected: &Value) -> bool {
    let text = json.get();
    let mut reader = serde_json::Deserializer::from_str(text);
    match (expected, text.as_bytes().first()) {
        (Value::Null, _) => text == "null",
        (Value::Bool(expected), _) => text == if *expected { "true" } else { "false" },
        (Value::Number(expected), Some(b'-' | b'0'..=b'9')) => {
            let expected = expected.to_string();
            let numbers = (Decimal::read(text.as_bytes()), Decimal::read(expected.as_bytes()));
            matches!(numbers, (Ok(found), Ok(expected)) if found.cmp(&expected).is_eq())
        }
        (Value::String(expected), Some(b'"')) => {
            Name(expected.as_bytes()).deserialize(&mut reader).unwrap_or(false)
        }
        (Value::Array(expected), Some(b'[')) => {
            let found = Vec::<&RawValue>::deserialize(&mut reader).unwrap_or_default();
            found.len() == expected.len() && found.iter().zip(expected).all(|(found, one)| equals(found, one))
        }
        (Value::Object(expected), Some(b'{')) => {
            let found = reader.deserialize_map(Fields).unwrap_or_default();
            found.len() == expected.len()
                && expected
                    .iter()
                    .all(|(name, one)| found.get(name.as_bytes()).is_some_and(|found| equals(found, one)))
        }
        _ => false,
    }
}

/// Whether a text is this one. It is read as bytes, since half of a surrogate pair is no text.
struct Name<'n>(&'n [u8]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_bytes<E>(self, found: &[u8]) -> Result<bool, E> {
        Ok(found == self.0)
    }

    fn visit_str<E>(self, found: &str) -> Result<bool, E> {
        Ok(found.as_bytes() == self.0)
    }
}

/// The value of the last field of this name.
struct LastOf<'n>(&'n str);

impl<'de> Visitor<'de> for LastOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut last = None;
        while let Some(is_it) = fields.next_key_seed(Name(self.0.as_bytes()))? {
            if is_it {
                last = Some(fields.next_value()?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(last)
    }
}

/// The item at this index.
struct Item(usize);

impl<'de> Visitor<'de> for Item {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let item = items.next_element()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(item)
    }
}

/// All fields, each once.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = BTreeMap<Vec<u8>, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = fields.next_key_seed(Bytes)? {
            all.insert(name, fields.next_value()?);
        }
        Ok(all)
    }
}

/// A text as bytes.
struct Bytes;

impl<'de> DeserializeSeed<'de> for Bytes {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Vec<u8>, D::Error> {
        reader.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_bytes<E>(self, found: &[u8]) -> Result<Vec<u8>, E> {
        Ok(found.to_owned())
    }

    fn visit_str<E>(self, found: &str) -> Result<Vec<u8>, E> {
        Ok(found.as_bytes().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FieldIs::{Different, Equal, Missing};
    use serde_json::json;

    #[test]
    fn a_field_is_found_whatever_stands_beside_it() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let beside = [
            "1e400".to_owned(),
            "9".repeat(500),
            r#""\ud800""#.to_owned(),
            r#"{"\udfff":1}"#.to_owned(),
            deep,
            "-0.000e-999999999999999999999".to_owned(),
            r#"["a",{"a":2}]"#.to_owned(),
        ];
        for other in &beside {
            for json in [
                format!(r#"{{"other":{other},"a":{{"b":[7,true]}}}}"#),
                format!(r#"{{"a":{{"other":{other},"b":[7,true]}},"other":1}}"#),
                format!(r#"{{"a":{{"b":[7,true,{other}]}},"\ud800":{other}}}"#),
            ] {
                let found =
                    |pointer: &str, expected| compare(json.as_bytes(), &names(pointer), &expected).unwrap();
                let shown = &other[..other.len().min(30)];
                assert_eq!(found("/a/b/0", json!(7)), Equal, "beside {shown}");
                assert_eq!(found("/a/b/1", json!(false)), Different, "beside {shown}");
                assert_eq!(found("/a/c", json!(7)), Missing, "beside {shown}");
            }
        }
    }

    #[test]
    fn values_are_compared_as_they_are_written() {
        let nines = "9".repeat(400);
        let cases: [(&str, &str, Value, FieldIs); 27] = [
            ("1", "", json!(1), Equal),
            ("1.0", "", json!(1), Equal),
            ("10e-1", "", json!(1.0), Equal),
            ("1.00000000000000000000000000001", "", json!(1), Different),
            ("0.1", "", json!(0.1), Equal),
            ("18446744073709551616", "", json!(u64::MAX), Different),
            (&nines, "", json!(1), Different),
            ("-0", "", json!(0), Equal),
            ("\"1\"", "", json!(1), Different),
            ("1", "", json!("1"), Different),
            ("null", "", json!(null), Equal),
            ("false", "", json!(true), Different),
            (r#""\u00e4\n""#, "", json!("ä\n"), Equal),
            (r#""\ud83d\ude00""#, "", json!("😀"), Equal),
            (r#""\ud83d""#, "", json!("\u{fffd}"), Different),
            (r#"{"a":1,"a":2}"#, "/a", json!(2), Equal),
            (r#"{"a":{"b":1}}"#, "/a", json!({"b": 1.0}), Equal),
            (r#"{"a":{"b":1,"c":1}}"#, "/a", json!({"b": 1}), Different),
            (r#"{"a":{"b":2,"b":1}}"#, "/a", json!({"b": 1}), Equal),
            ("[1,[2]]", "", json!([1, [2]]), Equal),
            ("[1,[2]]", "/1/0", json!(2), Equal),
            ("[1,2]", "/01", json!(2), Missing),
            ("[1,2]", "/2", json!(2), Missing),
            ("[1,2]", "/-", json!(2), Missing),
            (r#"{"":1}"#, "/", json!(1), Equal),
            (r#"{"~":{"/":1}}"#, "/~0/~1", json!(1), Equal),
            (" \n[ 1 ]\t", "/0", json!(1), Equal),
        ];
        for (json, pointer, expected, field) in cases {
            let found = compare(json.as_bytes(), &names(pointer), &expected).unwrap();
            assert_eq!(found, field, "{json} at {pointer:?} and {expected}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for json in [&b"a"[..], b"", b"{\"a\":1", b"[1] 2", b"{\"a\":01}", b"\xff", b"\"\xff\"", b"{a:1}"] {
            assert!(compare(json, &names("/a"), &json!(1)).is_err(), "{}", json.escape_ascii());
        }
    }
}
