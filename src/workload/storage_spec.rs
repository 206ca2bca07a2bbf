//! The `storage` block of a model: a key of the Secret `storage-config`, a path, and parameters over it (§3.5).

use std::collections::BTreeMap;

use super::access::HDFS_PREFIX;
use super::credentials;
use super::resolve::Scope;
use super::{Access, ResolveError};
use crate::api::ComponentSpec;
use crate::api::model_spec::StorageSpec;

/// The Secret with one JSON object per key (config `storageSpecSecretName`).
const SECRET: &str = "storage-config";
const TYPES: [&str; 3] = ["s3", "hdfs", "webhdfs"];

/// What a `storage` block means.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stored {
    /// The URI that its path makes; none when it has no path.
    pub(super) uri: Option<String>,
    /// Credentials; none when the block says nothing of them.
    pub(super) access: Option<Access>,
    /// The block as KServe's storage initializer reads it: `STORAGE_CONFIG` and `STORAGE_OVERRIDE_CONFIG`.
    pub(super) configuration: Vec<(String, String)>,
}

/// Resolves a `storage` block; `path` is its field.
///
/// # Errors
/// The key, the type or the bucket is missing or wrong.
pub(super) fn resolve(
    storage: &StorageSpec,
    path: &str,
    component: &ComponentSpec,
    scope: &Scope<'_>,
) -> Result<Stored, ResolveError> {
    let parameters = storage.parameters.clone().unwrap_or_default();
    let name = credentials::secret_annotation(scope, component).unwrap_or_else(|| SECRET.to_owned());
    let config = config(storage, &parameters, &name, path, scope)?;
    let merged: BTreeMap<String, String> =
        config.iter().flatten().chain(&parameters).fold(BTreeMap::new(), |mut merged, (key, value)| {
            merged.insert(key.clone(), value.clone());
            merged
        });
    let Some(kind) = merged.get("type").filter(|kind| !kind.is_empty()) else {
        return match (&storage.path, storage.key.is_some() || !parameters.is_empty()) {
            (None, false) => Ok(Stored::default()),
            _ => Err(ResolveError::invalid(path, "unable to determine storage type")
                .with_help("name a key of the Secret `storage-config`, or write parameters.type: s3, hdfs or webhdfs")),
        };
    };
    if !TYPES.contains(&kind.as_str()) {
        return Err(ResolveError::invalid(
            format!("{path}.parameters"),
            format!("storage type must be one of [s3, hdfs, webhdfs]. storage type [{kind}] is not supported"),
        ));
    }
    let uri = match &storage.path {
        None => None,
        Some(object) => Some(uri(kind, object, &parameters, config.as_ref(), path)?),
    };
    let mut access = access(kind, &merged);
    if let Some(map) = merged.get("cabundle_configmap").filter(|map| !map.is_empty()) {
        credentials::add_ca_bundle(&mut access, map, scope)?;
    }
    access.origins.push(match &config {
        Some(_) => format!("Secret {}/{name}", scope.key.namespace),
        None => format!("{path}.parameters"),
    });
    Ok(Stored { uri, access: Some(access), configuration: variables(config.as_ref(), &parameters) })
}

fn variables(
    config: Option<&BTreeMap<String, String>>,
    parameters: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let given = [("STORAGE_CONFIG", config), ("STORAGE_OVERRIDE_CONFIG", Some(parameters))];
    let given =
        given.into_iter().filter_map(|(name, values)| Some((name, values.filter(|values| !values.is_empty())?)));
    given.map(|(name, values)| (name.to_owned(), serde_json::json!(values).to_string())).collect()
}

/// Finds the JSON object the block names: its key, else `default_{type}`, else `default`.
fn config(
    storage: &StorageSpec,
    parameters: &BTreeMap<String, String>,
    name: &str,
    path: &str,
    scope: &Scope<'_>,
) -> Result<Option<BTreeMap<String, String>>, ResolveError> {
    let secret = scope.companions.secrets.get(&(scope.key.namespace.as_str(), name));
    let data = secret.map(|secret| credentials::data_of(secret));
    let (key, text) = match (&storage.key, &data) {
        (Some(_), None) => {
            return Err(ResolveError::invalid(
                format!("{path}.key"),
                format!("can't read storage secret {name}: secrets \"{name}\" not found"),
            )
            .with_help(format!("add the Secret `{name}` of namespace `{}` to the folder", scope.key.namespace)));
        }
        (Some(key), Some(data)) => {
            let Some(text) = data.get(key) else {
                let known: Vec<&str> = data.keys().map(String::as_str).collect();
                return Err(ResolveError::invalid(
                    format!("{path}.key"),
                    format!("specified storage key {key} not found in storage secret {name}"),
                )
                .with_help(format!("its keys are: {}", known.join(", "))));
            };
            (key.clone(), text)
        }
        (None, None) => return Ok(None),
        (None, Some(data)) => {
            let key = match parameters.get("type") {
                Some(kind) => format!("default_{kind}"),
                None => "default".to_owned(),
            };
            let Some(text) = data.get(&key) else { return Ok(None) };
            (key, text)
        }
    };
    // The parser's own words quote the text, and the text is a credential.
    let wrong = || {
        let message = format!("key `{key}` of Secret `{name}` is no JSON object of strings");
        ResolveError::invalid(format!("{path}.key"), message)
    };
    let parsed: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    parsed
        .into_iter()
        .map(|(key, value)| Ok((key, plain(value).ok_or_else(wrong)?)))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn plain(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => Some(value.to_string()),
        serde_json::Value::Null => Some(String::new()),
        _ => None,
    }
}

/// The URI of a path. The bucket of the Secret counts only when the type is the Secret's too.
fn uri(
    kind: &str,
    object: &str,
    parameters: &BTreeMap<String, String>,
    config: Option<&BTreeMap<String, String>>,
    path: &str,
) -> Result<String, ResolveError> {
    let object = object.trim_start_matches('/');
    if kind != "s3" {
        return Ok(format!("{kind}://{object}"));
    }
    let of_secret = config.filter(|_| !parameters.contains_key("type")).and_then(|config| config.get("bucket"));
    match parameters.get("bucket").or(of_secret).filter(|bucket| !bucket.is_empty()) {
        Some(bucket) => Ok(format!("s3://{bucket}/{object}")),
        None => Err(ResolveError::invalid(
            format!("{path}.parameters"),
            "format [s3] requires a bucket but one wasn't found in storage data or parameters",
        )),
    }
}

/// The variables of a storage configuration.
fn access(kind: &str, merged: &BTreeMap<String, String>) -> Access {
    let mut access = Access::default();
    let mut set = |name: &str, value: &str| drop(access.variables.insert(name.to_owned(), value.to_owned()));
    if kind == "s3" {
        let table = [
            ("endpoint_url", "AWS_ENDPOINT_URL"),
            ("access_key_id", "AWS_ACCESS_KEY_ID"),
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
            ("region", "AWS_DEFAULT_REGION"),
            ("ca_bundle", "AWS_CA_BUNDLE"),
            ("verify_ssl", "S3_VERIFY_SSL"),
            ("anonymous", "awsAnonymousCredential"),
        ];
        for (key, variable) in table {
            if let Some(value) = merged.get(key).filter(|value| !value.is_empty()) {
                set(variable, value);
            }
        }
    } else {
        for key in credentials::HDFS {
            if let Some(value) = merged.get(key).filter(|value| !value.is_empty()) {
                set(&format!("{HDFS_PREFIX}{key}"), value);
            }
        }
    }
    access
}
