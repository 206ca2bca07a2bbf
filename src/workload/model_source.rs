//! Which models a component needs, and where they are mounted (§3.6, §3.7).
//!
//! `storageUri`, or `STORAGE_URI` in a custom container, is mounted at `/mnt/models`; `storageUris` each at its own
//! path. `pvc://` is a mount of the claim's folder and nothing is pulled. Encrypted artifacts are refused.

use std::sync::Arc;

use super::mounts::mount_path;
use super::storage_container::{Fetcher, Fetching};
use super::volumes::claim_source;
use super::{Access, ModelRef, Mount, MountSource, Patterns, ResolveError, shared_folders, storage_container};
use crate::api::component::StorageUriEntry;
use crate::api::storage_uri::redact;
use crate::api::{ModelSpec, StorageUri, meta};

/// Models and the mounts that show them.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelMounts {
    pub(super) models: Vec<ModelRef>,
    pub(super) mounts: Vec<Mount>,
}

impl ModelMounts {
    /// Adds what was found for another artifact, mounted elsewhere.
    pub(super) fn add_at(&mut self, found: Self, path: &str) {
        let first = self.models.len();
        self.models.extend(found.models);
        for mut mount in found.mounts {
            path.clone_into(&mut mount.path);
            if let MountSource::Model(position) = &mut mount.source {
                *position += first;
            }
            self.mounts.push(mount);
        }
    }

    /// Adds the artifact at `uri`, mounted at `path`.
    fn add(&mut self, uri: &str, path: &str, at: &Place<'_>) -> Result<(), ResolveError> {
        if let (Fetcher::Theirs { name, spec }, Some(fetching)) = (at.fetcher, at.wanted.fetching)
            && !storage_container::never_by_container(uri)
        {
            let (identity, downloader) = fetching.by_container(name, spec, uri, path, at.wanted.access)?;
            let access = Access { downloader: Some(Arc::new(downloader)), ..at.wanted.access.clone() };
            self.mount_model(ModelRef { written: at.written(&identity), uri: identity, access }, path, at);
            return Ok(());
        }
        let parsed = StorageUri::parse(uri).map_err(|error| ResolveError::invalid(at.field, error.to_string()))?;
        if let StorageUri::Pvc { claim, path: sub_path } = parsed {
            if sub_path.split('/').any(|part| part == "..") {
                return Err(ResolveError::invalid(at.field, "the path within a claim may not contain `..`"));
            }
            let sub_path = sub_path.trim_matches('/');
            let sub_path = (at.keeps_sub_path && !sub_path.is_empty()).then(|| sub_path.to_owned());
            let source = claim_source(at.wanted.namespace, &claim, at.field)?;
            self.mounts.push(Mount { path: path.to_owned(), source, sub_path, read_only: at.wanted.read_only });
            return Ok(());
        }
        check(&parsed, at.field)?;
        let access = match at.wanted.fetching {
            Some(fetching) => fetching.access(at.fetcher, at.wanted.access)?,
            None => at.wanted.access.clone(),
        };
        let written = at.written(&parsed);
        let uri = at.patterns(&access).part(placed(parsed, &access));
        self.mount_model(ModelRef { written, uri, access }, path, at);
        Ok(())
    }

    fn mount_model(&mut self, model: ModelRef, path: &str, at: &Place<'_>) {
        let position = self.models.iter().position(|other| other.uri == model.uri).unwrap_or_else(|| {
            self.models.push(model);
            self.models.len() - 1
        });
        let source = MountSource::Model(position);
        self.mounts.push(Mount { path: path.to_owned(), source, sub_path: None, read_only: at.wanted.read_only });
    }
}

/// What holds for every artifact of a component.
pub(super) struct Wanted<'a> {
    /// Namespace of claims.
    pub(super) namespace: &'a str,
    /// Whether models are mounted read-only.
    pub(super) read_only: bool,
    /// What they are fetched with.
    pub(super) access: &'a Access,
    /// Who may fetch them instead of kserve-local, and which parts are wanted.
    pub(super) fetching: Option<&'a Fetching<'a>>,
}

impl Wanted<'_> {
    fn choose(&self, uri: &str) -> Result<Fetcher<'_>, ResolveError> {
        self.fetching.map_or_else(|| Ok(Fetcher::ours()), |fetching| fetching.choose(uri))
    }
}

/// Where an artifact was written.
struct Place<'a> {
    wanted: &'a Wanted<'a>,
    fetcher: &'a Fetcher<'a>,
    /// Field of the URI.
    field: &'a str,
    /// The URI as written.
    text: &'a str,
    /// Whether `pvc://claim/path` keeps its path; in `storageUris` upstream drops it.
    keeps_sub_path: bool,
}

impl Place<'_> {
    fn written(&self, uri: &StorageUri) -> String {
        if self.text.is_empty() { uri.to_string() } else { self.text.to_owned() }
    }

    /// Returns which files are wanted: what the variables say, else the operator.
    fn patterns(&self, access: &Access) -> Patterns {
        let written = Patterns::of(|name| access.variables.get(name).map(String::as_str));
        match self.wanted.fetching {
            Some(fetching) if written == Patterns::default() => fetching.scope.config.patterns.clone(),
            _ => written,
        }
    }
}

/// Says where a model is when a Secret or a `storage` block names the place: another endpoint is another model.
fn placed(uri: StorageUri, access: &Access) -> StorageUri {
    let variable = match &uri {
        StorageUri::S3 { .. } => "AWS_ENDPOINT_URL",
        StorageUri::Hdfs(_) => "kserve-hdfs/HDFS_NAMENODE",
        _ => return uri,
    };
    match access.variables.get(variable).map(|place| place.trim_end_matches('/')) {
        None | Some("" | "https://s3.amazonaws.com") => uri,
        Some(place) => StorageUri::At { place: redact(place), uri: Box::new(uri) },
    }
}

fn check(uri: &StorageUri, field: &str) -> Result<(), ResolveError> {
    match uri {
        StorageUri::Local(path) if !path.starts_with('/') => {
            Err(ResolveError::invalid(field, format!("local path `{path}` is not absolute"))
                .with_help("write the whole path, for example file:///home/me/models/iris"))
        }
        _ => Ok(()),
    }
}

/// Resolves the one artifact of a component: `storageUri` or `STORAGE_URI`.
pub(super) fn single(uri: &str, field: &str, wanted: &Wanted<'_>) -> Result<ModelMounts, ResolveError> {
    let mut mounts = ModelMounts::default();
    let fetcher = wanted.choose(uri)?;
    let place = Place { wanted, fetcher: &fetcher, field, text: uri, keeps_sub_path: true };
    mounts.add(uri, meta::MODEL_MOUNT_PATH, &place)?;
    Ok(mounts)
}

/// Resolves `storageUris`; `path` is that of the component. Returns warnings too.
///
/// Artifacts may share a folder or lie within each other: what comes later in the list is laid over what comes earlier, as
/// upstream's one download after the other into one volume does.
pub(super) fn several(
    entries: &[StorageUriEntry],
    path: &str,
    wanted: &Wanted<'_>,
) -> Result<(ModelMounts, Vec<String>), ResolveError> {
    let mut mounts = ModelMounts::default();
    let mut warnings = Vec::new();
    // The first decides for all, as upstream has it.
    let fetcher = entries.first().map_or_else(|| Ok(Fetcher::ours()), |first| wanted.choose(&first.uri))?;
    fetcher.check_several(&format!("{path}.storageUris"))?;
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("{path}.storageUris[{index}].uri");
        let path_field = format!("{path}.storageUris[{index}].mountPath");
        let written = entry.mount_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(meta::MODEL_MOUNT_PATH);
        let target = mount_path(written, &path_field)?;
        if matches!(StorageUri::parse(&entry.uri), Ok(StorageUri::Pvc { path, .. }) if !path.trim_matches('/').is_empty())
        {
            warnings.push(format!("{field}: the path within the claim is ignored in storageUris, as KServe does"));
        }
        let place = Place { wanted, fetcher: &fetcher, field: &field, text: &entry.uri, keeps_sub_path: false };
        mounts.add(&entry.uri, &target, &place)?;
        shared_folders::check(&mounts.mounts, &path_field)?;
    }
    mounts.mounts = shared_folders::gather(mounts.mounts);
    Ok((mounts, warnings))
}

/// Refuses the parts of a model's storage that this version cannot serve; `path` is that of the model.
pub(super) fn refuse_unserved(model: &ModelSpec, path: &str) -> Result<(), ResolveError> {
    if model.confidential.as_ref().is_some_and(|confidential| confidential.enabled == Some(true)) {
        return Err(ResolveError::invalid(
            format!("{path}.confidential"),
            "encrypted model artifacts are not served: one machine has no key broker",
        ));
    }
    let Some(storage) = &model.storage else { return Ok(()) };
    if model.storage_uri.is_some() && storage.path.is_some() {
        return Err(ResolveError::invalid(
            format!("{path}.storage.path"),
            "must provide only one of storageUri and storage.path",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Layer;

    fn field_of(error: ResolveError) -> String {
        match error {
            ResolveError::Invalid { field, .. } => field,
            other => panic!("{other}"),
        }
    }

    fn entry(uri: &str, mount_path: Option<&str>) -> StorageUriEntry {
        StorageUriEntry { uri: uri.to_owned(), mount_path: mount_path.map(str::to_owned) }
    }

    static NOTHING: Access = Access {
        variables: std::collections::BTreeMap::new(),
        files: std::collections::BTreeMap::new(),
        origins: Vec::new(),
        registries: Vec::new(),
        downloader: None,
    };
    const WANTED: Wanted<'_> = Wanted { namespace: "team", read_only: true, access: &NOTHING, fetching: None };

    #[test]
    fn one_artifact_is_mounted_at_mnt_models() {
        let got = single("s3://bucket/iris", "f", &WANTED).unwrap();
        assert_eq!(got.models[0].written, "s3://bucket/iris");
        let mount =
            Mount { path: "/mnt/models".to_owned(), source: MountSource::Model(0), sub_path: None, read_only: true };
        assert_eq!(got.mounts, [mount]);
    }

    #[test]
    fn a_claim_is_mounted_and_not_pulled() {
        let got = single("pvc://claim/a/b/", "f", &WANTED).unwrap();
        assert_eq!(got.models, []);
        assert_eq!(
            got.mounts[0].source,
            MountSource::Claim { namespace: "team".to_owned(), claim: "claim".to_owned() }
        );
        assert_eq!(got.mounts[0].sub_path.as_deref(), Some("a/b"));
    }

    #[test]
    fn what_cannot_be_found_or_pulled_is_refused() {
        for uri in ["ssh://x/y", "models/iris", "file://iris", "pvc://c/../x", "pvc://../x", ""] {
            assert!(single(uri, "spec.predictor.model.storageUri", &WANTED).is_err(), "{uri}");
        }
        for uri in [
            "/models/iris",
            "file:///models/iris",
            "gs://b",
            "hf://a/b",
            "oci://a/b",
            "https://h/r.git",
            "hdfs://a",
            "https://host/x.tar.gz",
        ] {
            assert!(single(uri, "f", &WANTED).is_ok(), "{uri}");
        }
    }

    #[test]
    fn several_artifacts_each_have_their_place_and_claims_lose_their_path() {
        let entries = [
            entry("s3://b/base", Some("/mnt/models/base/")),
            entry("s3://b/base", Some("/mnt/models/copy")),
            entry("pvc://claim/deep", Some("/mnt/pvc")),
        ];
        let (got, warnings) = several(&entries, "spec.predictor", &WANTED).unwrap();
        assert_eq!(got.models.len(), 1, "the same artifact is pulled once");
        let rows: Vec<_> = got.mounts.iter().map(|mount| (mount.path.as_str(), mount.sub_path.as_deref())).collect();
        assert_eq!(rows, [("/mnt/models/base", None), ("/mnt/models/copy", None), ("/mnt/pvc", None)]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("spec.predictor.storageUris[2].uri: "));
    }

    #[test]
    fn artifacts_that_share_a_folder_are_laid_over_each_other_in_order() {
        let entries = [entry("s3://b/x", None), entry("s3://b/y", None), entry("s3://b/z", Some("/mnt/models/lora"))];
        let (got, _) = several(&entries, "spec.predictor", &WANTED).unwrap();
        let layer = |model, path: &str| Layer { model, path: path.to_owned() };
        let source =
            MountSource::Together { layers: vec![layer(0, ""), layer(1, ""), layer(2, "lora")], folders: Vec::new() };
        let mount = Mount { path: "/mnt/models".to_owned(), source, sub_path: None, read_only: true };
        assert_eq!(got.mounts, [mount]);
        let taken = [entry("pvc://claim", Some("/a")), entry("s3://b/y", Some("/a/"))];
        let error = several(&taken, "spec.predictor", &WANTED).unwrap_err();
        assert_eq!(field_of(error), "spec.predictor.storageUris[1].mountPath");
    }

    #[test]
    fn a_model_at_another_endpoint_is_another_model() {
        let mut access = Access::default();
        access.variables.insert("AWS_ENDPOINT_URL".to_owned(), "http://minio:9000/".to_owned());
        let wanted = Wanted { namespace: "team", read_only: true, access: &access, fetching: None };
        let got = single("s3://bucket/iris", "f", &wanted).unwrap();
        assert_eq!(got.models[0].uri.to_string(), "s3://bucket/iris at http://minio:9000");
        assert_eq!(single("gs://bucket/iris", "f", &wanted).unwrap().models[0].uri.to_string(), "gs://bucket/iris");
    }

    #[test]
    fn encrypted_models_and_two_places_for_one_are_refused() {
        let model = |value| -> ModelSpec { serde_json::from_value(value).unwrap() };
        let cases = [
            (serde_json::json!({ "storage": { "path": "p" }, "storageUri": "s3://b" }), Some("m.storage.path")),
            (serde_json::json!({ "confidential": { "enabled": true } }), Some("m.confidential")),
            (serde_json::json!({ "storage": {}, "storageUri": "s3://b" }), None),
            (serde_json::json!({ "confidential": { "enabled": false } }), None),
        ];
        for (written, field) in cases {
            let got = refuse_unserved(&model(written.clone()), "m").err().map(field_of);
            assert_eq!(got.as_deref(), field, "{written}");
        }
    }
}
