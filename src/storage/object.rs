//! S3 and GCS through object_store; Azure, which has a file of its own, shares what is common. No other file names it.
//!
//! Listing (§3.2): the exact key is one file under its own name; otherwise everything below `path/`. Two differences from
//! upstream's S3 reader: a prefix ends at a `/` (upstream's `model` also fetches `model2/…`), and empty files are kept,
//! because Python packages have them; only folder markers are left out.
//!
//! object_store's own retries, request timeout (30 s with the body!) and redirects are off: the pull has its own, and every
//! connection goes through the client of `object_client`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::client::HttpError;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig, StaticCredentialProvider,
};
use url::Url;

use super::credentials::{self, GcsIdentity, S3Identity, S3Settings};
use super::credentials_aws::AwsKeys;
use super::object_aws::{AwsProvider, NoKeys};
use super::object_client::{Connector, NotRanged, OtherRegion, Stated};
use super::object_gcp::GcloudProvider;
use super::pull::PullConfig;
use super::reach::{self, Unreachable};
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, StatedDigest, Unpack, http, unpack};

/// A prefix of a bucket.
#[derive(Debug)]
pub struct ObjectSource {
    store: Arc<dyn ObjectStore>,
    /// `S3` or `GCS`, for messages.
    protocol: &'static str,
    bucket: String,
    path: String,
    /// The URI for messages.
    uri: String,
}

impl ObjectSource {
    /// Makes the source of `s3://bucket/path` as the environment says. Blocking.
    ///
    /// # Errors
    /// The credentials, endpoint or certificates cannot be used.
    pub fn s3(
        bucket: &str,
        path: &str,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let settings = credentials::s3(environment, bucket)?;
        let endpoint = s3_endpoint(&settings, bucket);
        let url = parse(&endpoint)?;
        let authorities = match &settings.ca_bundle {
            Some(path) => Some(http::read_authorities(path).map_err(SourceError::Invalid)?),
            None => http::authorities(environment).map_err(SourceError::Invalid)?,
        };
        let region = settings.region;
        let connector = Connector::new(&url, settings.verify_tls, authorities, config, environment)?.for_s3(&region);
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region.clone())
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(settings.virtual_hosted || settings.accelerate)
            .with_allow_http(true)
            .with_retry(no_retries())
            .with_http_connector(connector.clone());
        let builder = match settings.identity {
            S3Identity::Anonymous => builder.with_skip_signature(true),
            S3Identity::Keys(AwsKeys { id, secret, token }) => {
                let builder = builder.with_access_key_id(id).with_secret_access_key(secret.0);
                token.into_iter().fold(builder, |builder, token| builder.with_token(token.0))
            }
            S3Identity::Source(source) => builder.with_credentials(Arc::new(AwsProvider {
                source,
                connector: keys_connector(settings.sts.as_deref(), config, environment)?,
                region: region.clone(),
                sts: settings.sts,
                sign_on: settings.sign_on,
                environment: environment.clone(),
                kept: tokio::sync::Mutex::default(),
            })),
        };
        let built = builder.build().inspect(|store| connector.sign_as(store.credentials()));
        Self::new(built, "S3", bucket, path, format!("s3://{bucket}/{path}"))
    }

    /// Makes the source of `gs://bucket/path` as the environment says. Blocking.
    ///
    /// # Errors
    /// The credentials or the endpoint cannot be used.
    pub fn gcs(
        bucket: &str,
        path: &str,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
        keys: Option<&Utf8Path>,
    ) -> Result<Self, SourceError> {
        let settings = credentials::gcs(environment)?;
        let endpoint = settings.endpoint.unwrap_or_else(|| "https://storage.googleapis.com".to_owned());
        let authorities = http::authorities(environment).map_err(SourceError::Invalid)?;
        let connector = Connector::new(&parse(&endpoint)?, true, authorities, config, environment)?;
        let builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_base_url(&endpoint)
            .with_retry(no_retries())
            .with_http_connector(connector);
        let builder = match settings.identity {
            // Credentials that are not sent: without them the library would look for some by itself.
            GcsIdentity::Anonymous => builder
                .with_skip_signature(true)
                .with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: String::new() }))),
            GcsIdentity::File(file) => builder.with_application_credentials(file.as_str()),
            GcsIdentity::Exchanged { file, kind } => {
                builder.with_credentials(Arc::new(GcloudProvider::open(file, kind, environment, keys)?))
            }
        };
        Self::new(builder.build(), "GCS", bucket, path, format!("gs://{bucket}/{path}"))
    }

    pub(super) fn new<S: ObjectStore>(
        built: object_store::Result<S>,
        protocol: &'static str,
        bucket: &str,
        path: &str,
        uri: String,
    ) -> Result<Self, SourceError> {
        let (bucket, path) = (bucket.to_owned(), path.to_owned());
        match built {
            Ok(store) => Ok(Self { store: Arc::new(store), protocol, bucket, path, uri }),
            Err(error) => Err(SourceError::Invalid(format!("{protocol} cannot be used: {error}"))),
        }
    }

    /// Writes one object below the prefix.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn write(&self, name: &str, bytes: bytes::Bytes) -> Result<(), SourceError> {
        let prefix = self.path.trim_matches('/');
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let written = self.store.put(&Path::from(key), bytes.into()).await;
        written.map(drop).map_err(|error| self.mapped(error))
    }

    fn uri(&self) -> String {
        self.uri.clone()
    }

    /// Returns the object of exactly the path's name.
    async fn exact(&self, key: &Path) -> Result<Option<ObjectMeta>, SourceError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => match self.mapped(error) {
                passing @ SourceError::Transient { .. } => Err(passing),
                // Answers to HEAD have no text; the listing is refused as well and says why.
                _ => Ok(None),
            },
        }
    }

    /// Takes folder markers out of a listing: empty objects with a `/` at the end, which the library does not show.
    async fn without_markers(&self, mut objects: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>, SourceError> {
        let names: BTreeSet<String> = objects.iter().map(|object| object.location.to_string()).collect();
        let is_folder = |name: &str| {
            let below = format!("{name}/");
            names.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
        };
        objects.retain(|object| object.size > 0 || !is_folder(object.location.as_ref()));
        let empty = objects.iter().filter(|object| object.size == 0).map(|object| object.location.clone());
        // An empty object that cannot be found without the slash is the marker of an empty folder.
        let markers: BTreeSet<Path> = futures::stream::iter(empty.collect::<Vec<_>>())
            .map(|key| async move { Ok((self.exact(&key).await?.is_none(), key)) })
            .buffer_unordered(8)
            .try_filter_map(|(is_marker, key)| async move { Ok::<_, SourceError>(is_marker.then_some(key)) })
            .try_collect()
            .await?;
        objects.retain(|object| !markers.contains(&object.location));
        Ok(objects)
    }

    fn file(&self, path: impl Into<Utf8PathBuf>, meta: &ObjectMeta) -> RemoteFile {
        RemoteFile {
            path: path.into(),
            key: meta.location.to_string(),
            size: Some(meta.size),
            etag: meta.e_tag.as_deref().filter(|etag| !etag.starts_with("W/")).map(quoted),
            version: Some(format!("{}", meta.last_modified)),
            ..RemoteFile::default()
        }
    }

    /// Maps the library's errors to upstream's texts; the cause stays in the chain.
    fn mapped(&self, error: object_store::Error) -> SourceError {
        use object_store::Error;
        let (protocol, uri) = (self.protocol, self.uri());
        if let Some(refused) = reach::cause::<Unreachable>(&error) {
            return SourceError::Denied(refused.to_string());
        }
        if let Some(NoKeys(problem)) = reach::cause::<NoKeys>(&error) {
            return problem.clone();
        }
        if let Some(elsewhere) = reach::cause::<OtherRegion>(&error) {
            return SourceError::Invalid(format!("{protocol} bucket '{}' {elsewhere}", self.bucket));
        }
        if reach::cause::<NotRanged>(&error).is_some() {
            return SourceError::RangeIgnored(uri);
        }
        let answer = Answer::of(&error);
        if let Some(known) = answer.code.as_deref().and_then(|code| self.known(code)) {
            return known;
        }
        match (&error, answer.status) {
            (Error::Precondition { .. }, _) | (_, Some(412)) => SourceError::Changed(uri),
            (Error::Unauthenticated { .. }, _) | (_, Some(401)) => {
                SourceError::Denied(format!("{protocol} authentication failed. Check the credentials for '{uri}'."))
            }
            (Error::PermissionDenied { .. }, _) | (_, Some(403)) => {
                SourceError::Denied(format!("Access denied to {protocol} resource '{uri}'. Verify permissions."))
            }
            (Error::NotFound { .. }, _) | (_, Some(404)) => {
                SourceError::NotFound(format!("{protocol} resource '{uri}' not found."))
            }
            (Error::InvalidPath { source }, _) => SourceError::Invalid(format!(
                "{protocol} resource '{uri}' has an object with a name that is not taken: {source}"
            )),
            _ if answer.may_pass => {
                SourceError::transient(format!("Failed to connect to {protocol} endpoint '{uri}'."), Told::of(&error))
            }
            _ => match answer.code {
                Some(code) => {
                    let message = answer.message.unwrap_or_default();
                    SourceError::Invalid(format!("{protocol} error [{code}]: {message}"))
                }
                None => {
                    let told = Told::of(&error);
                    SourceError::Invalid(format!("{protocol} resource '{uri}' cannot be read: {told}"))
                }
            },
        }
    }

    /// Maps the codes that say more than their status.
    fn known(&self, code: &str) -> Option<SourceError> {
        let protocol = self.protocol;
        match code {
            "NoSuchBucket" | "ContainerNotFound" => {
                Some(SourceError::NotFound(format!("{protocol} bucket '{}' does not exist.", self.bucket)))
            }
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired" => {
                Some(SourceError::Denied(format!("Invalid AWS credentials. {protocol} said {code}.")))
            }
            "RequestTimeTooSkewed" => Some(SourceError::Denied(format!(
                "{protocol} authentication failed. {protocol} said {code}: the clock of this machine is wrong."
            ))),
            "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
                Some(SourceError::Denied(format!("{protocol} authentication failed. It said {code}.")))
            }
            "AuthorizationFailure" | "AuthorizationPermissionMismatch" | "NoAuthenticationInformation" => {
                Some(SourceError::Denied(format!(
                    "Access denied to {protocol} resource '{}'. Verify permissions.",
                    self.uri
                )))
            }
            "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => Some(SourceError::Invalid(
                format!("{protocol} error [{code}]: the bucket is in another region; set AWS_REGION to it."),
            )),
            _ => None,
        }
    }
}

#[async_trait]
impl ModelSource for ObjectSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let key = Path::parse(self.path.trim_end_matches('/'))
            .map_err(|source| SourceError::Invalid(format!("`{}` names no object: {source}", self.uri())))?;
        if !self.path.is_empty()
            && !self.path.ends_with('/')
            && let Some(meta) = self.exact(&key).await?
            && let Some(name) = key.filename()
        {
            return Ok(RemoteManifest { unpack: unpack::kind_of(name), files: vec![self.file(name, &meta)] });
        }
        let prefix = (!key.is_root()).then_some(&key);
        let listed: Vec<ObjectMeta> =
            self.store.list(prefix).try_collect().await.map_err(|error| self.mapped(error))?;
        let below = |object: &ObjectMeta| {
            let relative = match prefix {
                Some(prefix) => object.location.as_ref().strip_prefix(prefix.as_ref())?.strip_prefix('/')?,
                None => object.location.as_ref(),
            };
            (!relative.is_empty()).then(|| relative.to_owned())
        };
        let objects = listed.into_iter().filter(|object| below(object).is_some()).collect();
        let objects = self.without_markers(objects).await?;
        let files: Vec<RemoteFile> =
            objects.iter().filter_map(|object| Some(self.file(below(object)?, object))).collect();
        let unpack = match &files[..] {
            [] => {
                let uri = self.uri();
                return Err(SourceError::NotFound(format!("Failed to fetch model. No model found in {uri}.")));
            }
            [only] => unpack::kind_of(only.path.file_name().unwrap_or_default()),
            _ => Unpack::Keep,
        };
        Ok(RemoteManifest { files, unpack })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let range = match length {
            None if offset == 0 => None,
            None => Some(GetRange::Offset(offset)),
            Some(length) => Some(GetRange::Bounded(offset..offset + length)),
        };
        let key = Path::parse(&file.key).map_err(|error| self.mapped(error.into()))?;
        let options = GetOptions { if_match: file.etag.clone(), range, ..GetOptions::default() };
        let got = self.store.get_opts(&key, options).await.map_err(|error| self.mapped(error))?;
        if let (Some(pinned), Some(now)) = (&file.etag, &got.meta.e_tag)
            && pinned.trim_matches('"') != now.trim_matches('"')
        {
            return Err(SourceError::Changed(self.uri()));
        }
        let digests = got.extensions.get::<Stated>().map(|stated| stated.0.clone()).unwrap_or_default();
        let (protocol, uri) = (self.protocol, self.uri());
        let broken = move |error: object_store::Error| {
            SourceError::transient(
                format!("the connection to {protocol} broke while '{uri}' was read"),
                Told::of(&error),
            )
        };
        Ok(Reading { bytes: got.into_stream().map_err(broken).boxed(), digests })
    }

    async fn stated(&self, file: &RemoteFile) -> Result<Vec<StatedDigest>, SourceError> {
        let key = Path::parse(&file.key).map_err(|error| self.mapped(error.into()))?;
        let options = GetOptions { head: true, if_match: file.etag.clone(), ..GetOptions::default() };
        match self.store.get_opts(&key, options).await {
            Ok(got) => Ok(got.extensions.get::<Stated>().map(|stated| stated.0.clone()).unwrap_or_default()),
            Err(error) => match self.mapped(error) {
                passing @ (SourceError::Transient { .. } | SourceError::Changed(_)) => Err(passing),
                // Reading may be allowed where asking is not.
                _ => Ok(Vec::new()),
            },
        }
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

/// Puts an ETag in the quotes that preconditions need; some listings leave them out.
fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}

pub(super) fn parse(endpoint: &str) -> Result<Url, SourceError> {
    let parsed = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    parsed.ok_or_else(|| SourceError::Invalid(format!("`{endpoint}` is no endpoint of an object store")))
}

/// Returns where the bucket's requests go, in the form the library wants: with the bucket when it is in the host name.
fn s3_endpoint(settings: &S3Settings, bucket: &str) -> String {
    let region = &settings.region;
    match &settings.endpoint {
        _ if settings.accelerate => format!("https://{bucket}.s3-accelerate.amazonaws.com"),
        None if settings.virtual_hosted => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        None => format!("https://s3.{region}.amazonaws.com"),
        Some(endpoint) if settings.virtual_hosted => endpoint.replacen("://", &format!("://{bucket}."), 1),
        Some(endpoint) => endpoint.clone(),
    }
}

/// Makes the client that asks for keys: of AWS, not of the store, whose certificates may be its own.
fn keys_connector(
    sts: Option<&str>,
    config: &PullConfig,
    environment: &BTreeMap<String, String>,
) -> Result<Connector, SourceError> {
    let authorities = http::authorities(environment).map_err(SourceError::Invalid)?;
    Connector::new(&parse(sts.unwrap_or("https://sts.amazonaws.com"))?, true, authorities, config, environment)
}

pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// What the library's error says, without addresses and query strings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

impl Told {
    fn of(error: &object_store::Error) -> Self {
        let answer = Answer::of(error);
        if let (Some(code), message) = (answer.code, answer.message) {
            return Self(format!("{code}: {}", message.unwrap_or_default()));
        }
        // The innermost causes name what happened; the outer ones repeat the whole request.
        let chain: Vec<String> =
            reach::chain(error).skip(1).map(ToString::to_string).filter(|text| !text.contains("://")).collect();
        let last = chain.last().cloned().unwrap_or_else(|| "no details".to_owned());
        Self(last.chars().take(200).collect())
    }
}

/// What the store answered, as far as the library lets see.
#[derive(Default)]
struct Answer {
    code: Option<String>,
    message: Option<String>,
    status: Option<u16>,
    /// Whether it may be different next time.
    may_pass: bool,
}

impl Answer {
    fn of(error: &object_store::Error) -> Self {
        let texts: Vec<String> = reach::chain(error).map(ToString::to_string).collect();
        let between = |open: &str, close: &str| {
            texts.iter().find_map(|text| text.split_once(open)?.1.split_once(close).map(|(found, _)| found.to_owned()))
        };
        let status = between("non-2xx status code: ", " ").and_then(|code| code.parse::<u16>().ok());
        let connection = reach::cause::<HttpError>(error).is_some();
        let may_pass = match status {
            Some(status) => status >= 500 || matches!(status, 408 | 429),
            None => connection,
        };
        let brief = |text: String| text.chars().take(200).collect();
        Self {
            code: between("<Code>", "</Code>").map(brief),
            message: between("<Message>", "</Message>").map(brief),
            status,
            may_pass,
        }
    }
}
