//! Volumes of a component.
//!
//! `emptyDir`, `configMap`, `secret`, `persistentVolumeClaim` and `projected` volumes of ConfigMaps and Secrets are
//! served; `hostPath` only where the operator allows it; every other kind is refused by its field.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, KeyToPath, ProjectedVolumeSource, Volume};
use serde_json::Value;

use super::env::{self, PodFacts};
use super::{MountSource, ResolveError, WorkloadConfig};
use crate::api::quantity;

/// A volume and whether its kind can be written to.
#[derive(Clone, Debug)]
pub(super) struct ResolvedVolume {
    pub(super) source: MountSource,
    pub(super) read_only: bool,
}

/// Volumes by name.
pub(super) type Volumes = BTreeMap<String, ResolvedVolume>;

/// Resolves volumes, each with the path it was written at.
pub(super) fn volumes(
    written: &[(String, Volume)],
    facts: &PodFacts<'_>,
    config: &WorkloadConfig,
) -> Result<Volumes, ResolveError> {
    let mut volumes = Volumes::new();
    for (path, volume) in written {
        let resolved = resolve(volume, path, facts, config)?;
        if volumes.insert(volume.name.clone(), resolved).is_some() {
            return Err(ResolveError::invalid(
                format!("{path}.name"),
                format!("volume `{}` is defined twice", volume.name),
            ));
        }
    }
    Ok(volumes)
}

fn resolve(
    volume: &Volume,
    path: &str,
    facts: &PodFacts<'_>,
    config: &WorkloadConfig,
) -> Result<ResolvedVolume, ResolveError> {
    let kinds = kinds(volume);
    let [kind] = &kinds[..] else {
        let problem = match kinds.len() {
            0 => "names no kind of volume".to_owned(),
            _ => format!("is of several kinds: {}", kinds.join(", ")),
        };
        return Err(ResolveError::invalid(path, format!("volume `{}` {problem}", volume.name)));
    };
    let at = format!("{path}.{kind}");
    let read_write = |source| ResolvedVolume { source, read_only: false };
    if let Some(empty_dir) = &volume.empty_dir {
        return empty(&volume.name, empty_dir, &at).map(read_write);
    }
    if let Some(map) = &volume.config_map {
        let data = look_up(env::config_map(facts, &map.name), map.optional, "configmap", &map.name, &at)?;
        let files = select(data, map.items.as_deref(), map.optional, &at)?;
        return finish(&volume.name, files, map.default_mode, &at);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let data = look_up(env::secret(facts, name), secret.optional, "secret", name, &at)?;
        let files = select(data, secret.items.as_deref(), secret.optional, &at)?;
        return finish(&volume.name, files, secret.default_mode, &at);
    }
    if let Some(projected) = &volume.projected {
        return finish(&volume.name, project(projected, facts, &at)?, projected.default_mode, &at);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let source = claim_source(facts.namespace, &claim.claim_name, &format!("{at}.claimName"))?;
        return Ok(ResolvedVolume { source, read_only: claim.read_only.unwrap_or(false) });
    }
    if let Some(host) = &volume.host_path {
        return allowed(&host.path, config)
            .then(|| read_write(MountSource::HostPath { path: host.path.clone() }))
            .ok_or_else(|| {
                ResolveError::invalid(format!("{at}.path"), format!("folder `{}` of this machine may not be mounted", host.path))
                    .with_help("the operator allows folders in the configuration; a persistentVolumeClaim is a folder under volumes/ of the home")
            });
    }
    Err(ResolveError::invalid(at, format!("`{kind}` volumes are not served")).with_help(
        "emptyDir, configMap, secret, persistentVolumeClaim and projected volumes of ConfigMaps and Secrets are",
    ))
}

/// Names the kinds of source a volume has.
fn kinds(volume: &Volume) -> Vec<String> {
    let Ok(Value::Object(fields)) = serde_json::to_value(volume) else { return Vec::new() };
    fields.into_iter().filter(|(key, value)| key != "name" && !value.is_null()).map(|(key, _)| key).collect()
}

/// Names a claim's folder; the name must not lead out of the namespace's volumes.
pub(super) fn claim_source(namespace: &str, claim: &str, field: &str) -> Result<MountSource, ResolveError> {
    if claim.is_empty() || claim.starts_with('.') || claim.contains(['/', '\\', '\0']) {
        return Err(ResolveError::invalid(field, format!("`{claim}` is not the name of a claim")));
    }
    Ok(MountSource::Claim { namespace: namespace.to_owned(), claim: claim.to_owned() })
}

fn empty(name: &str, empty: &EmptyDirVolumeSource, at: &str) -> Result<MountSource, ResolveError> {
    let memory = match empty.medium.as_deref().unwrap_or_default() {
        "" => false,
        "Memory" => true,
        other => return Err(ResolveError::invalid(format!("{at}.medium"), format!("medium `{other}` is not served"))),
    };
    let limit = |text: &str| {
        quantity::parse_whole(text).map_err(|error| ResolveError::invalid(format!("{at}.sizeLimit"), error.to_string()))
    };
    let size_limit =
        empty.size_limit.as_ref().map(|limit_text| limit(&limit_text.0)).transpose()?.filter(|size| *size > 0);
    Ok(MountSource::EmptyDir { volume: name.to_owned(), memory, size_limit })
}

type Data = BTreeMap<String, Vec<u8>>;
type Files = BTreeMap<String, (Vec<u8>, Option<i32>)>;

fn look_up(data: Option<Data>, optional: Option<bool>, kind: &str, name: &str, at: &str) -> Result<Data, ResolveError> {
    match data {
        Some(data) => Ok(data),
        None if optional == Some(true) => Ok(Data::new()),
        None => Err(ResolveError::invalid(at, format!("{kind} \"{name}\" not found"))
            .with_help("add it to the same namespace, or set `optional: true`")),
    }
}

fn select(
    mut data: Data,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    at: &str,
) -> Result<Files, ResolveError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, contents)| (key, (contents, None))).collect());
    };
    let mut files = Files::new();
    for (index, item) in items.iter().enumerate() {
        let field = format!("{at}.items[{index}]");
        if !stays_inside(&item.path) || item.path.is_empty() {
            return Err(ResolveError::invalid(format!("{field}.path"), "must be a relative path without `..`"));
        }
        match data.remove(&item.key) {
            Some(contents) => drop(files.insert(item.path.clone(), (contents, item.mode))),
            None if optional == Some(true) => {}
            None => {
                return Err(ResolveError::invalid(format!("{field}.key"), format!("there is no key `{}`", item.key)));
            }
        }
    }
    Ok(files)
}

fn finish(name: &str, files: Files, default_mode: Option<i32>, at: &str) -> Result<ResolvedVolume, ResolveError> {
    let default_mode = default_mode.unwrap_or(0o644);
    let mut modes: Vec<i32> = files.values().map(|(_, mode)| mode.unwrap_or(default_mode)).collect();
    modes.sort_unstable();
    modes.dedup();
    let mode = match modes[..] {
        [] => default_mode,
        [mode] => mode,
        _ => return Err(ResolveError::invalid(format!("{at}.items"), "items of one volume must have the same mode")),
    };
    let mode = u32::try_from(mode).ok().filter(|mode| *mode <= 0o777);
    let mode = mode.ok_or_else(|| ResolveError::invalid(format!("{at}.defaultMode"), "must be between 0 and 0777"))?;
    let files = files.into_iter().map(|(path, (contents, _))| (path, contents)).collect();
    Ok(ResolvedVolume { source: MountSource::Files { volume: name.to_owned(), files, mode }, read_only: true })
}

fn project(projected: &ProjectedVolumeSource, facts: &PodFacts<'_>, at: &str) -> Result<Files, ResolveError> {
    let mut files = Files::new();
    for (index, source) in projected.sources.iter().flatten().enumerate() {
        let at = format!("{at}.sources[{index}]");
        if let Some(map) = &source.config_map {
            let at = format!("{at}.configMap");
            let data = look_up(env::config_map(facts, &map.name), map.optional, "configmap", &map.name, &at)?;
            files.extend(select(data, map.items.as_deref(), map.optional, &at)?);
        } else if let Some(secret) = &source.secret {
            let at = format!("{at}.secret");
            let data = look_up(env::secret(facts, &secret.name), secret.optional, "secret", &secret.name, &at)?;
            files.extend(select(data, secret.items.as_deref(), secret.optional, &at)?);
        } else {
            return Err(ResolveError::invalid(at, "only configMap and secret sources are served"));
        }
    }
    Ok(files)
}

/// Whether a folder is one the operator allows, or inside of one.
fn allowed(path: &str, config: &WorkloadConfig) -> bool {
    let clean = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    let inside = |root: &String| {
        let root = root.trim_end_matches('/');
        path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
    };
    clean && config.allowed_host_paths.iter().any(inside)
}

/// Whether a relative path leads nowhere else.
pub(super) fn stays_inside(path: &str) -> bool {
    !path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    use super::*;
    use crate::workload::Companions;

    fn resolved(volume: Value) -> Result<ResolvedVolume, ResolveError> {
        let mut volume = volume;
        volume["name"] = json!("v");
        let secret: Secret = serde_json::from_value(json!({ "data": { "token": "czNjcjN0" } })).unwrap();
        let map: ConfigMap = serde_json::from_value(json!({ "data": { "a": "1", "b": "2" } })).unwrap();
        let companions = Companions {
            secrets: [(("team", "creds"), &secret)].into(),
            config_maps: [(("team", "settings"), &map)].into(),
            ..Companions::default()
        };
        let (nothing, resources) = (BTreeMap::new(), BTreeMap::new());
        let facts = PodFacts {
            namespace: "team",
            name: "iris-predictor",
            labels: &nothing,
            annotations: &nothing,
            service_account: "default",
            resources: &resources,
            companions: &companions,
        };
        let written = [("spec.predictor.volumes[0]".to_owned(), serde_json::from_value(volume).unwrap())];
        volumes(&written, &facts, &WorkloadConfig::default()).map(|mut volumes| volumes.remove("v").unwrap())
    }

    fn files(volume: Value) -> (Vec<(String, String)>, u32) {
        match resolved(volume).unwrap().source {
            MountSource::Files { files, mode, .. } => {
                let text = |contents: Vec<u8>| String::from_utf8(contents).unwrap();
                (files.into_iter().map(|(path, contents)| (path, text(contents))).collect(), mode)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_come_from_config_maps_secrets_and_projections_of_them() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
        };
        let cases = [
            (json!({ "configMap": { "name": "settings" } }), pairs(&[("a", "1"), ("b", "2")]), 0o644),
            (
                json!({ "configMap": { "name": "settings", "defaultMode": 0o400, "items": [{ "key": "b", "path": "deep/b" }] } }),
                pairs(&[("deep/b", "2")]),
                0o400,
            ),
            (
                json!({ "secret": { "secretName": "creds", "items": [{ "key": "token", "path": "t", "mode": 0o600 }] } }),
                pairs(&[("t", "s3cr3t")]),
                0o600,
            ),
            (json!({ "secret": { "secretName": "absent", "optional": true } }), Vec::new(), 0o644),
            (
                json!({ "projected": { "sources": [
                    { "configMap": { "name": "settings", "items": [{ "key": "a", "path": "x" }] } },
                    { "secret": { "name": "creds" } },
                ] } }),
                pairs(&[("token", "s3cr3t"), ("x", "1")]),
                0o644,
            ),
        ];
        for (volume, want, mode) in cases {
            assert_eq!(files(volume.clone()), (want, mode), "{volume}");
        }
    }

    #[test]
    fn folders_that_live_as_long_as_the_replica_may_be_in_memory() {
        let source = |volume: Value| resolved(volume).unwrap().source;
        let empty = |memory, size_limit| MountSource::EmptyDir { volume: "v".to_owned(), memory, size_limit };
        assert_eq!(source(json!({ "emptyDir": {} })), empty(false, None));
        assert_eq!(
            source(json!({ "emptyDir": { "medium": "Memory", "sizeLimit": "1Gi" } })),
            empty(true, Some(1 << 30))
        );
    }

    #[test]
    fn what_is_not_served_or_not_there_is_refused_by_its_field() {
        let cases = [
            (json!({}), ""),
            (json!({ "emptyDir": {}, "secret": { "secretName": "creds" } }), ""),
            (json!({ "csi": { "driver": "d" } }), ".csi"),
            (json!({ "image": { "reference": "r" } }), ".image"),
            (json!({ "hostPath": { "path": "/etc" } }), ".hostPath.path"),
            (json!({ "emptyDir": { "medium": "HugePages" } }), ".emptyDir.medium"),
            (json!({ "emptyDir": { "sizeLimit": "lots" } }), ".emptyDir.sizeLimit"),
            (json!({ "configMap": { "name": "absent" } }), ".configMap"),
            (
                json!({ "configMap": { "name": "settings", "items": [{ "key": "c", "path": "c" }] } }),
                ".configMap.items[0].key",
            ),
            (
                json!({ "configMap": { "name": "settings", "items": [{ "key": "a", "path": "../a" }] } }),
                ".configMap.items[0].path",
            ),
            (json!({ "secret": { "secretName": "creds", "defaultMode": 0o1000 } }), ".secret.defaultMode"),
            (
                json!({ "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } }),
                ".projected.sources[0]",
            ),
            (json!({ "persistentVolumeClaim": { "claimName": "../x" } }), ".persistentVolumeClaim.claimName"),
        ];
        for (volume, field) in cases {
            let error = resolved(volume).unwrap_err();
            let ResolveError::Invalid { field: path, .. } = &error else { panic!("{error}") };
            assert_eq!(path, &format!("spec.predictor.volumes[0]{field}"));
        }
    }
}
