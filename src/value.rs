//! The value of a key: bytes, with helpers for text.

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The value of an etcd key: any bytes. It is cheap to clone, because clones of long values share their
/// memory.
///
/// ```
/// use etcd_rules::Value;
/// let value = Value::from("active");
/// assert_eq!(value, "active");
/// assert_eq!(value.as_str(), Some("active"));
/// assert_eq!(Value::from(vec![0xff]).as_str(), None);
/// ```
#[derive(Clone)]
pub struct Value(Content);

/// Most values are short words and numbers. They are stored inline, so that reading or replacing one needs no
/// access to another place in memory.
#[derive(Clone)]
enum Content {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Arc<[u8]>),
}

/// The bytes that fit beside the length into three words.
const SHORT: usize = 22;

impl Value {
    /// The bytes as they are in etcd.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Content::Short { length, bytes } => &bytes[..usize::from(*length)],
            Content::Long(bytes) => bytes,
        }
    }

    /// The value as text, or `None` if it is not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }

    /// The value as text. Bytes that are not UTF-8 are replaced by `U+FFFD`.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }

    /// Parses the value as text, for example as a number. `None` if it is not UTF-8 or doesn't parse.
    pub fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        self.as_str()?.parse().ok()
    }

    /// The value read as JSON.
    ///
    /// ```
    /// use etcd_rules::Value;
    /// let value = Value::from(r#"{"cpus": 8}"#);
    /// let parsed: serde_json::Value = value.json()?;
    /// assert_eq!(parsed["cpus"], 8);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// What serde_json finds wrong.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.as_bytes())
    }

    /// The value that has something as JSON, without spaces.
    ///
    /// # Errors
    /// What serde_json can't write, such as a map whose keys are no text.
    pub fn to_json<T: Serialize + ?Sized>(content: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(content).map(Self::from)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// True if the value has no bytes. A key with an empty value exists nevertheless.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

impl Default for Value {
    fn default() -> Self {
        Self(Content::Short { length: 0, bytes: [0; SHORT] })
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() > SHORT {
            return Self(Content::Long(bytes.into()));
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Self(Content::Short { length: bytes.len() as u8, bytes: short })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        text.as_bytes().into()
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        bytes.as_ref().into()
    }
}

/// As JSON, without spaces.
impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        json.to_string().into()
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        value.as_bytes().into()
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<[u8]> for Value {
    fn eq(&self, other: &[u8]) -> bool {
        self.as_bytes() == other
    }
}

/// Text if it is UTF-8, otherwise bytes.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_bytes(self.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrBytes)
    }
}

struct TextOrBytes;

impl<'de> Visitor<'de> for TextOrBytes {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::from(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Value, A::Error> {
        let mut value = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            value.push(byte);
        }
        Ok(Value::from(value))
    }
}

/// Shows text as a quoted string and other bytes escaped; long values are cut.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 128;
        let shown = &self.as_bytes()[..self.len().min(SHOWN)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if self.len() > SHOWN {
            write!(f, "… ({} bytes)", self.len())?;
        }
        Ok(())
    }
}

/// Shows the text. Bytes that are not UTF-8 are replaced by `U+FFFD`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_in_json_and_other_bytes_come_back_too() {
        for (value, json) in [
            (Value::from("active"), r#""active""#),
            (Value::default(), r#""""#),
            (Value::from(vec![0xff, 0x00]), "[255,0]"),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        }
    }

    #[test]
    fn values_of_every_length_come_back_and_take_three_words() {
        assert_eq!(size_of::<Value>(), 24);
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 1000] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let value = Value::from(bytes.as_slice());
            assert_eq!((value.as_bytes(), value.len()), (bytes.as_slice(), length));
            assert_eq!((Vec::from(value.clone()), value == Value::from(bytes.clone())), (bytes, true));
        }
        assert_ne!(Value::from("a"), Value::from("a\0"));
        assert_eq!(Value::default(), "");
    }
}
