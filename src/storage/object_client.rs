//! The HTTP client that object_store works with: places are judged, checksums asked for, and what answers state is kept.
//!
//! S3 states the additional checksums of an object only when `x-amz-checksum-mode` asks for them. The library cannot be
//! told to, so the header is added here and the request is signed again. An object that came in parts may state a
//! checksum of its parts' checksums; how large the parts are is asked for then.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, IF_MATCH, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpService,
};
use url::Url;

use super::digest::Composite;
use super::pull::PullConfig;
use super::reach::{self, ClientWish, ReachPolicy};
use super::{SourceError, StatedDigest, digest};

const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");

/// Gives the library our client, whatever options it asks for.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: reqwest::Client,
    policy: ReachPolicy,
    s3: Option<S3>,
}

/// What is needed to ask S3 for more than the library does.
#[derive(Clone, Debug)]
struct S3 {
    region: String,
    credentials: Arc<OnceLock<AwsCredentialProvider>>,
}

impl Connector {
    pub(super) fn new(
        url: &Url,
        verify_tls: bool,
        authorities: Option<Vec<u8>>,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let wish =
            ClientWish { url, follow: true, verify_tls, authorities, identity: None, stall: config.stall_timeout };
        let client = reach::client(&config.reach, wish, environment)
            .map_err(|error| SourceError::Invalid(format!("`{url}` cannot be reached: {error}")))?;
        Ok(Self { client, policy: config.reach.clone(), s3: None })
    }

    /// Asks for checksums as S3 wants it.
    pub(super) fn for_s3(self, region: &str) -> Self {
        Self { s3: Some(S3 { region: region.to_owned(), credentials: Arc::default() }), ..self }
    }

    /// Signs what is added to requests with these credentials, here and in every clone. The first call counts.
    pub(super) fn sign_as(&self, credentials: &AwsCredentialProvider) {
        if let Some(s3) = &self.s3 {
            s3.credentials.get_or_init(|| Arc::clone(credentials));
        }
    }

    /// Asks for an object's checksums as well; says whether this is a request for an object.
    async fn with_checksums(&self, request: &mut HttpRequest) -> Result<bool, HttpError> {
        let Some(s3) = &self.s3 else { return Ok(false) };
        let lists = request.uri().query().is_some_and(|query| query.contains("list-type="));
        if lists || !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(false);
        }
        request.headers_mut().insert(CHECKSUM_MODE, HeaderValue::from_static("ENABLED"));
        if request.headers().contains_key(AUTHORIZATION) {
            s3.sign(request).await?;
        }
        Ok(true)
    }

    /// Asks how large the parts are that a composite checksum is of. None when nobody can say: such a checksum cannot be
    /// checked.
    async fn parted(&self, composite: Composite, asked: &Asked, answer: &HeaderMap) -> Option<StatedDigest> {
        let whole = number(answer, CONTENT_LENGTH)?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = format!("{}?partNumber=1", asked.uri).parse().ok()?;
        request.headers_mut().insert(IF_MATCH, answer.get(ETAG)?.clone());
        if asked.signed {
            self.s3.as_ref()?.sign(&mut request).await.ok()?;
        }
        let part = HttpService::call(&self.client, request).await.ok()?;
        let parts = number(part.headers(), HeaderName::from_static("x-amz-mp-parts-count"));
        let part = part.status().is_success().then(|| number(part.headers(), CONTENT_LENGTH))??;
        composite.of_parts(part, parts, whole)
    }
}

impl S3 {
    async fn sign(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let failed = |error| HttpError::new(HttpErrorKind::Request, error);
        let Some(credentials) = self.credentials.get() else { return Ok(()) };
        let credential = credentials.get_credential().await.map_err(failed)?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(request, None).map_err(failed)
    }
}

/// What is needed to ask again about the same object.
struct Asked {
    uri: String,
    signed: bool,
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url =
            Url::parse(&request.uri().to_string()).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        self.policy.check(&url).map_err(|refused| HttpError::new(HttpErrorKind::Unknown, refused))?;
        let ranged = request.headers().contains_key(RANGE);
        let for_object = self.with_checksums(&mut request).await?;
        let asked = Asked { uri: request.uri().to_string(), signed: request.headers().contains_key(AUTHORIZATION) };
        let mut response = HttpService::call(&self.client, request).await?;
        if response.status().is_redirection() && !response.headers().contains_key(LOCATION) {
            let region = response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
            return Err(HttpError::new(HttpErrorKind::Unknown, OtherRegion(region.map(str::to_owned))));
        }
        if ranged && response.status() == StatusCode::OK {
            return Err(HttpError::new(HttpErrorKind::Decode, NotRanged));
        }
        let mut stated = digest::from_headers(response.headers());
        stated.extend(digest::etag_md5(response.headers()));
        if for_object
            && !ranged
            && response.status().is_success()
            && let Some(composite) = Composite::from_headers(response.headers())
        {
            stated.extend(self.parted(composite, &asked, response.headers()).await);
        }
        response.extensions_mut().insert(Stated(stated));
        Ok(response)
    }
}

/// What an answer states about the object.
#[derive(Clone)]
pub(super) struct Stated(pub(super) Vec<StatedDigest>);

/// A redirect without an address: S3's way to say so.
#[derive(Debug, thiserror::Error)]
#[error("is in {}; set AWS_REGION to it", .0.as_deref().unwrap_or("another region"))]
pub(super) struct OtherRegion(Option<String>);

/// The whole came where a range was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the whole object came where a range was asked for")]
pub(super) struct NotRanged;
