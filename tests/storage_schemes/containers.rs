//! Which `ClusterStorageContainer` fetches what, and what it is given; that it runs is shown in `tests/e2e`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kserve_local::api::{Kind, Object};
use kserve_local::manifest;
use kserve_local::runtimes::Catalog;
use kserve_local::storage::SourceError;
use kserve_local::storage::container::{ContainerRun, StorageContainers};
use kserve_local::workload::{Companions, ModelRef, ResolveError, RunAs, WorkloadConfig, resolve};
use tokio::sync::watch;

use super::stores::files;
use super::{Bench, told, tree};

fn container(name: &str, more: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterStorageContainer\nmetadata: {{name: '{name}'}}\n{more}\n"
    )
}

/// A container for some formats.
fn of(name: &str, formats: &str, more: &str) -> String {
    container(
        name,
        &format!(
            "spec: {{container: {{name: storage-initializer, image: 'company/{name}:1'}}, supportedUriFormats: [{formats}]{more}}}"
        ),
    )
}

fn service(predictor: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: iris, namespace: team}}\nspec: {{predictor: {{{predictor}}}}}\n"
    )
}

fn resolved(config: &WorkloadConfig, documents: &[&str]) -> Result<Vec<ModelRef>, ResolveError> {
    let mut objects: Vec<Object> = Vec::new();
    for text in documents {
        let decoded = manifest::decode("test.yaml", text);
        assert!(decoded.failed.is_empty(), "{:#?}", decoded.diagnostics);
        objects.extend(decoded.objects.into_iter().map(|found| found.object));
    }
    let service = objects.iter().find(|object| object.key.kind == Kind::InferenceService).unwrap();
    Ok(resolve(service, &Catalog::new(&objects), &Companions::new(&objects), config)?.remove(0).models)
}

/// Who fetches: the container's name, else the URI itself; or why nobody does.
fn fetched_by(predictor: &str, containers: &[String]) -> String {
    let service = service(predictor);
    let mut documents: Vec<&str> = vec![&service];
    documents.extend(containers.iter().map(String::as_str));
    match resolved(&WorkloadConfig::default(), &documents) {
        Ok(models) => {
            let shown = |model: &ModelRef| match &model.access.downloader {
                Some(downloader) => format!("{} {}", downloader.name, downloader.container.args.join(" ")),
                None => model.uri.to_string(),
            };
            models.iter().map(shown).collect::<Vec<_>>().join(", ")
        }
        Err(ResolveError::Invalid { field, message, .. }) => format!("{field}: {message}"),
        Err(other) => other.to_string(),
    }
}

fn one(uri: &str) -> String {
    format!("model: {{modelFormat: {{name: sklearn}}, storageUri: '{uri}'}}")
}

#[test]
fn containers_are_chosen_by_name_or_by_their_formats_as_kserve_chooses_them() {
    let all = [
        of("b-prefix", "{prefix: 'custom://'}, {prefix: 's3://mine/'}, {prefix: 'pvc://'}, {prefix: 'oci://'}", ""),
        of("a-regex", "{regex: '^custom://(.+)/first$'}", ""),
        of("jobs", "{prefix: 'jobs://'}", ", workloadType: localModelDownloadJob"),
        container(
            "off",
            "disabled: true\nspec: {container: {name: c, image: i}, supportedUriFormats: [{prefix: 'off://'}]}",
        ),
    ];
    let named = |name: &str, uri: &str| format!("{}, storageContainerName: '{name}'", one(uri));
    const NAME: &str = "spec.predictor.storageContainerName";
    for (predictor, expected) in [
        (one("custom://m"), "b-prefix custom://m /mnt/models".to_owned()),
        (one("custom://team/first"), "a-regex custom://team/first /mnt/models".to_owned()),
        (one("s3://mine/m"), "b-prefix s3://mine/m /mnt/models".to_owned()),
        (one("s3://other/m"), "s3://other/m".to_owned()),
        (one("pvc://claim/m"), String::new()),
        (one("oci://image"), "oci://image".to_owned()),
        (one("off://m"), "StorageURI not supported".to_owned()),
        (one("jobs://m"), "StorageURI not supported".to_owned()),
        (named("b-prefix", "custom://team/first"), "b-prefix custom://team/first /mnt/models".to_owned()),
        (named("default", "s3://other/m"), "s3://other/m".to_owned()),
        (named("gone", "custom://m"), format!("{NAME}: ClusterStorageContainer \"gone\" not found")),
        (named("off", "off://m"), format!("{NAME}: ClusterStorageContainer \"off\" is disabled")),
        (
            named("jobs", "jobs://m"),
            format!(
                "{NAME}: ClusterStorageContainer \"jobs\" has workloadType \"localModelDownloadJob\"; explicit selection requires \"initContainer\""
            ),
        ),
        (
            named("a-regex", "gs://b/m"),
            format!("{NAME}: ClusterStorageContainer \"a-regex\" does not support storageUri \"gs://b/m\""),
        ),
    ] {
        let got = fetched_by(&predictor, &all);
        assert!(got == expected || (!expected.is_empty() && got.contains(&expected)), "{predictor}: {got}");
    }
}

#[test]
fn the_first_of_several_uris_decides_and_the_container_must_be_able_to() {
    let several = "model: {modelFormat: {name: sklearn}}, storageUris: [{uri: 'custom://a'}, {uri: 's3://b/m', mountPath: /mnt/models/x}, {uri: 'pvc://c', mountPath: /mnt/models/y}]";
    let cannot = fetched_by(several, &[of("mine", "{prefix: 'custom://'}", "")]);
    assert!(cannot.contains("storage container \"mine\" does not support multi-model download; use the default kserve storage initializer or a compatible storage container"), "{cannot}");
    let can = fetched_by(several, &[of("mine", "{prefix: 'custom://'}", ", supportsMultiModelDownload: true")]);
    assert_eq!(can, "mine custom://a /mnt/models, mine s3://b/m /mnt/models/x");
}

#[test]
fn an_engine_without_containers_says_so() {
    let (service, container) = (service(&one("custom://m")), of("mine", "{prefix: 'custom://'}", ""));
    let config = WorkloadConfig { run_as: RunAs::Processes, ..WorkloadConfig::default() };
    match resolved(&config, &[&service, &container]) {
        Err(ResolveError::NeedsContainerEngine { message, help }) => {
            assert!(message.contains("`custom://m` is fetched by the ClusterStorageContainer `mine`"), "{message}");
            assert!(help.contains("Docker"), "{help}");
        }
        other => panic!("{other:?}"),
    }
}

/// Writes what it is told instead of running a container.
#[derive(Debug, Default)]
struct Written {
    files: Vec<(&'static str, &'static str)>,
    links: Vec<(&'static str, &'static str)>,
    fails: Option<&'static str>,
    runs: Mutex<Vec<ContainerRun>>,
}

#[async_trait]
impl StorageContainers for Written {
    async fn clear(&self, _id: &str) -> Result<(), SourceError> {
        Ok(())
    }

    async fn run(&self, run: &ContainerRun, bytes: watch::Sender<u64>) -> Result<(), SourceError> {
        self.runs.lock().unwrap().push(run.clone());
        for (path, text) in &self.files {
            let path = PathBuf::from(run.folder.as_str()).join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            bytes.send_replace(text.len() as u64);
        }
        for (path, target) in &self.links {
            std::os::unix::fs::symlink(target, PathBuf::from(run.folder.as_str()).join(path)).unwrap();
        }
        match self.fails {
            Some(message) => Err(SourceError::Transient { message: message.to_owned(), source: None }),
            None => Ok(()),
        }
    }
}

#[tokio::test]
async fn what_a_container_leaves_is_published_whole_or_not_at_all() {
    let (service, container) = (service(&one("custom://m")), of("mine", "{prefix: 'custom://'}", ""));
    let model = resolved(&WorkloadConfig::default(), &[&service, &container]).unwrap().remove(0);
    let written = [("config.json", "{}"), ("deep/weights", "w")];

    let failing = Arc::new(Written { files: written.to_vec(), fails: Some("exit code 1"), ..Written::default() });
    let bench = Bench::new(&[]);
    let bench = Bench { puller: bench.puller.clone().with_containers(failing.clone()), ..bench };
    let error = bench.pull_model(&model).await.unwrap_err();
    assert!(told(&error).contains("exit code 1") && error.is_transient(), "{}", told(&error));
    assert_eq!(failing.runs.lock().unwrap().len(), 1, "it runs once, and again with the next pull");
    let folder = failing.runs.lock().unwrap()[0].folder.clone();
    assert!(!folder.exists(), "nothing is left of a failed run");

    let good = Arc::new(Written {
        files: written.to_vec(),
        links: vec![("latest", "deep"), ("same.json", "config.json")],
        ..Written::default()
    });
    let bench = Bench { puller: bench.puller.clone().with_containers(good.clone()), ..bench };
    let pulled = bench.pull_model(&model).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    let expected =
        [("config.json", &b"{}"[..]), ("deep/weights", b"w"), ("latest/weights", b"w"), ("same.json", b"{}")];
    assert_eq!(tree(&pulled.path), files(&expected));
    bench.pull_model(&model).await.unwrap();
    assert_eq!(good.runs.lock().unwrap().len(), 1, "what is in the cache is not fetched again");

    for (case, bad) in [
        ("leads out of it", Written { links: vec![("passwd", "/etc/passwd")], ..Written::default() }),
        ("leads out of it", Written { links: vec![("up", "../..")], ..Written::default() }),
        ("left nothing in /mnt/models", Written::default()),
    ] {
        let bench = Bench::new(&[]);
        let bench = Bench { puller: bench.puller.clone().with_containers(Arc::new(bad)), ..bench };
        let error = bench.pull_model(&model).await.unwrap_err();
        assert!(told(&error).contains(case) && !error.is_transient(), "{case}: {}", told(&error));
    }
    let nobody = Bench::new(&[]);
    let error = nobody.pull_model(&model).await.unwrap_err();
    assert!(told(&error).contains("which only the daemon runs"), "{}", told(&error));
}
