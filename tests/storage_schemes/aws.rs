//! The user's own AWS profiles, against a server that gives roles, single sign-on and objects, and looks at every signature's
//! key; and what real stores say when keys have ended.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{any, get, post};

use super::stores::{Server, bytes, files, json};
use super::{Bench, weights};

/// Whose requests the store answers: key and session token.
#[derive(Clone)]
struct Store {
    key: &'static str,
    token: &'static str,
    refusal: (StatusCode, &'static str),
    object: Arc<Vec<u8>>,
}

fn xml(status: StatusCode, text: String) -> Response {
    Response::builder().status(status).header("content-type", "application/xml").body(Body::from(text)).unwrap()
}

fn signed_by(headers: &HeaderMap) -> String {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
    key.map_or_else(String::new, |(key, _)| key.to_owned())
}

async fn object(State(store): State<Store>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let token = headers.get("x-amz-security-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if signed_by(&headers) != store.key || token != store.token {
        let (status, code) = store.refusal;
        let text = if method == Method::HEAD { String::new() } else { refused(code) };
        return xml(status, text);
    }
    if uri.query().is_some_and(|query| query.contains("list-type")) {
        return xml(StatusCode::OK, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_owned());
    }
    let mut answer = bytes(&headers, &store.object);
    let headers = answer.headers_mut();
    headers.insert("etag", "\"v1\"".parse().unwrap());
    headers.insert("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT".parse().unwrap());
    if method == Method::HEAD {
        headers.insert("content-length", store.object.len().to_string().parse().unwrap());
    }
    answer
}

fn refused(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>The provided token has expired.</Message><Token-0>hush-hush</Token-0><RequestId>1</RequestId></Error>"
    )
}

/// Gives roles to whoever signs with a key it knows.
async fn sts(headers: HeaderMap, form: String) -> Response {
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let given = |key: &str| {
        xml(
            StatusCode::OK,
            format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>hush</SecretAccessKey><SessionToken>session+of/{key}==</SessionToken></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            ),
        )
    };
    match (get("Action"), get("RoleArn"), signed_by(&headers).as_str()) {
        ("AssumeRole", "arn:aws:iam::1:role/reader", "BASE") if get("ExternalId") == "42" => given("ROLE"),
        ("AssumeRole", "arn:aws:iam::2:role/far", "ROLE") if headers.contains_key("x-amz-security-token") => {
            given("FAR")
        }
        ("AssumeRoleWithWebIdentity", "arn:aws:iam::1:role/web", "") if get("WebIdentityToken") == "jwt" => {
            given("WEB")
        }
        (_, role, key) => xml(
            StatusCode::FORBIDDEN,
            format!(
                "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: {key} is not authorized to perform: sts:AssumeRole on resource: {role}</Message></Error></ErrorResponse>"
            ),
        ),
    }
}

async fn sign_on(Query(query): Query<std::collections::BTreeMap<String, String>>, headers: HeaderMap) -> Response {
    let token = headers.get("x-amz-sso_bearer_token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let keys = serde_json::json!({"roleCredentials": {"accessKeyId": "SSO", "secretAccessKey": "hush", "sessionToken": "session+of/SSO==", "expiration": 1}});
    match (token, query.get("role_name").map(String::as_str), query.get("account_id").map(String::as_str)) {
        ("signed-on", Some("Reader"), Some("123")) => json(StatusCode::OK, &keys),
        ("signed-on", ..) => json(StatusCode::FORBIDDEN, &serde_json::json!({"message": "No access"})),
        _ => json(StatusCode::UNAUTHORIZED, &serde_json::json!({"message": "Session token not found or invalid"})),
    }
}

async fn server(key: &'static str, token: &'static str, refusal: (StatusCode, &'static str)) -> (Server, Vec<u8>) {
    let object_bytes = weights(3 * (64 << 10) + 7, 51);
    let store = Store { key, token, refusal, object: Arc::new(object_bytes.clone()) };
    let router = Router::new()
        .route("/sts", post(sts))
        .route("/sso/federation/credentials", get(sign_on))
        .route("/{*key}", any(object))
        .with_state(store);
    (Server::start(router).await, object_bytes)
}

/// A home with AWS's files in it; `program` prints keys.
fn home(program: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str, mode: u32| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write(".aws/credentials", "[base]\naws_access_key_id = BASE\naws_secret_access_key = hush\n", 0o600);
    write("bin/print keys", &format!("#!/bin/sh\n{program}\n"), 0o755);
    write("token", "jwt\n", 0o600);
    let root = home.path().display();
    let config = format!(
        "[profile role]\nrole_arn = arn:aws:iam::1:role/reader\nsource_profile = base\nexternal_id = 42\n\
         [profile stranger]\nrole_arn = arn:aws:iam::1:role/reader\nsource_profile = base\n\
         [profile far]\nrole_arn = arn:aws:iam::2:role/far\nsource_profile = role\n\
         [profile web]\nrole_arn = arn:aws:iam::1:role/web\nweb_identity_token_file = {root}/token\n\
         [profile program]\ncredential_process = '{root}/bin/print keys' --for \"me\"\n\
         [profile sso]\nsso_session = company\nsso_account_id = 123\nsso_role_name = Reader\n\
         [profile other]\nsso_session = company\nsso_account_id = 123\nsso_role_name = Writer\n\
         [profile off]\nsso_start_url = https://off.awsapps.com/start\nsso_region = us-east-1\nsso_account_id = 123\nsso_role_name = Reader\n\
         [sso-session company]\nsso_start_url = https://company.awsapps.com/start\nsso_region = us-east-1\n"
    );
    write(".aws/config", &config, 0o600);
    use sha1::{Digest, Sha1};
    let name: String = Sha1::digest(b"company").iter().map(|byte| format!("{byte:02x}")).collect();
    write(
        &format!(".aws/sso/cache/{name}.json"),
        "{\"accessToken\": \"signed-on\", \"expiresAt\": \"2026-11-23T00:00:00Z\"}",
        0o600,
    );
    home
}

fn bench(home: &Path, server: &Server, profile: &str) -> Bench {
    let url = server.url();
    Bench::new(&[
        ("HOME", home.to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
        ("AWS_PROFILE", profile),
        ("AWS_ENDPOINT_URL_S3", &url),
        ("AWS_ENDPOINT_URL_STS", &format!("{url}/sts")),
        ("AWS_ENDPOINT_URL_SSO", &format!("{url}/sso")),
    ])
}

const DENIED: (StatusCode, &str) = (StatusCode::FORBIDDEN, "AccessDenied");
const KEYS: &str = "echo '{\"Version\": 1, \"AccessKeyId\": \"PROGRAM\", \"SecretAccessKey\": \"hush\", \"SessionToken\": \"session+of/PROGRAM==\"}'";

#[tokio::test]
async fn profiles_with_roles_single_sign_on_web_identity_and_programs_get_their_keys() {
    for (profile, key, token) in [
        ("base", "BASE", ""),
        ("role", "ROLE", "session+of/ROLE=="),
        ("far", "FAR", "session+of/FAR=="),
        ("web", "WEB", "session+of/WEB=="),
        ("sso", "SSO", "session+of/SSO=="),
        ("program", "PROGRAM", "session+of/PROGRAM=="),
    ] {
        let (server, object) = server(key, token, DENIED).await;
        let home = home(KEYS);
        let got = bench(home.path(), &server, profile).files("s3://bucket/weights.bin").await;
        assert_eq!(got, files(&[("weights.bin", &object)]), "{profile}");
        let asked = server.seen().iter().filter(|seen| seen.target.starts_with("/s")).count();
        assert!(asked <= 2, "{profile}: keys are asked for once, not for every range: {asked}");
    }
}

#[tokio::test]
async fn a_profile_that_gets_no_keys_says_why_and_what_to_do() {
    let (server, _) = server("NOBODY", "", DENIED).await;
    for (profile, program, expected) in [
        (
            "stranger",
            KEYS,
            "role arn:aws:iam::1:role/reader cannot be taken on. STS said AccessDenied: User: BASE is not authorized",
        ),
        ("other", KEYS, "profile `other` may not have it"),
        ("off", KEYS, "Run `aws sso login --profile off`"),
        (
            "program",
            "echo 'no session' >&2; exit 2",
            "the credential_process of profile `program` failed (exit status: 2): no session",
        ),
        ("program", "echo 'hush'", "did not print keys as JSON"),
        (
            "program",
            "echo '{\"Version\": 2, \"AccessKeyId\": \"x\", \"SecretAccessKey\": \"hush\"}'",
            "printed version 2",
        ),
        ("base", KEYS, "Access denied to S3 resource"),
    ] {
        let home = home(program);
        let said = bench(home.path(), &server, profile).refused("s3://bucket/weights.bin").await;
        assert!(said.contains(expected), "{profile}: {said}");
    }
}

#[tokio::test]
async fn keys_that_have_ended_or_are_wrong_are_told_once_in_the_stores_words() {
    for (status, code, expected) in [
        (StatusCode::BAD_REQUEST, "ExpiredToken", "Invalid AWS credentials. S3 said ExpiredToken."),
        (StatusCode::FORBIDDEN, "ExpiredToken", "Invalid AWS credentials. S3 said ExpiredToken."),
        (StatusCode::FORBIDDEN, "InvalidAccessKeyId", "Invalid AWS credentials. S3 said InvalidAccessKeyId."),
        (StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "Invalid AWS credentials. S3 said SignatureDoesNotMatch."),
        (StatusCode::BAD_REQUEST, "InvalidToken", "Invalid AWS credentials. S3 said InvalidToken."),
        (StatusCode::FORBIDDEN, "RequestTimeTooSkewed", "the clock"),
        (StatusCode::FORBIDDEN, "AccessDenied", "Access denied to S3 resource"),
    ] {
        let (server, _) = server("SOMEONE", "", (status, code)).await;
        let home = home(KEYS);
        let said = bench(home.path(), &server, "base").refused("s3://bucket/weights.bin").await;
        assert!(said.contains(expected), "{code}: {said}");
        assert!(server.seen().len() <= 2, "{code}: {:?}", server.seen().len());
    }
}
