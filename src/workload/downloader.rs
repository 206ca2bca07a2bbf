//! How a `ClusterStorageContainer` is run for one model: what KServe gives its storage initializer, under the container's own
//! settings (§3.4 to §3.6).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Volume};
use sha2::{Digest, Sha256};

use super::access::HDFS_PREFIX;
use super::env;
use super::expand::expand;
use super::storage_container::{Fetcher, Fetching, origin};
use super::{
    Access, ContainerSpec, Downloader, Mount, MountSource, ResolveError, RunAs, mounts, pod, resources, security,
    volumes,
};
use crate::api::StorageUri;
use crate::api::storage_kinds::StorageContainerSpec;

/// What KServe calls the container.
const CONTAINER: &str = "storage-initializer";
/// Where a Secret for HDFS is mounted.
const HDFS_FOLDER: &str = "/var/secrets/kserve-hdfscreds";

impl Fetching<'_> {
    /// Returns the model that a container fetches: its URI, and how it is run. `destination` is where it is wanted.
    ///
    /// # Errors
    /// The container asks for what containers do not get, or the engine runs none.
    pub(super) fn by_container(
        &self,
        name: &str,
        spec: &StorageContainerSpec,
        uri: &str,
        destination: &str,
        access: &Access,
    ) -> Result<(StorageUri, Downloader), ResolveError> {
        if self.scope.config.run_as == RunAs::Processes {
            return Err(ResolveError::NeedsContainerEngine {
                message: format!(
                    "`{}` is fetched by the ClusterStorageContainer `{name}`, and this engine runs no containers",
                    crate::api::storage_uri::redact(uri)
                ),
                help: "start Docker or Podman and `kserve-local serve --engine docker`, or fetch the model by a URI of KServe's own schemes".to_owned(),
            });
        }
        let written = &spec.container;
        let access = &self.access(&Fetcher::ours(), access)?;
        let origin = origin(name, written);
        let amounts = resources::resources(written, &origin, &self.scope.gpu_types())?.resources;
        let all = BTreeMap::from([(written.name.clone(), amounts.clone())]);
        let facts = self.facts(&all);
        let own = self.component.volumes.iter().flatten().enumerate();
        let own: Vec<(String, Volume)> =
            own.map(|(index, volume)| (format!("{}.volumes[{index}]", self.path), volume.clone())).collect();
        let volumes = volumes::volumes(&own, &facts, self.scope.config)?;
        let mut env = env::environment(written, &origin, &facts)?;
        for (variable, value) in given(access).chain(self.stored.iter().cloned()) {
            env.retain(|(name, _)| *name != variable);
            env.push((variable, value));
        }
        let expanded = |texts: &Option<Vec<String>>| -> Vec<String> {
            texts.iter().flatten().map(|text| expand(text, |name| env::get(&env, name))).collect()
        };
        let args = match &written.args {
            Some(args) if !args.is_empty() => expanded(&written.args),
            _ => vec![uri.to_owned(), destination.to_owned()],
        };
        let mut all_mounts = mounts::mounts(written, &origin, &volumes, &env)?;
        all_mounts.extend(mounted(access));
        let container = ContainerSpec {
            name: CONTAINER.to_owned(),
            image: pod::image(written, &origin)?,
            pull_policy: pod::pull_policy(written, &origin)?,
            command: expanded(&written.command),
            args,
            working_dir: written.working_dir.clone().filter(|path| !path.is_empty()),
            mounts: all_mounts,
            resources: amounts,
            security: security::security(written, &origin, self.component.security_context.as_deref())?,
            env,
            ..ContainerSpec::default()
        };
        let identity = StorageUri::By { container: name.to_owned(), version: version(written), uri: uri.to_owned() };
        let downloader = Downloader {
            name: name.to_owned(),
            container,
            destination: destination.to_owned(),
            host_aliases: pod::host_aliases(self.component),
        };
        Ok((identity, downloader))
    }
}

/// The variables that KServe gives its storage initializer.
fn given(access: &Access) -> impl Iterator<Item = (String, String)> {
    let endpoint = access.variables.get("AWS_ENDPOINT_URL").and_then(|url| url.split_once("://"));
    let s3 = endpoint.into_iter().flat_map(|(scheme, host)| {
        let https = if scheme == "https" { "1" } else { "0" };
        [("S3_ENDPOINT".to_owned(), host.to_owned()), ("S3_USE_HTTPS".to_owned(), https.to_owned())]
    });
    let plain = access.variables.iter().filter(|(name, _)| !name.starts_with(HDFS_PREFIX));
    plain.map(|(name, value)| (name.clone(), value.clone())).chain(s3)
}

/// The files that KServe mounts for its storage initializer, one mount per folder.
fn mounted(access: &Access) -> Vec<Mount> {
    let mut folders: BTreeMap<&str, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for (path, content) in &access.files {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        folders.entry(folder).or_default().insert(name.to_owned(), content.clone());
    }
    for (name, value) in &access.variables {
        if let Some(key) = name.strip_prefix(HDFS_PREFIX) {
            folders.entry(HDFS_FOLDER).or_default().insert(key.to_owned(), value.clone().into_bytes());
        }
    }
    let mount = |(index, (folder, files)): (usize, (&str, BTreeMap<String, Vec<u8>>))| Mount {
        path: folder.to_owned(),
        source: MountSource::Files { volume: format!("credentials-{index}"), files, mode: 0o444 },
        sub_path: None,
        read_only: true,
    };
    folders.into_iter().filter(|(folder, _)| folder.starts_with('/')).enumerate().map(mount).collect()
}

/// Tells containers apart that may make different models of one URI. What a variable refers to (`valueFrom`) is left out:
/// a new password does not make another model.
fn version(container: &Container) -> String {
    let plain: Vec<_> = container
        .env
        .iter()
        .flatten()
        .filter(|variable| variable.value_from.is_none())
        .map(|variable| (&variable.name, variable.value.as_deref().unwrap_or_default()))
        .collect();
    let essence = serde_json::json!([container.image, container.command, container.args, container.working_dir, plain]);
    let digest = Sha256::digest(essence.to_string().as_bytes());
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_what_kserve_gives_its_initializer() {
        let access = Access {
            variables: BTreeMap::from([
                ("AWS_ENDPOINT_URL".to_owned(), "http://minio:9000".to_owned()),
                ("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), "/var/secrets/key.json".to_owned()),
                ("kserve-hdfs/HDFS_NAMENODE".to_owned(), "nn".to_owned()),
            ]),
            files: BTreeMap::from([("/var/secrets/key.json".to_owned(), b"k".to_vec())]),
            ..Access::default()
        };
        let names: Vec<String> = given(&access).map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "AWS_ENDPOINT_URL=http://minio:9000",
            "GOOGLE_APPLICATION_CREDENTIALS=/var/secrets/key.json",
            "S3_ENDPOINT=minio:9000",
            "S3_USE_HTTPS=0",
        ];
        assert_eq!(names, expected);
        let mounts = mounted(&access);
        let paths: Vec<&str> = mounts.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(paths, ["/var/secrets", HDFS_FOLDER]);
    }

    #[test]
    fn another_image_or_argument_is_another_version_and_another_password_is_not() {
        let container = |json: serde_json::Value| -> Container { serde_json::from_value(json).unwrap() };
        let base = version(&container(
            serde_json::json!({ "name": "c", "image": "a", "env": [{ "name": "A", "value": "1" }] }),
        ));
        let same = serde_json::json!({ "name": "d", "image": "a", "resources": { "limits": { "cpu": "1" } }, "env": [
            { "name": "A", "value": "1" }, { "name": "P", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }] });
        assert_eq!(base, version(&container(same)));
        for other in [
            serde_json::json!({ "name": "c", "image": "b", "env": [{ "name": "A", "value": "1" }] }),
            serde_json::json!({ "name": "c", "image": "a", "env": [{ "name": "A", "value": "2" }] }),
            serde_json::json!({ "name": "c", "image": "a", "args": ["x"], "env": [{ "name": "A", "value": "1" }] }),
        ] {
            assert_ne!(base, version(&container(other)));
        }
    }
}
