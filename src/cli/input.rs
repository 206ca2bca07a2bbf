//! `-f FILE|-|DIR|URL`: manifests from where the user has them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::output;
use super::report::{Exit, Problem};
use crate::api::{Kind, meta};
use crate::manifest::{self, Decoded, DecodedObject};

/// Longest time for a manifest to be downloaded.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest manifest that is downloaded, in bytes.
const DOWNLOAD_LIMIT: usize = 16 << 20;

/// Where manifests come from.
#[derive(Clone, Debug, Default, Args)]
pub struct InputArgs {
    /// Manifest: a file, a folder, an http(s) URL, or - for stdin; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|-|DIR|URL")]
    pub filename: Vec<String>,
    /// Look into sub-folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// One text with manifests in it.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in messages.
    pub name: String,
    /// The text.
    pub text: String,
    /// What it says.
    pub decoded: Decoded,
}

impl Source {
    fn new(name: String, text: String) -> Self {
        let decoded = manifest::decode(&name, &text);
        Self { name, text, decoded }
    }

    /// Whether something in it is invalid.
    pub fn has_errors(&self) -> bool {
        self.decoded.diagnostics.iter().any(manifest::Diagnostic::is_error)
    }
}

/// Reads every named text.
///
/// # Errors
/// One cannot be read, or a folder holds no manifest.
pub async fn read(names: &[String], recursive: bool) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("stdin", error))?;
            sources.push(Source::new("stdin".to_owned(), text));
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let text = download(name).await?;
            sources.push(Source::new(name.clone(), text));
        } else {
            for path in files(Path::new(name), recursive)? {
                let shown = path.display().to_string();
                let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&shown, error))?;
                sources.push(Source::new(shown, text));
            }
        }
    }
    Ok(sources)
}

/// Returns the manifest files a path means, sorted.
fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let name = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&name, error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    collect(path, recursive, &mut found).map_err(|error| unreadable(&name, error))?;
    found.sort();
    if found.is_empty() {
        return Err(Problem::usage(format!("no .yaml, .yml or .json file in `{name}`"))
            .hint("add -R to look into sub-folders")
            .into());
    }
    Ok(found)
}

fn collect(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let manifest = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known)));
        if hidden {
            continue;
        } else if path.is_dir() {
            if recursive {
                collect(&path, recursive, found)?;
            }
        } else if manifest {
            found.push(path);
        }
    }
    Ok(())
}

fn unreadable(name: &str, error: std::io::Error) -> Problem {
    use std::io::ErrorKind::{InvalidData, NotFound};
    // A name that means nothing and a text that is none are the user's to mend.
    let exit = if matches!(error.kind(), NotFound | InvalidData) { Exit::Usage } else { Exit::Machine };
    Problem::new(exit, format!("could not read `{name}`")).because(error)
}

async fn download(url: &str) -> Result<String> {
    let failed = |error: reqwest::Error| {
        Problem::new(Exit::Remote, format!("could not download `{url}`")).because(error.without_url())
    };
    let http = reqwest::Client::builder().timeout(DOWNLOAD_TIMEOUT).build().map_err(failed)?;
    let mut response = http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > DOWNLOAD_LIMIT {
            return Err(Problem::new(Exit::Remote, format!("`{url}` is too large for a manifest")).into());
        }
    }
    String::from_utf8(bytes).map_err(|_| Problem::new(Exit::Remote, format!("`{url}` is not text")).into())
}

/// Says on stderr what there is to say about the texts; returns whether something is invalid.
pub fn tell_problems(sources: &[Source]) -> bool {
    for source in sources {
        for diagnostic in &source.decoded.diagnostics {
            output::note(&diagnostic.render(Some(&source.text)));
        }
    }
    sources.iter().any(Source::has_errors)
}

/// Returns the valid objects, in the order they should be created in, with the namespace that `-n` names.
///
/// # Errors
/// An object names another namespace than `-n`.
pub fn objects(sources: &[Source], namespace: Option<&str>) -> Result<Vec<DecodedObject>> {
    let mut objects: Vec<DecodedObject> =
        sources.iter().flat_map(|source| source.decoded.objects.iter().cloned()).collect();
    for decoded in &mut objects {
        set_namespace(decoded, namespace)?;
    }
    objects.sort_by_key(|decoded| rank(decoded.object.key.kind));
    Ok(objects)
}

fn set_namespace(decoded: &mut DecodedObject, namespace: Option<&str>) -> Result<()> {
    let object = &mut decoded.object;
    if !object.key.kind.is_namespaced() {
        return Ok(());
    }
    let written = object.raw["metadata"]["namespace"].as_str().filter(|written| !written.is_empty());
    let wanted = match (written, namespace) {
        (Some(written), Some(wanted)) if written != wanted => {
            return Err(Problem::usage(format!(
                "the namespace from the provided object \"{written}\" does not match the namespace \"{wanted}\""
            ))
            .hint(format!("pass --namespace={written}, or take the namespace out of the manifest"))
            .into());
        }
        (Some(written), _) => written.to_owned(),
        (None, wanted) => wanted.unwrap_or(meta::DEFAULT_NAMESPACE).to_owned(),
    };
    object.key.namespace.clone_from(&wanted);
    object.meta.namespace.clone_from(&wanted);
    Arc::make_mut(&mut object.raw)["metadata"]["namespace"] = wanted.into();
    Ok(())
}

/// What others refer to comes first.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Namespace => 0,
        Kind::Secret | Kind::ConfigMap | Kind::PersistentVolumeClaim => 1,
        Kind::ServiceAccount => 2,
        Kind::ClusterServingRuntime
        | Kind::ServingRuntime
        | Kind::ClusterStorageContainer
        | Kind::LocalModelNodeGroup
        | Kind::LlmInferenceServiceConfig => 3,
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => 4,
        Kind::InferenceService | Kind::LlmInferenceService => 5,
        Kind::TrainedModel | Kind::InferenceGraph => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: a}\n\
        spec: {predictor: {sklearn: {storageUri: \"gs://b/m\"}}}\n---\n\
        apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: team}\n";

    #[test]
    fn a_text_that_is_none_is_the_users_to_mend() {
        use std::io::{Error, ErrorKind};
        for (kind, exit) in [
            (ErrorKind::InvalidData, Exit::Usage),
            (ErrorKind::NotFound, Exit::Usage),
            (ErrorKind::PermissionDenied, Exit::Machine),
        ] {
            assert_eq!(unreadable("a.yaml", Error::from(kind)).exit, exit);
        }
    }

    #[test]
    fn what_others_refer_to_is_created_first_and_namespaces_are_filled_in() {
        let sources = [Source::new("x.yaml".to_owned(), TWO.to_owned())];
        let keys: Vec<String> =
            objects(&sources, None).unwrap().iter().map(|found| found.object.key.to_string()).collect();
        assert_eq!(keys, ["Secret team/s", "InferenceService default/a"]);
        let error = objects(&sources, Some("other")).unwrap_err();
        assert!(error.to_string().contains("does not match the namespace \"other\""));
    }
}
