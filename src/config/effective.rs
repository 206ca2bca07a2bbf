//! The settings as they are in force, each with where it comes from: what `config view` prints and the documents list.

use serde::Serialize;
use serde_json::{Value, json};

use super::{ConfigError, Flags, Settings, read_text};
use crate::home::Home;
use crate::manifest::yaml;
use crate::plan::ledger::Amount;

/// A setting that can come from elsewhere than the file.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Key of `config.yaml`.
    pub key: &'static str,
    /// Variable, without `KSERVE_LOCAL_`.
    pub variable: &'static str,
    /// Flag of `serve`, when it has one.
    pub flag: Option<&'static str>,
}

const fn outside(key: &'static str, variable: &'static str, flag: Option<&'static str>) -> Outside {
    Outside { key, variable, flag }
}

/// Every setting that a variable or a flag can set.
pub const OUTSIDE: &[Outside] = &[
    outside("listen", "LISTEN", Some("--listen")),
    outside("apiListen", "API_LISTEN", Some("--api-listen")),
    outside("engine", "ENGINE", Some("--engine")),
    outside("dockerHost", "DOCKER_HOST", None),
    outside("cacheDir", "CACHE_DIR", None),
    outside("cache.maxSize", "CACHE_MAX_SIZE", None),
    outside("cache.minFree", "CACHE_MIN_FREE", None),
    outside("offline", "OFFLINE", Some("--offline")),
    outside("memory.budget", "MEMORY_BUDGET", None),
];

/// Keys whose value is a map that users fill: one setting each.
const MAPS: &[&str] = &["memory.priorityClasses"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "origin", content = "from")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// `config.yaml`.
    File(String),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Key of `config.yaml`.
    pub key: String,
    /// Value; null when there is none.
    pub value: Value,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Returns every setting in force, in the order of the documents.
///
/// # Errors
/// The file cannot be read.
pub fn effective(settings: &Settings, flags: &Flags) -> Result<Vec<Setting>, ConfigError> {
    let written = written(&settings.home)?;
    let mut all = Vec::new();
    // What has no line in `values` yet is shown as it is in the file.
    let mut shown = serde_json::to_value(&settings.file).unwrap_or_default();
    lay_over(&mut shown, values(settings));
    flatten(&mut all, "", &shown);
    let origin = |key: &str| origin(key, settings, flags, &written);
    Ok(all.into_iter().map(|(key, value)| Setting { origin: origin(&key), key, value }).collect())
}

/// Puts values over others, key by key.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            above.into_iter().for_each(|(key, value)| lay_over(below.entry(key).or_insert(Value::Null), value));
        }
        (below, above) => *below = above,
    }
}

/// The file as it is, without meaning.
fn written(home: &Home) -> Result<Value, ConfigError> {
    let text = read_text(home)?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    yaml::from_yaml(&text).map_err(|error| ConfigError::in_file(&home.config(), error))
}

fn origin(key: &str, settings: &Settings, flags: &Flags, written: &Value) -> Origin {
    let outside = OUTSIDE.iter().find(|outside| outside.key == key);
    let given = match key {
        "listen" => flags.listen.is_some(),
        "apiListen" => flags.api_listen.is_some(),
        "engine" => flags.engine.is_some(),
        "offline" => flags.offline,
        _ => false,
    };
    if let Some(flag) = outside.and_then(|outside| outside.flag).filter(|_| given) {
        return Origin::Flag(flag.to_owned());
    }
    let variable = outside.map(|outside| format!("KSERVE_LOCAL_{}", outside.variable));
    let is_set = |name: &String| settings.environment.get(name).is_some_and(|value| !value.is_empty());
    if let Some(variable) = variable.filter(is_set) {
        return Origin::Environment(variable);
    }
    let found = key.split('.').try_fold(written, |value, part| value.get(part));
    match found.filter(|value| !value.is_null()) {
        Some(_) => Origin::File(settings.home.config().to_string()),
        None => Origin::Default,
    }
}

fn flatten(all: &mut Vec<(String, Value)>, prefix: &str, value: &Value) {
    let Some(fields) = value.as_object() else { return };
    for (name, value) in fields {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(_) if !MAPS.contains(&key.as_str()) => flatten(all, &key, value),
            _ => all.push((key, value.clone())),
        }
    }
}

/// The settings in the shape of the file.
fn values(settings: &Settings) -> Value {
    let cache = &settings.room;
    let memory = &settings.memory;
    let domains = settings.domains.split_first();
    json!({
        "listen": settings.listen.to_string(),
        "apiListen": settings.api_listen.to_string(),
        "engine": settings.engine,
        "dockerHost": settings.docker_host,
        "cacheDir": settings.cache_dir,
        "cache": {
            "maxSize": cache.most.map(quantity), "minFree": quantity(cache.spare), "collect": cache.collect,
        },
        "offline": settings.offline,
        "ingress": {
            "ingressDomain": domains.map(|(first, _)| first),
            "additionalIngressDomains": domains.map(|(_, others)| others),
        },
        "deploy": {"defaultDeploymentMode": settings.default_mode},
        "allowedHostPaths": settings.allowed_host_paths,
        "drainSeconds": settings.drain_deadline.as_secs(),
        "scaleToZeroGraceSeconds": settings.scale_to_zero_grace.as_secs(),
        "revisionHistoryLimit": settings.history_limit,
        "memory": {
            "reserve": amount(memory.reserve), "budget": memory.budget.map(amount),
            "runtimeOverhead": quantity(memory.runtime_overhead),
            "minResidencySeconds": memory.min_residency.map(|time| time.as_secs()),
            "priorityClasses": memory.priority_classes,
        },
        "sandboxes": {"enabled": settings.sandboxes.enabled, "asleep": settings.sandboxes.asleep},
        "gateway": settings.gateway,
    })
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => quantity(bytes),
        Amount::Percent(percent) => format!("{percent}%"),
    }
}

/// Returns bytes as the shortest quantity that is exact.
fn quantity(bytes: u64) -> String {
    let units = [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::super::FileConfig;
    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: &Flags) -> Vec<Setting> {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap());
        std::fs::write(home.config(), file).unwrap();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        effective(&Settings::load(home, flags, environment).unwrap(), flags).unwrap()
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let file = "listen: 127.0.0.1:1\napiListen: 127.0.0.1:2\ncache: {maxSize: 2048Mi}\ngateway: {workers: 2}\n";
        let flags = Flags { listen: Some(":5".to_owned()), ..Flags::default() };
        let variables = [("KSERVE_LOCAL_MEMORY_BUDGET", "50%"), ("KSERVE_LOCAL_LISTEN", "127.0.0.1:9")];
        let all = load(file, &variables, &flags);
        let found = |key: &str| {
            let one = all.iter().find(|setting| setting.key == key).unwrap();
            let origin = match &one.origin {
                Origin::Default => "default".to_owned(),
                Origin::File(path) => path.rsplit('/').next().unwrap().to_owned(),
                Origin::Environment(name) | Origin::Flag(name) => name.clone(),
            };
            (one.value.clone(), origin)
        };
        assert_eq!(found("listen"), (json!("127.0.0.1:5"), "--listen".to_owned()));
        assert_eq!(found("apiListen"), (json!("127.0.0.1:2"), "config.yaml".to_owned()));
        assert_eq!(found("cache.maxSize"), (json!("2Gi"), "config.yaml".to_owned()));
        assert_eq!(found("memory.budget"), (json!("50%"), "KSERVE_LOCAL_MEMORY_BUDGET".to_owned()));
        assert_eq!(found("memory.reserve"), (json!("5%"), "default".to_owned()));
        assert_eq!(found("gateway.workers"), (json!(2), "config.yaml".to_owned()));
        assert_eq!(found("engine"), (json!("auto"), "default".to_owned()));
    }

    #[test]
    fn every_key_of_the_file_is_shown_and_every_variable_names_one() {
        let mut keys = Vec::new();
        flatten(&mut keys, "", &serde_json::to_value(FileConfig::default()).unwrap());
        let mut keys: Vec<String> = keys.into_iter().map(|(key, _)| key).collect();
        let mut shown: Vec<String> = load("", &[], &Flags::default()).into_iter().map(|one| one.key).collect();
        assert!(OUTSIDE.iter().all(|outside| shown.iter().any(|key| key == outside.key)));
        keys.sort();
        shown.sort();
        assert_eq!(keys, shown);
    }
}
