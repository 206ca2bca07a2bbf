//! Storage URIs parsed into what they mean (§3.1).
//!
//! Parsing is pure: it says what a URI names, never whether that exists. Differences from upstream: an `https` URI is a
//! git repository only when its path *ends* in `.git` (upstream searches for `.git` anywhere, so that every
//! `raw.githubusercontent.com` file becomes a clone), and may name a branch, tag or commit as `#name`; `?` and `#` in
//! bucket keys are part of the key; `abfs://` and `ms://`, which upstream's gate refuses, are understood.

mod forms;

use std::fmt;

use forms::{Scheme, by_scheme, local, scheme_of};

/// Where a model is, by scheme.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageUri {
    /// `s3://bucket/prefix`.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key or prefix, no leading slash, as written otherwise.
        path: String,
    },
    /// `gs://bucket/prefix`.
    Gs {
        /// Bucket.
        bucket: String,
        /// Object or prefix, no leading slash.
        path: String,
    },
    /// `http://` or `https://`, one file or archive; the URL as written.
    Http(String),
    /// `file:///path`, or a plain path; mounted in place. A relative one is refused when it is
    /// looked for: nothing says what it would be relative to.
    Local(String),
    /// `pvc://claim/sub/path`.
    Pvc {
        /// Claim name.
        claim: String,
        /// Path within it, no leading slash, may be empty.
        path: String,
    },
    /// `https://account.blob.core.windows.net/container/prefix`, with a signature in the query or without; `abfs[s]://`
    /// is turned into this form.
    AzureBlob(String),
    /// `https://account.file.core.windows.net/share/prefix`; as [`StorageUri::AzureBlob`].
    AzureFile(String),
    /// `hf://owner/model[:revision]`.
    HuggingFace {
        /// `owner/model`.
        repository: String,
        /// Branch, tag or commit; none means the main branch.
        revision: Option<String>,
    },
    /// `modelscope://owner/model[:revision]`, `ms://` too.
    ModelScope {
        /// `owner/model`.
        repository: String,
        /// Branch, tag or commit; none means the master branch.
        revision: Option<String>,
    },
    /// `https://host/repository.git[#branch-tag-or-commit]`, as written.
    Git(String),
    /// `hdfs://path` and `webhdfs://path`: the path, without leading slash. The name node comes from elsewhere.
    Hdfs(String),
    /// `oci://image`: the folder `/models` of an image, or an artifact in a registry.
    Oci {
        /// `[registry/]name[:tag][@digest]`.
        reference: String,
        /// How it is fetched.
        mode: OciMode,
    },
    /// Whatever a `ClusterStorageContainer` of the user's fetches; the scheme is its own affair.
    By {
        /// Name of the `ClusterStorageContainer`.
        container: String,
        /// Tells one way of fetching from another: a container with another image or other arguments makes another model.
        version: String,
        /// The URI as written.
        uri: String,
    },
    /// Any of these at a place that a Secret or a `storage` block names: another endpoint is another model.
    At {
        /// Endpoint or name node, without credentials.
        place: String,
        /// What is there.
        uri: Box<StorageUri>,
    },
    /// A later version of what a URI names, found there by `kserve-local/refresh`. Always the outermost.
    Version {
        /// Tells it from others.
        version: String,
        /// The URI.
        uri: Box<StorageUri>,
    },
    /// Some of the files of any of these (`STORAGE_ALLOW_PATTERNS`, `STORAGE_IGNORE_PATTERNS`): another model again.
    Part {
        /// Patterns of which a file's path matches one; none allows all.
        allow: Vec<String>,
        /// Patterns of which a file's path matches none.
        ignore: Vec<String>,
        /// What it is a part of.
        uri: Box<StorageUri>,
    },
}

/// How an `oci` model is fetched (§3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OciMode {
    /// `oci://`: by the container engine where there is one, else from the registry.
    Image,
    /// `oci+native://`: the same here; on a cluster an image volume.
    Native,
    /// `oci+fetch://`: from the registry, without the engine.
    Fetch,
}

/// Why a text is not a storage URI KServe accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageUriError {
    /// The scheme is none of KServe's.
    #[error(
        "StorageURI not supported: storageUri, must be one of: [gs://, s3://, pvc://, file://, https://, http://, hdfs://, webhdfs://, oci://, hf://] or match https://{{}}.blob.core.windows.net/{{}}/{{}} or be an absolute or relative local path. StorageUri [{0}] is not supported"
    )]
    UnknownScheme(String),
    /// The scheme is fine, the rest is not.
    #[error("storageUri `{uri}` is malformed: {problem}")]
    Malformed {
        /// As written, without credentials and query.
        uri: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl StorageUri {
    /// Every scheme that is taken, sorted. Git repositories and Azure are told from other `https://` by their form.
    pub const SCHEMES: [&str; 16] = forms::SCHEMES;

    /// Parses a storage URI by upstream's gate (§3.1).
    ///
    /// # Errors
    /// An unknown scheme, or a known one without the parts it needs.
    pub fn parse(text: &str) -> Result<Self, StorageUriError> {
        let parsed = match scheme_of(text) {
            _ if text.contains(|c: char| c.is_control()) => Err("it holds a control character".to_owned()),
            _ if text.trim() != text => Err("it begins or ends with a space".to_owned()),
            Scheme::None => local(text),
            Scheme::Strange => return Err(StorageUriError::UnknownScheme(redact(text))),
            Scheme::Some(scheme, rest) => match by_scheme(scheme, rest, text) {
                Some(parsed) => parsed,
                None => return Err(StorageUriError::UnknownScheme(redact(text))),
            },
        };
        parsed.map_err(|problem| StorageUriError::Malformed { uri: redact(text), problem })
    }

    /// Returns the URI for messages: no user names, passwords or query strings (signed URLs).
    pub fn redacted(&self) -> String {
        match self {
            // What follows the `#` of a repository is a name, not a secret.
            Self::Git(url) => match url.split_once('#') {
                Some((url, reference)) => format!("{}#{reference}", redact(url)),
                None => redact(url),
            },
            Self::At { place, uri } => format!("{} at {place}", uri.redacted()),
            Self::Version { version, uri } => format!("{} version {version}", uri.redacted()),
            Self::By { container, uri, .. } => format!("{} by {container}", redact(uri)),
            Self::Part { allow, ignore, uri } => format!("{}{}", uri.redacted(), chosen(allow, ignore)),
            other => redact(&other.to_string()),
        }
    }

    /// Returns the URI itself, without the place a Secret or a `storage` block names whatever part of it is wanted, and
    /// whatever version is used.
    #[must_use]
    pub fn bare(&self) -> &Self {
        match self {
            Self::At { uri, .. } | Self::Part { uri, .. } | Self::Version { uri, .. } => uri.bare(),
            other => other,
        }
    }

    /// Returns what the manifest asks for, whatever version of it is used.
    #[must_use]
    pub fn unversioned(&self) -> &Self {
        match self {
            Self::Version { uri, .. } => uri,
            other => other,
        }
    }

    /// Returns the version; none for what was found first.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Version { version, .. } => Some(version),
            _ => None,
        }
    }

    /// Names a version of this URI.
    #[must_use]
    pub fn with_version(self, version: impl Into<String>) -> Self {
        match self {
            Self::Version { uri, .. } => uri.with_version(version),
            plain => Self::Version { version: version.into(), uri: Box::new(plain) },
        }
    }

    /// Whether its source can be asked cheaply for something new under the same name.
    pub fn can_be_refreshed(&self) -> bool {
        !matches!(self.bare(), Self::Local(_) | Self::Pvc { .. } | Self::Git(_) | Self::Oci { .. } | Self::By { .. })
    }
}

impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, path } => write!(f, "s3://{bucket}/{path}"),
            Self::Gs { bucket, path } => write!(f, "gs://{bucket}/{path}"),
            Self::Http(url) | Self::AzureBlob(url) | Self::AzureFile(url) | Self::Git(url) => f.write_str(url),
            Self::Local(path) => write!(f, "file://{path}"),
            Self::Pvc { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::HuggingFace { repository, revision: None } => write!(f, "hf://{repository}"),
            Self::HuggingFace { repository, revision: Some(revision) } => write!(f, "hf://{repository}:{revision}"),
            Self::ModelScope { repository, revision: None } => write!(f, "modelscope://{repository}"),
            Self::ModelScope { repository, revision: Some(revision) } => {
                write!(f, "modelscope://{repository}:{revision}")
            }
            Self::Hdfs(path) => write!(f, "hdfs://{path}"),
            Self::Oci { reference, mode: OciMode::Image } => write!(f, "oci://{reference}"),
            Self::Oci { reference, mode: OciMode::Native } => write!(f, "oci+native://{reference}"),
            Self::Oci { reference, mode: OciMode::Fetch } => write!(f, "oci+fetch://{reference}"),
            Self::At { place, uri } => write!(f, "{uri} at {place}"),
            Self::Version { version, uri } => write!(f, "{uri} version {version}"),
            Self::By { container, version, uri } => write!(f, "{uri} by {container}@{version}"),
            Self::Part { allow, ignore, uri } => write!(f, "{uri}{}", chosen(allow, ignore)),
        }
    }
}

/// Says which files are wanted.
fn chosen(allow: &[String], ignore: &[String]) -> String {
    let list = |word: &str, patterns: &[String]| match patterns {
        [] => String::new(),
        patterns => format!(" {word} {}", patterns.join(", ")),
    };
    list("only", allow) + &list("without", ignore)
}

/// Takes user names, passwords, query strings and fragments out of `http(s)` URLs; leaves everything else.
pub(crate) fn redact(text: &str) -> String {
    let Some((scheme @ ("http" | "https"), rest)) = text.split_once("://") else { return text.to_owned() };
    let (before, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?…"),
        None => (rest, ""),
    };
    let (authority, path) = before.find('/').map_or((before, ""), |at| before.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{query}")
}

/// Redacts every word of a text, as [`redact`] does one URL.
pub(crate) fn redact_all(text: &str) -> String {
    let word = |word: &str| {
        let inner = word.trim_matches(['\'', '"', '`', '(', ')']);
        word.replace(inner, &redact(inner))
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
