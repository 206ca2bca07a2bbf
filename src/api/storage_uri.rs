//! Storage URIs parsed into what they mean (§3.1).

use std::fmt;

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
    /// `file:///path`, or a plain path; mounted in place. Never relative once resolved.
    Local(String),
    /// `pvc://claim/sub/path`.
    Pvc {
        /// Claim name.
        claim: String,
        /// Path within it, no leading slash, may be empty.
        path: String,
    },
    /// A scheme KServe has and this version does not pull yet (`hf`, `oci`, `hdfs`, Azure, …).
    Unsupported {
        /// The scheme, or `azure blob`.
        scheme: String,
        /// The URI as written.
        uri: String,
    },
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
        /// As written.
        uri: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl StorageUri {
    /// Parses a storage URI by upstream's gate (§3.1).
    ///
    /// # Errors
    /// An unknown scheme, or a known one without the parts it needs.
    pub fn parse(text: &str) -> Result<Self, StorageUriError> {
        let malformed =
            |problem: &str| StorageUriError::Malformed { uri: text.to_owned(), problem: problem.to_owned() };
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(malformed("it is empty")) } else { Ok(Self::Local(text.to_owned())) };
        };
        let bucket_and_path = || {
            let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(malformed("it names no bucket"));
            }
            Ok((bucket.to_owned(), path.trim_start_matches('/').to_owned()))
        };
        match scheme {
            "s3" => bucket_and_path().map(|(bucket, path)| Self::S3 { bucket, path }),
            "gs" => bucket_and_path().map(|(bucket, path)| Self::Gs { bucket, path }),
            "http" | "https" => Ok(Self::Http(text.to_owned())),
            "file" => Ok(Self::Local(rest.to_owned())),
            "pvc" => bucket_and_path().map(|(claim, path)| Self::Pvc { claim, path }),
            "hdfs" | "webhdfs" | "oci" | "oci+native" | "oci+fetch" | "hf" | "modelscope" => {
                Ok(Self::Unsupported { scheme: scheme.to_owned(), uri: text.to_owned() })
            }
            _ => Err(StorageUriError::UnknownScheme(text.to_owned())),
        }
    }
}

impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, path } => write!(f, "s3://{bucket}/{path}"),
            Self::Gs { bucket, path } => write!(f, "gs://{bucket}/{path}"),
            Self::Http(url) => f.write_str(url),
            Self::Local(path) => write!(f, "file://{path}"),
            Self::Pvc { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::Unsupported { uri, .. } => f.write_str(uri),
        }
    }
}
