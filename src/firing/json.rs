//! Values as JSON.

use super::{Firing, FiringError};
use crate::value::Value;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

impl Firing {
    /// The [value](Self::value) of a key of the condition, read as JSON: into a type of the application's own, which
    /// may borrow from the firing, or into a `serde_json::Value`.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Order {
    ///     cpus: u32,
    /// }
    ///
    /// async fn double(firing: Firing) -> Result<Outcome, Error> {
    ///     let order: Order = firing.json("/orders/:id")?;
    ///     let doubled = Order { cpus: 2 * order.cpus };
    ///     Ok(firing.commit().put_json("/doubled/:id", &doubled).into())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`FiringError::Json`] if it is not such JSON; those of [`value`](Self::value).
    pub fn json<'a, T: Deserialize<'a>>(&'a self, pattern: &str) -> Result<T, FiringError> {
        self.parse(pattern, self.value(pattern)?)
    }

    /// As [`json`](Self::json), with `None` for a key that was absent.
    ///
    /// # Errors
    /// As [`json`](Self::json), but for the absence.
    pub fn json_opt<'a, T: Deserialize<'a>>(&'a self, pattern: &str) -> Result<Option<T>, FiringError> {
        self.value_opt(pattern)?.map(|value| self.parse(pattern, value)).transpose()
    }

    /// The newest value of a key, as [`get`](Self::get) reads it, as JSON.
    ///
    /// # Errors
    /// [`FiringError::Json`] if it is not such JSON; those of [`get`](Self::get).
    pub async fn get_json<T: DeserializeOwned>(&self, pattern: &str) -> Result<T, FiringError> {
        self.parse(pattern, &self.get(pattern).await?)
    }

    /// As [`get_json`](Self::get_json), with `None` for a key that does not exist.
    ///
    /// # Errors
    /// As [`get_json`](Self::get_json), but for the absence.
    pub async fn get_json_opt<T: DeserializeOwned>(&self, pattern: &str) -> Result<Option<T>, FiringError> {
        self.get_opt(pattern).await?.map(|value| self.parse(pattern, &value)).transpose()
    }

    fn parse<'a, T: Deserialize<'a>>(&self, pattern: &str, value: &'a Value) -> Result<T, FiringError> {
        value.json().map_err(|source| match self.format(pattern) {
            Ok(key) => FiringError::Json { key, source: Arc::new(source) },
            Err(error) => error,
        })
    }
}
