//! Settings of the model cache.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::api::quantity::parse_whole;
use crate::storage::RoomPolicy;

/// `cache` of `config.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Most bytes the cache may hold, as a quantity such as `200Gi`; no limit by default.
    pub max_size: Option<String>,
    /// Bytes of the disk that downloads leave free; `256Mi` by default.
    pub min_free: Option<String>,
    /// Whether models nobody needs are removed when there is too little room; `true` by default.
    pub collect: Option<bool>,
}

impl CacheConfig {
    /// Returns the limits, the environment's first.
    ///
    /// # Errors
    /// A value is no quantity.
    pub(super) fn policy(&self, variable: impl Fn(&str) -> Option<String>) -> Result<RoomPolicy, ConfigError> {
        let pick = |name: &str, key: &str, written: &Option<String>| {
            let from_variable = variable(name).map(|value| (format!("KSERVE_LOCAL_{name}"), value));
            let from_file = || written.clone().map(|value| (format!("config.yaml: cache.{key}"), value));
            match from_variable.or_else(from_file) {
                None => Ok(None),
                Some((from, text)) => parse_whole(&text)
                    .map(Some)
                    .map_err(|error| ConfigError::Value { from, message: error.to_string() }),
            }
        };
        let usual = RoomPolicy::default();
        Ok(RoomPolicy {
            most: pick("CACHE_MAX_SIZE", "maxSize", &self.max_size)?,
            spare: pick("CACHE_MIN_FREE", "minFree", &self.min_free)?.unwrap_or(usual.spare),
            collect: self.collect.unwrap_or(usual.collect),
        })
    }
}

/// Reads a switch of the environment.
pub(super) fn switch(from: &str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => {
            let message = format!("`{other}` is neither yes nor no; use true or false");
            Err(ConfigError::Value { from: from.to_owned(), message })
        }
    }
}
