//! A trial of access: lists what a URI has, reads the first byte of one file, and says as whom. Nothing is kept.

use std::collections::BTreeMap;

use futures::StreamExt;
use tokio::sync::watch;

use super::SourceError;
use super::credentials::{self, GcsIdentity, S3Identity};
use super::credentials_aws::AwsKeys;
use super::credentials_azure::{self, AzureIdentity, AzureService};
use super::open::{Opening, open, surroundings};
use super::piece::blocking;
use super::pull::PullConfig;
use super::scratch::Scratch;
use crate::api::StorageUri;
use crate::workload::Access;
use crate::workload::access::HDFS_PREFIX;

/// What a trial found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Files there are.
    pub files: u64,
    /// Bytes in all, as far as stated.
    pub bytes: u64,
}

/// Tries a remote URI.
///
/// # Errors
/// What a pull of it would say.
pub async fn trial(
    uri: &StorageUri,
    access: &Access,
    config: &PullConfig,
    environment: &BTreeMap<String, String>,
) -> Result<Trial, SourceError> {
    // Gone however this ends; the source goes before it.
    let folder = blocking(Scratch::temporary).await;
    let folder = folder.map_err(|error| SourceError::transient("could not make a temporary folder", error))?;
    let scratch = folder.path().join("pull");
    let opening = (uri.clone(), access.clone(), config.clone(), environment.clone(), scratch);
    let opened = tokio::task::spawn_blocking(move || {
        let (uri, access, config, environment, scratch) = &opening;
        let progress = watch::Sender::default();
        open(&Opening {
            uri,
            access,
            config,
            environment,
            scratch,
            images: None,
            containers: None,
            progress: &progress,
        })
    });
    let source = opened.await.map_err(|error| SourceError::transient("could not open the source", error))??;
    let manifest = source.manifest().await?;
    let bytes = manifest.files.iter().filter_map(|file| file.size).sum();
    let smallest = manifest.files.iter().filter(|file| file.nearby.is_none()).min_by_key(|file| file.size);
    if let Some(file) = smallest {
        let length = source.supports_ranges().then_some(1).filter(|_| file.size.is_some_and(|size| size > 1));
        let mut reading = source.read(file, 0, length).await?;
        if let Some(first) = reading.bytes.next().await {
            first?;
        }
    }
    Ok(Trial { files: manifest.files.len() as u64, bytes })
}

/// Says as whom a URI is asked for, without secrets. Blocking: reads the files that are named.
///
/// # Errors
/// The credentials cannot be used.
pub fn identity(
    uri: &StorageUri,
    access: &Access,
    environment: &BTreeMap<String, String>,
) -> Result<String, SourceError> {
    let merged = surroundings(environment, access);
    let of = |names: &[&str]| {
        let given = names.iter().any(|name| access.variables.contains_key(*name));
        if given && !access.origins.is_empty() { access.origins.join(", ") } else { "the environment".to_owned() }
    };
    let variable = |name: &str, what: &str| match merged.get(name).filter(|value| !value.is_empty()) {
        Some(value) => format!("{what} {} ({name} of {})", shortened(value), of(&[name])),
        None => "nobody (anonymous)".to_owned(),
    };
    Ok(match uri.bare() {
        StorageUri::S3 { bucket, .. } => match credentials::s3(&merged, bucket)?.identity {
            S3Identity::Anonymous => "nobody (anonymous)".to_owned(),
            S3Identity::Keys(AwsKeys { id, .. }) if merged.contains_key("AWS_ACCESS_KEY_ID") => {
                format!("access key {} (AWS_ACCESS_KEY_ID of {})", shortened(&id), of(&["AWS_ACCESS_KEY_ID"]))
            }
            S3Identity::Keys(AwsKeys { id, .. }) => {
                let profile = merged.get("AWS_PROFILE").map_or("default", String::as_str);
                format!("access key {} (profile `{profile}` of the AWS files)", shortened(&id))
            }
            S3Identity::Source(source) => source.shown(),
        },
        StorageUri::Gs { .. } => {
            let given = access.variables.contains_key("GOOGLE_APPLICATION_CREDENTIALS");
            match credentials::gcs(environment) {
                _ if given => format!("the key of {}", of(&["GOOGLE_APPLICATION_CREDENTIALS"])),
                Ok(settings) => match settings.identity {
                    GcsIdentity::Anonymous => "nobody (anonymous)".to_owned(),
                    GcsIdentity::File(path) => format!("the credentials in {path}"),
                    GcsIdentity::Exchanged { file, kind } => {
                        format!("whoever gcloud makes of the {kind} credentials in {file}")
                    }
                },
                Err(error) => return Err(error),
            }
        }
        StorageUri::AzureBlob(uri) => azure(uri, AzureService::Blob, &merged)?,
        StorageUri::AzureFile(uri) => azure(uri, AzureService::File, &merged)?,
        StorageUri::HuggingFace { .. } => match super::hugging_face::token(&merged) {
            Some(token) if merged.contains_key("HF_TOKEN") => {
                format!("token {} (HF_TOKEN of {})", shortened(&token), of(&["HF_TOKEN"]))
            }
            Some(token) => format!("token {} (the file of Hugging Face's tools)", shortened(&token)),
            None => "nobody (anonymous)".to_owned(),
        },
        StorageUri::ModelScope { .. } => variable("MODELSCOPE_API_TOKEN", "token"),
        StorageUri::Git(_) if merged.contains_key("GIT_PASSWORD") => variable("GIT_USERNAME", "user"),
        StorageUri::Git(_) => "whoever git's own credential helpers say".to_owned(),
        StorageUri::Hdfs(_) => {
            let proxy = merged.get(&format!("{HDFS_PREFIX}USER_PROXY")).or_else(|| merged.get("HADOOP_USER_NAME"));
            proxy.map_or("nobody (anonymous)".to_owned(), |user| format!("user {user}"))
        }
        StorageUri::Http(url) => {
            let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
            let name = format!("{host}-headers");
            match merged.contains_key(&name) {
                true => format!("the headers of {name} ({})", of(&[&name])),
                false => "nobody (anonymous)".to_owned(),
            }
        }
        StorageUri::Oci { .. } if !access.registries.is_empty() => {
            "the logins of imagePullSecrets, else the user's own".to_owned()
        }
        StorageUri::Oci { .. } => "the user's own registry login, if there is one".to_owned(),
        StorageUri::By { container, .. } => format!("whoever storage container `{container}` is told"),
        StorageUri::Local(_)
        | StorageUri::Pvc { .. }
        | StorageUri::At { .. }
        | StorageUri::Part { .. }
        | StorageUri::Version { .. } => "this user".to_owned(),
    })
}

fn azure(uri: &str, service: AzureService, merged: &BTreeMap<String, String>) -> Result<String, SourceError> {
    let settings = credentials_azure::azure(merged, uri, service)?;
    Ok(match settings.identity {
        AzureIdentity::Anonymous => "nobody (anonymous)".to_owned(),
        AzureIdentity::Key(_) => format!("the key of account {}", settings.account),
        AzureIdentity::Signature(_) => "a shared access signature".to_owned(),
        AzureIdentity::Token(_) => "an access token (AZURE_ACCESS_TOKEN)".to_owned(),
        AzureIdentity::Client { client, .. } => format!("client {client} with its secret"),
        AzureIdentity::Federated { client, .. } => format!("client {client} with a federated token"),
        AzureIdentity::CommandLine => "whoever is signed in to `az`".to_owned(),
    })
}

/// Shows the beginning of a name or token, never enough to use it.
pub(super) fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(4.min(text.chars().count() / 3)).collect();
    format!("`{shown}…`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_for_credentials_is_new_and_goes_with_the_trial() {
        let (one, other) = (Scratch::temporary().unwrap(), Scratch::temporary().unwrap());
        assert_ne!(one.path(), other.path());
        let path = one.path().to_owned();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o700);
        drop(one);
        assert!(!path.exists());
    }

    #[test]
    fn it_is_said_as_whom_and_nothing_that_could_be_used() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let environment = map(&[
            ("AWS_ACCESS_KEY_ID", "AKIAUSERUSERUSER"),
            ("AWS_SECRET_ACCESS_KEY", "hush-hush-hush"),
            ("HF_TOKEN", "hf_hushhushhush"),
        ]);
        let secret = Access {
            variables: map(&[("AWS_ACCESS_KEY_ID", "AKIASECRETSECRET"), ("AWS_SECRET_ACCESS_KEY", "hush-hush-hush")]),
            origins: vec!["Secret team/s3".to_owned()],
            ..Access::default()
        };
        let none = Access::default();
        let table = [
            ("s3://b/m", &none, "access key `AKIA…` (AWS_ACCESS_KEY_ID of the environment)"),
            ("s3://b/m", &secret, "access key `AKIA…` (AWS_ACCESS_KEY_ID of Secret team/s3)"),
            ("hf://o/m", &none, "token `hf_h…` (HF_TOKEN of the environment)"),
            ("gs://b/m", &none, "nobody (anonymous)"),
            ("https://acct.blob.core.windows.net/c/p?sig=hush", &none, "a shared access signature"),
            ("https://h/f.bin", &none, "nobody (anonymous)"),
        ];
        for (uri, access, expected) in table {
            assert_eq!(identity(&StorageUri::parse(uri).unwrap(), access, &environment).unwrap(), expected, "{uri}");
        }
    }
}
