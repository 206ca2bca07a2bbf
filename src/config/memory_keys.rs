//! `memory` of `config.yaml`: what models may have of this machine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::api::quantity;
use crate::plan::ledger::{Amount, MemoryConfig};

/// `memory` of `config.yaml`. Amounts are quantities (`2Gi`) or percents of this machine's memory (`10%`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MemoryKeys {
    /// Kept free for everything that is not a model; 5 % by default.
    pub reserve: Option<String>,
    /// Most that models may have together; all that is left by default.
    pub budget: Option<String>,
    /// Added to the size of a model's files while nothing was measured; 512Mi by default.
    pub runtime_overhead: Option<String>,
    /// Shortest stay of a model that was loaded, in seconds; as long as its loading took by default, between 2 and 60.
    pub min_residency_seconds: Option<u64>,
    /// Priority by name of a `priorityClassName`; a higher number is put to sleep later.
    pub priority_classes: BTreeMap<String, i64>,
}

impl MemoryKeys {
    /// Reads the amounts. `budget` is that of the environment (`KSERVE_LOCAL_MEMORY_BUDGET`), which stands above the file's.
    ///
    /// # Errors
    /// An amount that is none, with its key.
    pub(super) fn checked(self, budget: Option<String>) -> Result<MemoryConfig, ConfigError> {
        let default = MemoryConfig::default();
        let budget = match (budget, self.budget) {
            (Some(text), _) => Some(amount("KSERVE_LOCAL_MEMORY_BUDGET", &text)?),
            (None, Some(text)) => Some(amount("config.yaml: memory.budget", &text)?),
            (None, None) => None,
        };
        let reserve = self.reserve.map(|text| amount("config.yaml: memory.reserve", &text)).transpose()?;
        let key = "config.yaml: memory.runtimeOverhead";
        let overhead = self.runtime_overhead.map(|text| bytes(key, &text)).transpose()?;
        Ok(MemoryConfig {
            reserve: reserve.unwrap_or(default.reserve),
            budget,
            runtime_overhead: overhead.unwrap_or(default.runtime_overhead),
            min_residency: self.min_residency_seconds.map(Duration::from_secs),
            priority_classes: self.priority_classes,
        })
    }
}

fn amount(key: &str, text: &str) -> Result<Amount, ConfigError> {
    let Some(percent) = text.trim().strip_suffix('%') else { return bytes(key, text).map(Amount::Bytes) };
    match percent.trim().parse() {
        Ok(percent @ 0..=100) => Ok(Amount::Percent(percent)),
        _ => Err(wrong(key, format!("`{text}` is not a percent between 0% and 100%"))),
    }
}

fn bytes(key: &str, text: &str) -> Result<u64, ConfigError> {
    quantity::parse_whole(text)
        .map_err(|_| wrong(key, format!("`{text}` is not an amount of memory; write for example 2Gi, 512Mi or 10%")))
}

fn wrong(key: &str, message: String) -> ConfigError {
    ConfigError::Value { from: key.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_quantities_or_percents_and_the_environment_stands_above_the_file() {
        let keys = |budget: &str, reserve: &str| MemoryKeys {
            budget: Some(budget.to_owned()),
            reserve: Some(reserve.to_owned()),
            ..MemoryKeys::default()
        };
        let read = keys("2Gi", "10%").checked(None).unwrap();
        assert_eq!((read.budget, read.reserve), (Some(Amount::Bytes(2 << 30)), Amount::Percent(10)));
        let read = keys("2Gi", "1Gi").checked(Some("50%".to_owned())).unwrap();
        assert_eq!(read.budget, Some(Amount::Percent(50)));
        let said = |keys: MemoryKeys| keys.checked(None).unwrap_err().to_string();
        assert!(said(keys("2gb", "1Gi")).contains("memory.budget: `2gb` is not an amount of memory"));
        assert!(said(keys("2Gi", "101%")).contains("memory.reserve: `101%` is not a percent"));
    }
}
