//! `doctor storage`: whether a model can be fetched, and as whom.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use serde_json::json;

use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use super::{manifests, output, serve};
use crate::api::{Kind, Object, StorageUri};
use crate::home::Home;
use crate::manifest;
use crate::runtimes::Catalog;
use crate::storage::trial::{Trial, identity, trial};
use crate::storage::{PullConfig, SourceError};
use crate::workload::{self, Access, Companions, ResolveError, WorkloadConfig};

/// Try whether a model can be fetched, and say as whom: with this shell's environment, and a ServiceAccount's Secrets.
#[derive(Clone, Debug, Args)]
pub struct StorageArgs {
    /// The storageUri to try
    pub uri: String,
    /// ServiceAccount whose Secrets are used, from the folder
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Runs the verb.
///
/// # Errors
/// The folder cannot be read, or the URI means nothing or is refused.
pub async fn run(home: &Utf8Path, args: &StorageArgs) -> Result<Exit> {
    let namespace = args.namespace.namespace.as_str();
    let (uri, access) = wanted(home, args, namespace)?;
    output::line(&format!("uri:         {}", uri.redacted()))?;
    let environment = serve::environment();
    let known = identity(&uri, &access, &environment);
    output::line(&format!("credentials: {}", known.as_deref().unwrap_or("cannot be used")))?;
    if let Err(error) = known {
        return Err(refusal(&error).into());
    }
    if let Some(downloader) = &access.downloader {
        output::line(&format!(
            "fetched by:  ClusterStorageContainer {}, image {}; only the daemon runs it",
            downloader.name, downloader.container.image
        ))?;
        return Ok(Exit::Done);
    }
    let found = match uri.bare() {
        StorageUri::Local(path) => local(Utf8Path::new(path)),
        StorageUri::Pvc { claim, path } => local(&Home::new(home).claim(namespace, claim).join(path)),
        _ => trial(&uri, &access, &PullConfig::default(), &environment).await,
    };
    match found {
        Ok(Trial { files, bytes }) => {
            output::line(&format!("found:       {files} files, {bytes} bytes"))?;
            Ok(Exit::Done)
        }
        Err(error) => Err(refusal(&error).into()),
    }
}

/// Resolves a service that would want the URI: what it is fetched with is what it would be.
fn wanted(home: &Utf8Path, args: &StorageArgs, namespace: &str) -> Result<(StorageUri, Access)> {
    let service = json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": { "name": "doctor", "namespace": namespace },
        "spec": { "predictor": {
            "serviceAccountName": args.service_account,
            "model": { "modelFormat": { "name": "sklearn" }, "storageUri": args.uri }
        }}
    });
    let decoded = manifest::decode_value(&service);
    let Some(service) = decoded.objects.into_iter().next().map(|found| found.object) else {
        let said = decoded.diagnostics.first().map(|diagnostic| diagnostic.message.clone()).unwrap_or_default();
        return Err(Problem::usage(said).into());
    };
    let objects = manifests::folder_objects(home)?;
    let companions: Vec<&Object> = objects
        .iter()
        .filter(|object| {
            matches!(
                object.key.kind,
                Kind::Secret | Kind::ServiceAccount | Kind::ConfigMap | Kind::ClusterStorageContainer
            )
        })
        .collect();
    let resolved =
        workload::resolve(&service, &Catalog::new(&objects), &Companions::new(companions), &WorkloadConfig::default());
    let workload = match resolved {
        Ok(mut workloads) => workloads.remove(0),
        Err(ResolveError::Invalid { message, help, .. }) => {
            let problem = Problem::usage(message);
            return Err(help.into_iter().fold(problem, Problem::hint).into());
        }
        Err(error) => return Err(Problem::usage(error.to_string()).into()),
    };
    if let Some(model) = workload.models.into_iter().next() {
        return Ok((model.uri, model.access));
    }
    // A claim is mounted and not fetched.
    let parsed = StorageUri::parse(&args.uri).map_err(|error| Problem::usage(error.to_string()))?;
    Ok((parsed, Access::default()))
}

fn local(path: &Utf8Path) -> std::result::Result<Trial, SourceError> {
    let mut found = Trial { files: 0, bytes: 0 };
    let mut paths = vec![path.to_owned()];
    while let Some(path) = paths.pop() {
        let meta = std::fs::metadata(&path)
            .map_err(|error| SourceError::NotFound(format!("Local path {path} cannot be read: {error}")))?;
        if meta.is_dir() {
            let entries = path.read_dir_utf8().map_err(|error| SourceError::Denied(format!("{path}: {error}")))?;
            paths.extend(entries.flatten().map(camino::Utf8DirEntry::into_path));
        } else {
            found.files += 1;
            found.bytes += meta.len();
        }
    }
    Ok(found)
}

fn refusal(error: &SourceError) -> Problem {
    let exit = match error {
        SourceError::Invalid(_) => Exit::Usage,
        _ => Exit::Remote,
    };
    let problem = Problem::new(exit, super::report::chain(error));
    match error {
        SourceError::Denied(_) => {
            problem.hint("the daemon uses its own environment and the Secrets of the service's ServiceAccount: try --service-account NAME -n NAMESPACE")
        }
        SourceError::Transient { .. } => problem.hint("is there a proxy (HTTPS_PROXY), or an emulator's endpoint to name?"),
        _ => problem,
    }
}
