//! Attributes as a struct of the application's own.

use super::Attributes;
use serde::de::value::{BorrowedStrDeserializer, Error as SerdeError, MapDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt;
use thiserror::Error;

/// An attribute is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct AttributeError(String);

impl AttributeError {
    pub(crate) fn parse(name: &str, value: &str, error: &dyn fmt::Display) -> Self {
        Self(format!("attribute `:{name}`: {value:?}: {error}"))
    }
}

impl Attributes {
    /// Reads the attributes into a struct (or a map) of the application's own: a field for each attribute that it
    /// wants. Numbers, `bool`s and `char`s are parsed; an enum's variants are told by their names.
    ///
    /// ```
    /// use etcd_rules::Attributes;
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Disk<'a> {
    ///     server: &'a str,
    ///     slot: u8,
    /// }
    ///
    /// let attributes = Attributes::from([("server", "a7"), ("slot", "3")]);
    /// let disk: Disk<'_> = attributes.deserialize()?;
    /// assert_eq!((disk.server, disk.slot), ("a7", 3));
    /// # Ok::<(), etcd_rules::pattern::AttributeError>(())
    /// ```
    ///
    /// # Errors
    /// If an attribute does not parse, or there is none for a field.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T, AttributeError> {
        let fields =
            self.iter().map(|(name, value)| (BorrowedStrDeserializer::new(name), Text { name, value }));
        T::deserialize(MapDeserializer::new(fields))
            .map_err(|error: SerdeError| AttributeError(error.to_string()))
    }
}

/// The value of an attribute, which is read as whatever is asked for.
struct Text<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'de> IntoDeserializer<'de, SerdeError> for Text<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Parses what is asked for.
macro_rules! parse {
    ($($method:ident: $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SerdeError> {
            match self.value.parse() {
                Ok(parsed) => visitor.$visit(parsed),
                Err(error) => Err(SerdeError::custom(AttributeError::parse(self.name, self.value, &error))),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = SerdeError;

    parse! {
        deserialize_bool: visit_bool
        deserialize_char: visit_char
        deserialize_i8: visit_i8
        deserialize_i16: visit_i16
        deserialize_i32: visit_i32
        deserialize_i64: visit_i64
        deserialize_i128: visit_i128
        deserialize_u8: visit_u8
        deserialize_u16: visit_u16
        deserialize_u32: visit_u32
        deserialize_u64: visit_u64
        deserialize_u128: visit_u128
        deserialize_f32: visit_f32
        deserialize_f64: visit_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SerdeError> {
        visitor.visit_borrowed_str(self.value)
    }

    /// An attribute that there is has a value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SerdeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SerdeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SerdeError> {
        StrDeserializer::<SerdeError>::new(self.value).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::Attributes;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Zone {
        North,
        South,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Id(u64);

    #[derive(Debug, Deserialize, PartialEq)]
    struct Place<'a> {
        id: Id,
        zone: Zone,
        name: &'a str,
        rack: Option<u8>,
        row: Option<i32>,
    }

    #[test]
    fn attributes_become_a_struct() {
        let all =
            Attributes::from([("id", "7"), ("name", "a"), ("other", "x"), ("row", "-3"), ("zone", "south")]);
        let place = Place { id: Id(7), zone: Zone::South, name: "a", rack: None, row: Some(-3) };
        assert_eq!(all.deserialize(), Ok(place));
        let map: BTreeMap<String, String> = all.deserialize().unwrap();
        assert_eq!(map.get("other").map(String::as_str), Some("x"));
    }

    #[test]
    fn what_does_not_parse_is_named() {
        for (attributes, text) in [
            (
                [("id", "x"), ("name", "a"), ("zone", "south")],
                "attribute `:id`: \"x\": invalid digit found in string",
            ),
            (
                [("id", "7"), ("name", "a"), ("zone", "east")],
                "unknown variant `east`, expected `north` or `south`",
            ),
            ([("id", "7"), ("named", "a"), ("zone", "south")], "missing field `name`"),
        ] {
            let error = Attributes::from(attributes).deserialize::<Place<'_>>().unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
