//! Attributes: the names and values with which a pattern becomes a key.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Values of attributes by name, in the order of the names. Clones share the text.
///
/// ```
/// use etcd_rules::Attributes;
/// let mut attributes = Attributes::from([("id", "7"), ("geo", "eu")]);
/// assert_eq!(attributes.get("id"), Some("7"));
/// assert_eq!(attributes.to_string(), "geo=eu id=7");
/// attributes.insert("id", "8");
/// assert_eq!(attributes.iter().collect::<Vec<_>>(), [("geo", "eu"), ("id", "8")]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes(SmallVec<[(Arc<str>, Arc<str>); 2]>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of an attribute, or `None` if there is no such attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).ok().map(|at| &*self.0[at].1)
    }

    /// Sets the value of an attribute. An earlier value is replaced.
    pub fn insert(&mut self, name: impl Into<Arc<str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into().into());
        match self.position(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

/// If a name occurs several times, its last value counts.
impl<N: Into<Arc<str>>, V: Into<String>> FromIterator<(N, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut attributes = Self::new();
        for (name, value) in pairs {
            attributes.insert(name, value);
        }
        attributes
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Attributes {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<N: Into<Arc<str>>, V: Into<String>> From<Vec<(N, V)>> for Attributes {
    fn from(pairs: Vec<(N, V)>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<N: Into<Arc<str>>, V: Into<String>, S> From<HashMap<N, V, S>> for Attributes {
    fn from(map: HashMap<N, V, S>) -> Self {
        map.into_iter().collect()
    }
}

impl<N: Into<Arc<str>>, V: Into<String>> From<BTreeMap<N, V>> for Attributes {
    fn from(map: BTreeMap<N, V>) -> Self {
        map.into_iter().collect()
    }
}

/// Shows `geo=eu id=7`.
impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A map of names to values.
impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(deserializer)?.into_iter().collect())
    }
}
