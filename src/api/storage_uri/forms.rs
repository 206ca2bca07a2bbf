//! The forms of each scheme (§3.1): what follows `scheme://`, and what is wrong with it.

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::{OciMode, StorageUri};

/// What stands before `://`.
pub(super) enum Scheme<'a> {
    /// No `<word>://` anywhere: a plain path.
    None,
    /// `<word>://` somewhere else than at the start.
    Strange,
    Some(&'a str, &'a str),
}

pub(super) fn scheme_of(text: &str) -> Scheme<'_> {
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

/// Every scheme that [`by_scheme`] knows, sorted.
pub(super) const SCHEMES: [&str; 16] = [
    "abfs",
    "abfss",
    "file",
    "gs",
    "hdfs",
    "hf",
    "http",
    "https",
    "modelscope",
    "ms",
    "oci",
    "oci+fetch",
    "oci+native",
    "pvc",
    "s3",
    "webhdfs",
];

/// Parses what follows a scheme; none when the scheme is not one of ours, `Err` says what is wrong.
pub(super) fn by_scheme(scheme: &str, rest: &str, text: &str) -> Option<Result<StorageUri, String>> {
    Some(match scheme {
        "s3" => bucket_and_path(rest, 63).map(|(bucket, path)| StorageUri::S3 { bucket, path }),
        "gs" => bucket_and_path(rest, 222).map(|(bucket, path)| StorageUri::Gs { bucket, path }),
        "http" | "https" => return http(scheme, rest, text),
        "abfs" | "abfss" => abfs(rest),
        "file" => local(rest),
        "pvc" => pvc(rest),
        "hf" => repository(rest, "Hugging Face", scheme, text)
            .map(|(repository, revision)| StorageUri::HuggingFace { repository, revision }),
        "modelscope" | "ms" => repository(rest, "ModelScope", scheme, text)
            .map(|(repository, revision)| StorageUri::ModelScope { repository, revision }),
        "hdfs" | "webhdfs" => hdfs(rest),
        "oci" => oci(rest, OciMode::Image),
        "oci+native" => oci(rest, OciMode::Native),
        "oci+fetch" => oci(rest, OciMode::Fetch),
        _ => return None,
    })
}

pub(super) fn local(path: &str) -> Result<StorageUri, String> {
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
    Ok(StorageUri::Pvc { claim: claim.to_owned(), path: plain_path(path).ok_or("its path leaves the claim")? })
}

/// Returns a path without empty and `.` parts; none when it has a `..`.
fn plain_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

/// Parses `owner/model[:revision]` of a hub: exactly two segments, as upstream takes them.
fn repository(rest: &str, hub: &str, scheme: &str, text: &str) -> Result<(String, Option<String>), String> {
    let (name, revision) = rest.split_once(':').map_or((rest, None), |(name, revision)| (name, Some(revision)));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = |part: &str| !part.is_empty() && part.chars().all(allowed) && part != "." && part != "..";
    let is_revision = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| allowed(c) || matches!(c, '/' | '+'))
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [owner, model] if is_name(owner) && is_name(model) && revision.is_none_or(is_revision) => {
            Ok((name.to_owned(), revision.map(str::to_owned)))
        }
        _ => Err(format!("Invalid {hub} URI format. Expected '{scheme}://owner/model[:revision]', got '{text}'")),
    }
}

/// Parses what follows `hdfs://`. Upstream reads all of it as a path; the name node comes from the credentials.
fn hdfs(rest: &str) -> Result<StorageUri, String> {
    let path = plain_path(rest).ok_or("its path has a `..`")?;
    if path.is_empty() {
        return Err("it names nothing".to_owned());
    }
    Ok(StorageUri::Hdfs(path))
}

/// Parses an image reference: `[registry/]name[:tag][@sha256:…]`.
fn oci(rest: &str, mode: OciMode) -> Result<StorageUri, String> {
    if rest.is_empty() {
        return Err("it names nothing".to_owned());
    }
    let (before_digest, digest) = rest.split_once('@').map_or((rest, None), |(name, digest)| (name, Some(digest)));
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!("`{digest}` is no digest: sha256: and 64 hex digits"));
        }
    }
    let slash = before_digest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match before_digest[slash..].find(':') {
        Some(at) => (&before_digest[..slash + at], Some(&before_digest[slash + at + 1..])),
        None => (before_digest, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if tag.is_some_and(|tag| tag.is_empty() || tag.len() > 128 || !tag.chars().all(word)) {
        return Err(format!("`{}` is no tag of an image", tag.unwrap_or_default()));
    }
    let is_part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(word);
    let mut parts = name.split('/').peekable();
    let registry = match name.split_once('/') {
        Some((first, _)) if first.contains([':', '.']) || first == "localhost" => parts.next(),
        _ => None,
    };
    let is_registry = |text: &str| {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
        begins && url::Url::parse(&format!("http://{text}/")).is_ok_and(|url| url.path() == "/")
    };
    let names = parts.all(|part| is_part(part) && !part.contains(|c: char| c.is_ascii_uppercase()));
    if registry.is_some_and(|registry| !is_registry(registry)) || !names {
        return Err(format!("`{rest}` is no reference of an image: [registry/]name[:tag][@digest], in lower case"));
    }
    Ok(StorageUri::Oci { reference: rest.to_owned(), mode })
}

/// Parses `container@account.dfs.core.windows.net/path` into the same place of the blob service.
fn abfs(rest: &str) -> Result<StorageUri, String> {
    let expected = "expected abfs[s]://container@account.dfs.core.windows.net/path";
    let (container, rest) = rest.split_once('@').ok_or(expected)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let account = host.strip_suffix(".dfs.core.windows.net").ok_or(expected)?;
    let path = path.trim_matches('/');
    if account.is_empty() || container.is_empty() || container.contains('/') || path.is_empty() {
        return Err(expected.to_owned());
    }
    Ok(StorageUri::AzureBlob(format!("https://{account}.blob.core.windows.net/{container}/{path}")))
}

/// Parses an `http(s)` URI; none when it is an Azure one that upstream's gate refuses.
fn http(scheme: &str, rest: &str, text: &str) -> Option<Result<StorageUri, String>> {
    let before_query = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.rsplit_once(':').map_or(host, |(host, port)| if port.contains(']') { authority } else { host });
    if text.contains("blob.core.windows.net") {
        let fits = scheme == "https" && host.len() > ".blob.core.windows.net".len() && !path.is_empty();
        return fits.then(|| azure(text, path, StorageUri::AzureBlob));
    }
    if scheme == "https" && !path.is_empty() {
        let zoned = |kind: &str| host.ends_with(".storage.azure.net") && host.contains(kind);
        if zoned(".blob.") {
            return Some(azure(text, path, StorageUri::AzureBlob));
        }
        if host.ends_with(".file.core.windows.net") || zoned(".file.") {
            return Some(azure(text, path, StorageUri::AzureFile));
        }
        if path.ends_with(".git") {
            return Some(git(text));
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

/// Azure URIs need a container (or share) and something in it.
fn azure(text: &str, path: &str, form: fn(String) -> StorageUri) -> Result<StorageUri, String> {
    url::Url::parse(text).map_err(|problem| problem.to_string())?;
    match path.split_once('/') {
        Some((container, rest)) if !container.is_empty() && !rest.trim_matches('/').is_empty() => {
            Ok(form(text.to_owned()))
        }
        _ => Err("expected https://account.…/container/path: it names nothing in a container".to_owned()),
    }
}

/// Parses a repository's URL; a branch, tag or commit may follow as `#name`.
fn git(text: &str) -> Result<StorageUri, String> {
    let url = url::Url::parse(text).map_err(|problem| problem.to_string())?;
    if url.query().is_some() {
        return Err("a git repository's URL has no query".to_owned());
    }
    let is_reference = |name: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '+');
        name.chars().all(word) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.contains("..")
    };
    match url.fragment() {
        Some(name) if !is_reference(name) => Err(format!("`{name}` is no branch, tag or commit")),
        _ => Ok(StorageUri::Git(text.to_owned())),
    }
}
