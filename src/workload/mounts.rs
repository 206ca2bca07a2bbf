//! Mounts of a container: declared volumes at paths, checked to stay where they belong.

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use super::env;
use super::expand::expand;
use super::origin::Origin;
use super::volumes::{Volumes, stays_inside};
use super::{Mount, MountSource, ResolveError, pod_name};

/// Resolves the mounts a container declares.
pub(super) fn mounts(
    container: &Container,
    origin: &Origin,
    volumes: &Volumes,
    env: &[(String, String)],
) -> Result<Vec<Mount>, ResolveError> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let field = origin.item("volumeMounts", "mountPath", &Value::from(mount.mount_path.as_str()));
        let Some(volume) = volumes.get(&mount.name) else {
            return Err(ResolveError::invalid(
                format!("{field}.name"),
                format!("volume `{}` is not defined", mount.name),
            ));
        };
        let path = mount_path(&mount.mount_path, &format!("{field}.mountPath"))?;
        if mounts.iter().any(|other| other.path == path) {
            return Err(ResolveError::invalid(format!("{field}.mountPath"), format!("`{path}` is mounted twice")));
        }
        if mount.mount_propagation.as_deref() == Some("Bidirectional") {
            return Err(ResolveError::invalid(
                format!("{field}.mountPropagation"),
                "mounts are not passed on to the machine",
            ));
        }
        let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
            (Some(path), _) if !path.is_empty() => Some(path.to_owned()),
            (_, Some(text)) if !text.is_empty() => Some(expand(text, |name| env::get(env, name))),
            _ => None,
        };
        if sub_path.as_deref().is_some_and(|path| !stays_inside(&pod_name::filled(path, "pod"))) {
            return Err(ResolveError::invalid(format!("{field}.subPath"), "must be a relative path without `..`"));
        }
        let read_only = volume.read_only || mount.read_only.unwrap_or(false);
        mounts.push(Mount { path, source: volume.source.clone(), sub_path, read_only });
    }
    Ok(mounts)
}

/// Checks a path in a container and takes the slash off its end.
pub(super) fn mount_path(path: &str, field: &str) -> Result<String, ResolveError> {
    let trimmed = path.trim_end_matches('/');
    let parts_ok = !trimmed.split('/').any(|part| part == "..") && !trimmed.contains('\0');
    if trimmed.starts_with('/') && parts_ok {
        Ok(trimmed.to_owned())
    } else {
        Err(ResolveError::invalid(field, format!("`{path}` is not an absolute path below the root, without `..`")))
    }
}

/// Returns the size of `/dev/shm` when an in-memory volume is mounted there and states one.
pub(super) fn shm_size(mounts: &[Mount]) -> Option<u64> {
    mounts.iter().find_map(|mount| match &mount.source {
        MountSource::EmptyDir { memory: true, size_limit, .. } if mount.path == "/dev/shm" => *size_limit,
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workload::volumes::ResolvedVolume;

    #[test]
    fn a_mount_stays_where_it_belongs() {
        let volumes = Volumes::from([(
            "v".to_owned(),
            ResolvedVolume {
                source: MountSource::EmptyDir { volume: "v".to_owned(), memory: false, size_limit: None },
                read_only: false,
            },
        )]);
        let mounted = |mount: Value| {
            let container = json!({ "name": "c", "volumeMounts": mount });
            let container: Container = serde_json::from_value(container).unwrap();
            mounts(&container, &Origin::new("c", &container), &volumes, &[("N".to_owned(), "x".to_owned())])
        };
        let sub_path = |mount: Value| mounted(json!([mount])).unwrap().remove(0).sub_path;
        assert_eq!(
            sub_path(json!({ "name": "v", "mountPath": "/a", "subPathExpr": "$(N)/y" })).as_deref(),
            Some("x/y")
        );
        assert_eq!(sub_path(json!({ "name": "v", "mountPath": "/a", "subPath": "" })), None);
        for bad in [
            json!([{ "name": "v", "mountPath": "a" }]),
            json!([{ "name": "v", "mountPath": "/" }]),
            json!([{ "name": "v", "mountPath": "/a/../b" }]),
            json!([{ "name": "v", "mountPath": "/a", "subPath": "../x" }]),
            json!([{ "name": "v", "mountPath": "/a", "subPath": "/x" }]),
            json!([{ "name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional" }]),
            json!([{ "name": "v", "mountPath": "/a" }, { "name": "v", "mountPath": "/a/" }]),
            json!([{ "name": "absent", "mountPath": "/a" }]),
        ] {
            assert!(mounted(bad.clone()).is_err(), "{bad}");
        }
    }
}
