//! What the environment says about S3 and GCS: credentials, endpoints, regions (§3.3).
//!
//! The same variables and files the clouds' own tools read, with two differences: nothing is asked of metadata services
//! (promise D13), and with no credentials at all access is anonymous, as upstream's samples in public buckets need.
//!
//! Values come from the map the caller read once; only the files that the map names are read here.

use std::collections::BTreeMap;
use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};

use super::SourceError;
use super::credentials_aws::{AwsKeys, AwsSource, Profile, SharedFiles};

type Environment = BTreeMap<String, String>;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Who we are to S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum S3Identity {
    Anonymous,
    Keys(AwsKeys),
    /// Keys that have to be fetched.
    Source(AwsSource),
}

/// How S3 is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct S3Settings {
    pub(super) identity: S3Identity,
    pub(super) region: String,
    /// Without the bucket; none for AWS itself.
    pub(super) endpoint: Option<String>,
    /// Whether the bucket is part of the host name.
    pub(super) virtual_hosted: bool,
    pub(super) accelerate: bool,
    pub(super) verify_tls: bool,
    pub(super) ca_bundle: Option<String>,
    /// Where roles are given, when not at AWS.
    pub(super) sts: Option<String>,
    /// Where single sign-on is, when not at AWS.
    pub(super) sign_on: Option<String>,
}

/// Who we are to GCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GcsIdentity {
    Anonymous,
    /// A service account's key or a user's credentials.
    File(Utf8PathBuf),
    /// Credentials that stand for someone else, and that `gcloud` exchanges for a token.
    Exchanged {
        file: Utf8PathBuf,
        /// Their `type`.
        kind: String,
    },
}

impl GcsIdentity {
    /// Looks at what kind of credentials a file has. Blocking.
    fn of(file: Utf8PathBuf) -> Self {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let kind = serde_json::from_str::<serde_json::Value>(&text).ok();
        let kind = kind.and_then(|credentials| credentials["type"].as_str().map(str::to_owned));
        match kind.as_deref() {
            Some("impersonated_service_account" | "external_account" | "external_account_authorized_user") => {
                Self::Exchanged { file, kind: kind.unwrap_or_default() }
            }
            // The library says what is wrong with others.
            _ => Self::File(file),
        }
    }
}

/// How GCS is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GcsSettings {
    pub(super) identity: GcsIdentity,
    /// Where the API is, when not at Google.
    pub(super) endpoint: Option<String>,
}

/// Reads the S3 settings for a bucket. Blocking: reads the shared credentials and config files.
pub(super) fn s3(environment: &Environment, bucket: &str) -> Result<S3Settings, SourceError> {
    let get = |name: &str| set(environment, name);
    let files = SharedFiles::read(environment);
    let profile = files.asked(environment)?;
    let identity = s3_identity(environment, &files, &profile)?;
    let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")).or_else(|| profile.get("region"));
    let endpoint = get("AWS_ENDPOINT_URL_S3")
        .or_else(|| get("AWS_ENDPOINT_URL"))
        .or_else(|| legacy_endpoint(environment))
        .or_else(|| profile.get("endpoint_url"))
        .map(|endpoint| endpoint.trim_end_matches('/').to_owned())
        // The public endpoint, as upstream's manifests write it, is no endpoint of one's own.
        .filter(|endpoint| endpoint != "https://s3.amazonaws.com");
    let asked = is_true(get("S3_USER_VIRTUAL_BUCKET")) || is_true(get("S3_USE_VIRTUAL_BUCKET"));
    Ok(S3Settings {
        identity,
        region: region.unwrap_or_else(|| "us-east-1".to_owned()),
        // A bucket name with a dot does not fit AWS's wildcard certificate.
        virtual_hosted: asked || (endpoint.is_none() && !bucket.contains('.')),
        accelerate: is_true(get("S3_USE_ACCELERATE")) && endpoint.is_none(),
        endpoint,
        verify_tls: !get("S3_VERIFY_SSL").is_some_and(|value| matches!(value.to_lowercase().as_str(), "0" | "false")),
        ca_bundle: get("AWS_CA_BUNDLE").or_else(|| profile.get("ca_bundle")),
        sts: get("AWS_ENDPOINT_URL_STS"),
        sign_on: get("AWS_ENDPOINT_URL_SSO"),
    })
}

fn s3_identity(environment: &Environment, files: &SharedFiles, profile: &Profile) -> Result<S3Identity, SourceError> {
    let get = |name: &str| set(environment, name);
    if is_true(get("awsAnonymousCredential")) {
        return Ok(S3Identity::Anonymous);
    }
    let half = |what: &str| Err(SourceError::Denied(format!("Invalid AWS credentials: {what} is missing")));
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let token = get("AWS_SESSION_TOKEN").map(Secret);
            return Ok(S3Identity::Keys(AwsKeys { id, secret: Secret(secret), token }));
        }
        (Some(_), None) => return half("AWS_SECRET_ACCESS_KEY"),
        (None, Some(_)) => return half("AWS_ACCESS_KEY_ID"),
        (None, None) => {}
    }
    if let (Some(token_file), Some(role)) = (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN")) {
        let session = get("AWS_ROLE_SESSION_NAME");
        return Ok(S3Identity::Source(AwsSource::WebIdentity { role, token_file, session }));
    }
    Ok(match files.source(profile, environment)? {
        None => S3Identity::Anonymous,
        Some(AwsSource::Keys(keys)) => S3Identity::Keys(keys),
        Some(source) => S3Identity::Source(source),
    })
}

fn legacy_endpoint(environment: &Environment) -> Option<String> {
    let endpoint = set(environment, "S3_ENDPOINT")?;
    let scheme = if set(environment, "S3_USE_HTTPS").as_deref() == Some("0") { "http" } else { "https" };
    Some(if endpoint.contains("://") { endpoint } else { format!("{scheme}://{endpoint}") })
}

/// Reads the GCS settings. Blocking: looks for the application-default file.
pub(super) fn gcs(environment: &Environment) -> Result<GcsSettings, SourceError> {
    let get = |name: &str| set(environment, name);
    if let Some(host) = get("STORAGE_EMULATOR_HOST") {
        let host = if host.contains("://") { host } else { format!("http://{host}") };
        let endpoint = Some(host.trim_end_matches('/').to_owned());
        return Ok(GcsSettings { identity: GcsIdentity::Anonymous, endpoint });
    }
    let identity = match get("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) if Utf8Path::new(&path).is_file() => GcsIdentity::of(path.into()),
        Some(path) => {
            return Err(SourceError::Denied(format!(
                "GCS authentication failed. Credentials file {path} is not there."
            )));
        }
        None => application_default(environment).map_or(GcsIdentity::Anonymous, GcsIdentity::of),
    };
    Ok(GcsSettings { identity, endpoint: None })
}

fn application_default(environment: &Environment) -> Option<Utf8PathBuf> {
    let folder = match set(environment, "CLOUDSDK_CONFIG") {
        Some(folder) => Utf8PathBuf::from(folder),
        None => Utf8PathBuf::from(set(environment, "HOME")?).join(".config/gcloud"),
    };
    Some(folder.join("application_default_credentials.json")).filter(|path| path.is_file())
}

fn set(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).cloned()
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn keys(id: &str, secret: &str, token: Option<&str>) -> S3Identity {
        let token = token.map(|token| Secret(token.to_owned()));
        S3Identity::Keys(AwsKeys { id: id.to_owned(), secret: Secret(secret.to_owned()), token })
    }

    #[test]
    fn s3_credentials_are_found_where_the_aws_tools_find_them() {
        let home = tempfile::tempdir().unwrap();
        let aws = home.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        let credentials = "[default]\naws_access_key_id = D\naws_secret_access_key=DS\n\n[dev]\naws_access_key_id=V\naws_secret_access_key=VS\naws_session_token=VT\n";
        std::fs::write(aws.join("credentials"), credentials).unwrap();
        let config = "[default]\nregion = eu-west-1\n[profile dev]\nregion=eu-north-1\ns3 =\n  addressing_style = path\nendpoint_url = http://dev:9000/\n[profile sso]\nsso_session = x\n";
        std::fs::write(aws.join("config"), config).unwrap();
        let home = home.path().to_str().unwrap();

        let none = s3(&environment(&[("HOME", "/nonexistent")]), "b").unwrap();
        assert_eq!((none.identity, none.region.as_str(), none.endpoint), (S3Identity::Anonymous, "us-east-1", None));
        let default = s3(&environment(&[("HOME", home)]), "b").unwrap();
        assert_eq!((default.identity, default.region.as_str()), (keys("D", "DS", None), "eu-west-1"));
        let dev = s3(&environment(&[("HOME", home), ("AWS_PROFILE", "dev")]), "b").unwrap();
        assert_eq!((dev.identity, dev.region.as_str()), (keys("V", "VS", Some("VT")), "eu-north-1"));
        assert_eq!(dev.endpoint.as_deref(), Some("http://dev:9000"));
        let own = [("HOME", home), ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "ES"), ("AWS_REGION", "r")];
        let own = s3(&environment(&own), "b").unwrap();
        assert_eq!((own.identity, own.region.as_str()), (keys("E", "ES", None), "r"));
        let anonymous = s3(&environment(&[("HOME", home), ("awsAnonymousCredential", "True")]), "b").unwrap();
        assert_eq!(anonymous.identity, S3Identity::Anonymous);

        let refused = [
            (environment(&[("AWS_PROFILE", "gone"), ("HOME", home)]), "there is no profile `gone`"),
            (environment(&[("AWS_PROFILE", "sso"), ("HOME", home)]), "names the sso-session `x`, which is not there"),
            (environment(&[("AWS_ACCESS_KEY_ID", "x")]), "AWS_SECRET_ACCESS_KEY is missing"),
        ];
        for (environment, problem) in refused {
            let error = s3(&environment, "b").unwrap_err().to_string();
            assert!(error.contains("Invalid AWS credentials") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn s3_endpoints_and_addressing_follow_upstreams_variables() {
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>, bool);
        let table: [Row<'_>; 8] = [
            (&[], "b", None, true),
            (&[], "b.c", None, false),
            (&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")], "b", Some("http://127.0.0.1:9000"), false),
            (&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://s3")], "b", Some("http://s3"), false),
            (&[("AWS_ENDPOINT_URL", "http://a"), ("S3_USER_VIRTUAL_BUCKET", "true")], "b", Some("http://a"), true),
            (&[("AWS_ENDPOINT_URL", "https://s3.amazonaws.com")], "b", None, true),
            (&[("S3_ENDPOINT", "minio:9000"), ("S3_USE_HTTPS", "0")], "b", Some("http://minio:9000"), false),
            (&[("S3_ENDPOINT", "minio:9000")], "b", Some("https://minio:9000"), false),
        ];
        for (pairs, bucket, endpoint, virtual_hosted) in table {
            let settings = s3(&environment(pairs), bucket).unwrap();
            assert_eq!(
                (settings.endpoint.as_deref(), settings.virtual_hosted),
                (endpoint, virtual_hosted),
                "{pairs:?}"
            );
        }
        assert!(!s3(&environment(&[("S3_VERIFY_SSL", "0")]), "b").unwrap().verify_tls);
        assert!(s3(&environment(&[("S3_VERIFY_SSL", "1")]), "b").unwrap().verify_tls);
    }

    #[test]
    fn gcs_credentials_are_a_file_or_nobody() {
        let home = tempfile::tempdir().unwrap();
        let gcloud = home.path().join(".config/gcloud");
        std::fs::create_dir_all(&gcloud).unwrap();
        let path = Utf8PathBuf::from_path_buf(home.path().to_owned()).unwrap();
        let home = path.as_str();
        let file = path.join(".config/gcloud/application_default_credentials.json");
        let anonymous = GcsSettings { identity: GcsIdentity::Anonymous, endpoint: None };
        assert_eq!(gcs(&environment(&[("HOME", home)])).unwrap(), anonymous);
        std::fs::write(&file, "{}").unwrap();
        let found = GcsSettings { identity: GcsIdentity::File(file.clone()), endpoint: None };
        assert_eq!(gcs(&environment(&[("HOME", home)])).unwrap(), found);
        assert_eq!(gcs(&environment(&[("GOOGLE_APPLICATION_CREDENTIALS", file.as_str())])).unwrap(), found);
        assert!(gcs(&environment(&[("GOOGLE_APPLICATION_CREDENTIALS", "/gone.json")])).is_err());
        std::fs::write(&file, r#"{"type": "impersonated_service_account"}"#).unwrap();
        let exchanged = gcs(&environment(&[("HOME", home)])).unwrap().identity;
        assert!(matches!(&exchanged, GcsIdentity::Exchanged { kind, .. } if kind == "impersonated_service_account"));
        let emulator = gcs(&environment(&[("HOME", home), ("STORAGE_EMULATOR_HOST", "localhost:9023")])).unwrap();
        assert_eq!(emulator.endpoint.as_deref(), Some("http://localhost:9023"));
        assert_eq!(emulator.identity, GcsIdentity::Anonymous);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let shown = format!("{:?}", keys("id", "hush", Some("hush")));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
