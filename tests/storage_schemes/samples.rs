//! Upstream's storage samples, as they are written, from manifest to model: resolved with the objects they bring, and fetched
//! from servers that stand in for the places they name.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::any;
use kserve_local::api::{Kind, Object};
use kserve_local::manifest;
use kserve_local::runtimes::Catalog;
use kserve_local::workload::{Companions, ModelRef, Patterns, WorkloadConfig, resolve};

use super::emulators::skip;
use super::stores::hub::{Hub, Repositories};
use super::stores::registry::{Registry, image};
use super::stores::{Server, bytes, files};
use super::{Bench, tree};

/// Reads a sample; none when upstream's manifests are not at hand.
fn sample(test: &str, path: &str) -> Option<String> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/kserve-upstream");
    let folder = std::env::var_os("KSERVE_UPSTREAM_DIR").map_or(beside, PathBuf::from);
    let read = std::fs::read_to_string(folder.join("samples/storage").join(path));
    if read.is_err() {
        skip(test, "upstream's manifests are not at hand (set KSERVE_UPSTREAM_DIR)");
    }
    read.ok()
}

fn model(texts: &[&str], config: &WorkloadConfig) -> ModelRef {
    let mut objects: Vec<Object> = Vec::new();
    for text in texts {
        let decoded = manifest::decode("sample.yaml", text);
        assert!(decoded.failed.is_empty(), "{:#?}", decoded.diagnostics);
        objects.extend(decoded.objects.into_iter().map(|found| found.object));
    }
    let service = objects.iter().find(|object| object.key.kind == Kind::InferenceService).unwrap();
    let resolved = resolve(service, &Catalog::new(&objects), &Companions::new(&objects), config);
    resolved.unwrap_or_else(|error| panic!("{error}")).remove(0).models.remove(0)
}

async fn fetched(bench: &Bench, model: &ModelRef) -> super::stores::Files {
    let pulled = bench.pull_model(model).await;
    tree(&pulled.unwrap_or_else(|error| panic!("{}: {}", model.written, super::told(&error))).path)
}

/// GitHub as far as the samples see it, and a bucket with one key.
async fn site(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let octets = |body: &[u8]| {
        let mut answer = bytes(&headers, body);
        answer.headers_mut().insert("etag", "\"1\"".parse().unwrap());
        answer.headers_mut().insert("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT".parse().unwrap());
        if method == Method::HEAD {
            answer.headers_mut().insert("content-length", body.len().into());
        }
        answer
    };
    match (uri.path(), uri.query()) {
        ("/tduffy000/kfserving-uri-examples/blob/master/sklearn/frozen/model.joblib", Some("raw=true")) => {
            let to = "/tduffy000/kfserving-uri-examples/raw/master/sklearn/frozen/model.joblib";
            Response::builder().status(StatusCode::FOUND).header("location", to).body(Body::empty()).unwrap()
        }
        ("/tduffy000/kfserving-uri-examples/raw/master/sklearn/frozen/model.joblib", None) => octets(b"joblib"),
        ("/tduffy000/kfserving-uri-examples/master/tensorflow/frozen/model_artifacts.tar.gz", None) => {
            let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            archive.append_data(&mut header, "0001/saved_model.pb", &b"pb"[..]).unwrap();
            let packed = archive.into_inner().unwrap().finish().unwrap();
            let mut answer = octets(&packed);
            answer.headers_mut().insert("content-type", "application/x-gzip".parse().unwrap());
            answer
        }
        ("/kfserving-examples/mnist" | "/example-models/sklearn", None) => {
            let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
            if authorization.contains("Credential=minio/") { octets(b"model") } else { refused(StatusCode::FORBIDDEN) }
        }
        _ => refused(StatusCode::NOT_FOUND),
    }
}

fn refused(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn upstreams_storage_samples_are_fetched() {
    const TEST: &str = "upstreams_storage_samples_are_fetched";
    let config = WorkloadConfig::default();
    let server = Server::start(Router::new().route("/{*path}", any(site))).await;
    let at = |text: &str, place: &str| text.replace(place, &server.url());
    let (bench, address) = (Bench::new(&[]), server.address.to_string());

    let Some(text) = sample(TEST, "uri/sklearn.yaml") else { return };
    let expected =
        "https://github.com/tduffy000/kfserving-uri-examples/blob/master/sklearn/frozen/model.joblib?raw=true";
    assert_eq!(model(&[&text], &config).uri.to_string(), expected);
    let got = fetched(&bench, &model(&[&at(&text, "https://github.com")], &config)).await;
    assert_eq!(got, files(&[("model.joblib", b"joblib")]));

    let Some(text) = sample(TEST, "uri/tensorflow.yaml") else { return };
    let got = fetched(&bench, &model(&[&at(&text, "https://raw.githubusercontent.com")], &config)).await;
    assert_eq!(got, files(&[("0001/saved_model.pb", b"pb")]), "an archive is unpacked");

    // "replace with your s3 endpoint", the sample says.
    let (Some(text), Some(secret)) = (sample(TEST, "s3/tensorflow_s3.yaml"), sample(TEST, "s3/s3_secret.yaml")) else {
        return;
    };
    let found = model(&[&text, &secret], &config);
    assert_eq!(found.access.origins, ["Secret default/mysecret"]);
    assert_eq!(found.access.variables["AWS_DEFAULT_REGION"], "us-east-2");
    let secret = secret.replace("s3.amazonaws.com", &address).replace("s3-usehttps: \"1\"", "s3-usehttps: \"0\"");
    assert_eq!(fetched(&bench, &model(&[&text, &secret], &config)).await, files(&[("mnist", b"model")]));

    let Some(text) = sample(TEST, "storageSpec/sklearn_storagespec.yaml") else { return };
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage-config"},
        "stringData": {"localMinIO": serde_json::json!({
            "type": "s3", "access_key_id": "minio", "secret_access_key": "minio123",
            "endpoint_url": server.url(), "bucket": "mlpipeline", "region": "us-south",
        }).to_string()},
    });
    assert_eq!(fetched(&bench, &model(&[&text, &secret.to_string()], &config)).await, files(&[("sklearn", b"model")]));

    let Some(text) = sample(TEST, "oci-fetch/inference_service.yaml") else { return };
    let layer = {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(6);
        header.set_mode(0o644);
        archive.append_data(&mut header, "models/model.joblib", &b"joblib"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let registry = Registry::start(vec![("kliukovkin/kserve-oci-test-fixture", image(&[layer]))]).await;
    let mut found = model(&[&text.replace("ghcr.io", &registry.server.address.to_string())], &config);
    found.access.registries = vec![registry.login()];
    assert_eq!(fetched(&bench, &found).await, files(&[("model.joblib", b"joblib")]));

    let Some(text) = sample(TEST, "oci-image-volume/inference_service.yaml") else { return };
    assert_eq!(model(&[&text], &config).uri.to_string(), "oci+native://ghcr.io/my-org/my-sklearn-model:v1");
}

/// A hub with a model of several files.
async fn hub() -> Hub {
    let model = files(&[("config.json", b"{}"), ("model.safetensors", b"s"), ("original/model.pth", b"p")]);
    Hub::start(Repositories {
        revisions: vec![("meta-llama/Llama-2-7b-chat-hf", "main", "c0ffee")],
        commits: vec![("c0ffee", model)],
        token: "hush-hush",
    })
    .await
}

#[tokio::test]
async fn upstreams_sample_of_hugging_face_takes_the_token_of_its_account_and_patterns_leave_files_out() {
    const TEST: &str = "upstreams_sample_of_hugging_face_takes_the_token_of_its_account_and_patterns_leave_files_out";
    let Some(text) = sample(TEST, "hf/hf_isvc.yaml") else { return };
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: hfserviceacc}\nsecrets: [{name: hf}]\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: hf}\nstringData: {HF_TOKEN: hush-hush}\n";
    let hub = hub().await;
    let bench = Bench::new(&[("HF_ENDPOINT", &hub.server.url())]);
    let whole = model(&[&text, account], &WorkloadConfig::default());
    let expected = files(&[("config.json", b"{}"), ("model.safetensors", b"s"), ("original/model.pth", b"p")]);
    assert_eq!(fetched(&bench, &whole).await, expected);
    let asked_as = |seen: &super::stores::Seen| seen.header("authorization") == Some("Bearer hush-hush");
    assert!(hub.server.seen().iter().any(asked_as), "the token of the account is used");

    let patterns = Patterns { allow: Vec::new(), ignore: vec!["original/*".to_owned(), "*.bin".to_owned()] };
    let part = model(&[&text, account], &WorkloadConfig { patterns, ..WorkloadConfig::default() });
    assert_ne!(part.uri, whole.uri, "a part is another model");
    assert_eq!(fetched(&bench, &part).await, files(&[("config.json", b"{}"), ("model.safetensors", b"s")]));
    let nothing = Patterns { allow: vec!["*.onnx".to_owned()], ignore: Vec::new() };
    let nothing = model(&[&text, account], &WorkloadConfig { patterns: nothing, ..WorkloadConfig::default() });
    let error = bench.pull_model(&nothing).await.unwrap_err();
    assert!(super::told(&error).contains("leave no file of it") && !error.is_transient(), "{}", super::told(&error));
}

#[tokio::test]
async fn a_container_that_stands_for_kserve_local_gives_it_credentials_patterns_and_certificates() {
    let hub = hub().await;
    let bench = Bench::new(&[]);
    let container = |env: &str| {
        format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterStorageContainer\nmetadata: {{name: default}}\nspec:\n  container:\n    name: storage-initializer\n    image: kserve/storage-initializer:v0.20.0\n    env: [{{name: HF_ENDPOINT, value: '{}'}}, {{name: HF_TOKEN, valueFrom: {{secretKeyRef: {{name: hf, key: token}}}}}}, {env}]\n  supportedUriFormats: [{{prefix: 'hf://'}}]\n  workloadType: initContainer\n",
            hub.server.url()
        )
    };
    let service = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: llama}\nspec: {predictor: {model: {modelFormat: {name: huggingface}, storageUri: 'hf://meta-llama/Llama-2-7b-chat-hf'}}}\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: hf}\nstringData: {token: hush-hush}\n";
    let config = WorkloadConfig::default();
    let patterns = container(
        "{name: STORAGE_ALLOW_PATTERNS, value: '[\"*.json\"]'}, {name: GOOGLE_APPLICATION_CREDENTIALS, value: /etc/shadow}",
    );
    let found = model(&[service, secret, &patterns], &config);
    assert!(found.access.downloader.is_none(), "nothing is run");
    assert!(!found.access.variables.contains_key("GOOGLE_APPLICATION_CREDENTIALS"), "it names a file of this machine");
    assert_eq!(fetched(&bench, &found).await, files(&[("config.json", b"{}")]));

    let bundle = container("{name: CA_BUNDLE_CONFIGMAP_NAME, value: company-ca}");
    let map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: company-ca, namespace: kserve}\ndata: {cabundle.crt: PEM}\n";
    let found = model(&[service, secret, &bundle, map], &config);
    let path = &found.access.variables["SSL_CERT_FILE"];
    assert_eq!(found.access.files[path], b"PEM");
}
