//! Storage URIs parsed into what they mean (§3.1).
//!
//! Parsing is pure: it says what a URI names, never whether that exists. Two deliberate differences from upstream: an
//! `https` URI is a git repository only when its path *ends* in `.git` (upstream searches for `.git` anywhere, so that
//! every `raw.githubusercontent.com` file becomes a clone), and `?` or `#` in bucket keys are part of the key.

use std::fmt;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

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
    /// `file:///path`, or a plain path; mounted in place. Never relative once resolved, see [`StorageUri::with_base`].
    Local(String),
    /// `pvc://claim/sub/path`.
    Pvc {
        /// Claim name.
        claim: String,
        /// Path within it, no leading slash, may be empty.
        path: String,
    },
    /// A scheme KServe has and this version does not pull yet (`hf`, `oci`, `hdfs`, Azure, git, …).
    Unsupported {
        /// The scheme, or `azure blob`, `azure file`, `git`.
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
        /// As written, without credentials and query.
        uri: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Schemes that KServe accepts and this version does not pull.
const UNPULLED: [&str; 7] = ["hdfs", "webhdfs", "oci", "oci+native", "oci+fetch", "hf", "modelscope"];

impl StorageUri {
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

    /// Makes a relative local path absolute by joining it to `base`; anything else is returned as it is.
    #[must_use]
    pub fn with_base(self, base: &Utf8Path) -> Self {
        match self {
            Self::Local(path) if !path.starts_with('/') => Self::Local(normalized(&base.join(path)).into_string()),
            other => other,
        }
    }

    /// Returns the URI for messages: no user names, passwords or query strings (signed URLs).
    pub fn redacted(&self) -> String {
        redact(&self.to_string())
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

/// What stands before `://`.
enum Scheme<'a> {
    /// No `<word>://` anywhere: a plain path.
    None,
    /// `<word>://` somewhere else than at the start.
    Strange,
    Some(&'a str, &'a str),
}

fn scheme_of(text: &str) -> Scheme<'_> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let has_scheme = text.match_indices("://").any(|(at, _)| text[..at].ends_with(is_word));
    match text.split_once("://") {
        Some((scheme, rest)) if has_scheme && scheme.chars().all(|c| is_word(c) || c == '+') => {
            Scheme::Some(scheme, rest)
        }
        Some(_) if has_scheme => Scheme::Strange,
        _ => Scheme::None,
    }
}

/// Parses what follows a scheme; none when the scheme is not KServe's, `Err` says what is wrong.
fn by_scheme(scheme: &str, rest: &str, text: &str) -> Option<Result<StorageUri, String>> {
    Some(match scheme {
        "s3" => bucket_and_path(rest, 63).map(|(bucket, path)| StorageUri::S3 { bucket, path }),
        "gs" => bucket_and_path(rest, 222).map(|(bucket, path)| StorageUri::Gs { bucket, path }),
        "http" | "https" => return http(scheme, rest, text),
        "file" => local(rest),
        "pvc" => pvc(rest),
        "hf" | "modelscope" => owner_and_model(scheme, rest, text),
        _ if UNPULLED.contains(&scheme) && rest.is_empty() => Err("it names nothing".to_owned()),
        _ if UNPULLED.contains(&scheme) => Ok(unsupported(scheme, text)),
        _ => return None,
    })
}

fn unsupported(scheme: &str, text: &str) -> StorageUri {
    StorageUri::Unsupported { scheme: scheme.to_owned(), uri: text.to_owned() }
}

fn local(path: &str) -> Result<StorageUri, String> {
    if path.is_empty() {
        return Err("it names no path".to_owned());
    }
    Ok(StorageUri::Local(normalized(Utf8Path::new(path)).into_string()))
}

/// Takes out `.`, doubled and trailing slashes; `..` stays, because only the file system knows what it means.
fn normalized(path: &Utf8Path) -> Utf8PathBuf {
    let plain: Utf8PathBuf = path.components().filter(|part| *part != Utf8Component::CurDir).collect();
    if plain.as_str().is_empty() { Utf8PathBuf::from(".") } else { plain }
}

fn bucket_and_path(rest: &str, longest: usize) -> Result<(String, String), String> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if bucket.is_empty() {
        return Err("it names no bucket".to_owned());
    }
    if bucket.len() > longest || !bucket.chars().all(allowed) || !bucket.contains(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("`{bucket}` is no bucket name"));
    }
    Ok((bucket.to_owned(), path.trim_start_matches('/').to_owned()))
}

fn pvc(rest: &str) -> Result<StorageUri, String> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if claim.is_empty() {
        return Err("it names no claim".to_owned());
    }
    if claim.len() > 253 || !claim.chars().all(allowed) || claim.starts_with(['-', '.']) || claim.ends_with(['-', '.'])
    {
        return Err(format!("`{claim}` is no name of a PersistentVolumeClaim"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err("its path leaves the claim".to_owned());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(StorageUri::Pvc { claim: claim.to_owned(), path: parts.join("/") })
}

fn owner_and_model(scheme: &str, rest: &str, text: &str) -> Result<StorageUri, String> {
    let hub = if scheme == "hf" { "Hugging Face" } else { "ModelScope" };
    let (name, revision) = rest.split_once(':').map_or((rest, None), |(name, revision)| (name, Some(revision)));
    match name.split('/').collect::<Vec<_>>()[..] {
        [owner, model] if !owner.is_empty() && !model.is_empty() && revision != Some("") => {
            Ok(unsupported(scheme, text))
        }
        _ => Err(format!("Invalid {hub} URI format. Expected '{scheme}://owner/model[:revision]', got '{text}'")),
    }
}

/// Parses an `http(s)` URI; none when it is an Azure one that upstream's gate refuses.
fn http(scheme: &str, rest: &str, text: &str) -> Option<Result<StorageUri, String>> {
    let before_query = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.rsplit_once(':').map_or(host, |(host, port)| if port.contains(']') { authority } else { host });
    if text.contains("blob.core.windows.net") {
        let fits = scheme == "https" && host.len() > ".blob.core.windows.net".len() && !path.is_empty();
        return fits.then(|| Ok(unsupported("azure blob", text)));
    }
    if scheme == "https" && !path.is_empty() {
        let zoned = |kind: &str| host.ends_with(".storage.azure.net") && host.contains(kind);
        if zoned(".blob.") {
            return Some(Ok(unsupported("azure blob", text)));
        }
        if host.ends_with(".file.core.windows.net") || zoned(".file.") {
            return Some(Ok(unsupported("azure file", text)));
        }
        if path.ends_with(".git") {
            return Some(Ok(unsupported("git", text)));
        }
    }
    let file = path.rsplit('/').next().unwrap_or_default();
    if host.is_empty() || file.is_empty() || file == "." || file == ".." {
        return Some(Err("No filename contained in URI".to_owned()));
    }
    Some(match url::Url::parse(text) {
        Ok(_) => Ok(StorageUri::Http(text.to_owned())),
        Err(problem) => Err(problem.to_string()),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> String {
        match StorageUri::parse(text) {
            Ok(StorageUri::S3 { bucket, path }) => format!("s3 {bucket} | {path}"),
            Ok(StorageUri::Gs { bucket, path }) => format!("gs {bucket} | {path}"),
            Ok(StorageUri::Http(url)) => format!("http {url}"),
            Ok(StorageUri::Local(path)) => format!("local {path}"),
            Ok(StorageUri::Pvc { claim, path }) => format!("pvc {claim} | {path}"),
            Ok(StorageUri::Unsupported { scheme, .. }) => format!("unsupported {scheme}"),
            Err(StorageUriError::UnknownScheme(_)) => "unknown scheme".to_owned(),
            Err(StorageUriError::Malformed { problem, .. }) => format!("malformed: {problem}"),
        }
    }

    #[test]
    fn every_form_of_a_storage_uri_is_understood_as_upstream_does() {
        let table = [
            ("s3://bucket/a/model", "s3 bucket | a/model"),
            ("s3://bucket", "s3 bucket | "),
            ("s3://bucket//a//b/", "s3 bucket | a//b/"),
            ("s3://bucket/a%20b?c#d", "s3 bucket | a%20b?c#d"),
            ("s3://My_Bucket.x/ä 1", "s3 My_Bucket.x | ä 1"),
            ("gs://kfserving-examples/models/sklearn/1.0/model", "gs kfserving-examples | models/sklearn/1.0/model"),
            ("https://host/a/model.joblib", "http https://host/a/model.joblib"),
            ("http://127.0.0.1:9000/m.tar.gz?sig=1", "http http://127.0.0.1:9000/m.tar.gz?sig=1"),
            ("http://[::1]:9000/m", "http http://[::1]:9000/m"),
            ("https://raw.githubusercontent.com/o/r/m.joblib", "http https://raw.githubusercontent.com/o/r/m.joblib"),
            ("https://me.github.io/m.onnx", "http https://me.github.io/m.onnx"),
            ("https://host/owner/repo.git", "unsupported git"),
            ("https://me@host/owner/repo.git", "unsupported git"),
            ("https://acct.blob.core.windows.net/c/p", "unsupported azure blob"),
            ("https://acct.blob.core.windows.net/c/p?sv=1", "unsupported azure blob"),
            ("https://acct.z12.blob.storage.azure.net/c/p", "unsupported azure blob"),
            ("https://acct.file.core.windows.net/s/p", "unsupported azure file"),
            ("https://acct.z1.file.storage.azure.net/s/p", "unsupported azure file"),
            ("file:///srv/model", "local /srv/model"),
            ("file://srv/model/", "local srv/model"),
            ("/srv//model/./x/", "local /srv/model/x"),
            ("/", "local /"),
            ("./models/iris", "local models/iris"),
            ("models/iris.joblib", "local models/iris.joblib"),
            ("C:model", "local C:model"),
            ("://x", "local :/x"),
            ("pvc://claim", "pvc claim | "),
            ("pvc://claim/", "pvc claim | "),
            ("pvc://my.claim-1//a/./b/", "pvc my.claim-1 | a/b"),
            ("hf://owner/model", "unsupported hf"),
            ("hf://owner/model:main", "unsupported hf"),
            ("modelscope://owner/model", "unsupported modelscope"),
            ("oci://reg/image:1", "unsupported oci"),
            ("oci+native://reg/image", "unsupported oci+native"),
            ("oci+fetch://reg/image", "unsupported oci+fetch"),
            ("hdfs://nn/path", "unsupported hdfs"),
            ("webhdfs://nn/path", "unsupported webhdfs"),
        ];
        for (text, meaning) in table {
            assert_eq!(described(text), meaning, "{text}");
        }
    }

    #[test]
    fn every_malformed_storage_uri_says_what_is_wrong() {
        let hf = |text: &str| {
            format!("malformed: Invalid Hugging Face URI format. Expected 'hf://owner/model[:revision]', got '{text}'")
        };
        let table = [
            ("", "malformed: it names no path".to_owned()),
            ("file://", "malformed: it names no path".to_owned()),
            ("s3://", "malformed: it names no bucket".to_owned()),
            ("gs:///path", "malformed: it names no bucket".to_owned()),
            ("s3://${bucket}/m", "malformed: `${bucket}` is no bucket name".to_owned()),
            ("s3://a:b@c/m", "malformed: `a:b@c` is no bucket name".to_owned()),
            ("s3://../m", "malformed: `..` is no bucket name".to_owned()),
            (" s3://b/m", "malformed: it begins or ends with a space".to_owned()),
            ("s3://b/m\n", "malformed: it holds a control character".to_owned()),
            ("s3://b/a\0", "malformed: it holds a control character".to_owned()),
            ("https://", "malformed: No filename contained in URI".to_owned()),
            ("https://host", "malformed: No filename contained in URI".to_owned()),
            ("https://host/", "malformed: No filename contained in URI".to_owned()),
            ("https://host/a/?q=m.joblib", "malformed: No filename contained in URI".to_owned()),
            ("https:///m.joblib", "malformed: No filename contained in URI".to_owned()),
            ("https://host/a/..", "malformed: No filename contained in URI".to_owned()),
            ("http://ho st/m", "malformed: invalid international domain name".to_owned()),
            ("http://host:99999/m", "malformed: invalid port number".to_owned()),
            ("pvc://", "malformed: it names no claim".to_owned()),
            ("pvc:///x", "malformed: it names no claim".to_owned()),
            ("pvc://Claim/x", "malformed: `Claim` is no name of a PersistentVolumeClaim".to_owned()),
            ("pvc://claim/a/../../x", "malformed: its path leaves the claim".to_owned()),
            ("oci://", "malformed: it names nothing".to_owned()),
            ("hf://model", hf("hf://model")),
            ("hf://owner/model/sub", hf("hf://owner/model/sub")),
            ("hf:///model", hf("hf:///model")),
            ("hf://owner/model:", hf("hf://owner/model:")),
            ("http://acct.blob.core.windows.net/c/p", "unknown scheme".to_owned()),
            ("https://acct.blob.core.windows.net", "unknown scheme".to_owned()),
            ("S3://bucket/m", "unknown scheme".to_owned()),
            ("ftp://host/m", "unknown scheme".to_owned()),
            ("git://host/m", "unknown scheme".to_owned()),
            ("ms://owner/model", "unknown scheme".to_owned()),
            ("abfs://c/m", "unknown scheme".to_owned()),
            ("oci+modelcar://i", "unknown scheme".to_owned()),
            ("a/b s3://c", "unknown scheme".to_owned()),
        ];
        for (text, meaning) in table {
            assert_eq!(described(text), meaning, "{text:?}");
        }
    }

    #[test]
    fn a_relative_path_is_joined_to_the_folder_of_its_manifest() {
        let table = [
            ("models/iris", "file:///srv/services/models/iris"),
            ("./m", "file:///srv/services/m"),
            ("../m", "file:///srv/services/../m"),
            ("/abs/m", "file:///abs/m"),
            (".", "file:///srv/services"),
        ];
        for (text, absolute) in table {
            let uri = StorageUri::parse(text).unwrap().with_base(Utf8Path::new("/srv/services"));
            assert_eq!(uri.to_string(), absolute, "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same_again() {
        for text in ["s3://b/a b/c", "gs://b", "https://h/f?x=1", "/a/b", "pvc://c/d", "hf://o/m", "oci://i"] {
            let uri = StorageUri::parse(text).unwrap();
            assert_eq!(StorageUri::parse(&uri.to_string()).as_ref(), Ok(&uri), "{text}");
        }
    }

    #[test]
    fn messages_hold_no_passwords_and_no_signatures() {
        let uri = StorageUri::parse("https://user:secret@host:81/a/m.zip?X-Signature=secret#x").unwrap();
        assert_eq!(uri.redacted(), "https://host:81/a/m.zip?…");
        let error = StorageUri::parse("https://user:secret@host/?secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
