//! The API over real sockets: who may ask, reading, writing, watching, logs.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "support/api.rs"]
mod support;

use std::fmt::Write as _;

use kserve_local::api::{Kind, ObjectKey};
use kserve_local::plan::pods::ContainerViewState;
use kserve_local::telemetry::EventType;
use reqwest::Method;
use serde_json::{Value, json};
use support::{Api, ISVC, TABLE, born, isvc, pod};

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

// ── who may ask ──

#[tokio::test]
async fn health_metrics_and_version_need_no_token_and_everything_else_does() {
    let api = Api::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/metrics", "/version"] {
        assert_eq!(api.anonymous(path).send().await.unwrap().status(), 200, "{path}");
    }
    for path in ["/", "/api", "/apis", ISVC, "/apis/kserve-local/v1/problems", "/nothing"] {
        let answer = api.send(api.anonymous(path)).await;
        assert_eq!(reason(&answer), (401, "Unauthorized"), "{path}");
        let answer = api.send(api.anonymous(path).bearer_auth("wrong")).await;
        assert_eq!(reason(&answer), (401, "Unauthorized"), "{path}");
    }
    assert_eq!(reason(&api.get("/nothing").await), (404, "NotFound"));
}

#[tokio::test]
async fn a_browser_on_another_site_is_refused_even_with_the_token() {
    let api = Api::start().await;
    for (header, value) in
        [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")]
    {
        let answer = api.send(api.request(Method::GET, ISVC).header(header, value)).await;
        assert_eq!(reason(&answer), (403, "Forbidden"), "{header}");
        let health = api.send(api.anonymous("/healthz").header(header, value)).await;
        assert_eq!(health.0, 403, "{header}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_of_another_type_is_refused() {
    let api = Api::start().await;
    let huge = "x".repeat((3 << 20) + 1);
    let request = api.request(Method::POST, ISVC).header("content-type", "application/json").body(huge);
    assert_eq!(reason(&api.send(request).await), (413, "RequestEntityTooLarge"));
    let request =
        api.request(Method::POST, ISVC).header("content-type", "application/vnd.kubernetes.protobuf").body("k8s");
    assert_eq!(reason(&api.send(request).await), (400, "BadRequest"));
    let request = api.request(Method::POST, ISVC).header("content-type", "application/cbor").body("k8s");
    assert_eq!(reason(&api.send(request).await), (415, "UnsupportedMediaType"));
    let request = api.request(Method::POST, ISVC).header("content-type", "application/json").body("{");
    assert_eq!(reason(&api.send(request).await), (400, "BadRequest"));
}

// ── reading ──

#[tokio::test]
async fn discovery_says_what_is_served() {
    let api = Api::start().await;
    let mut documents = serde_json::Map::new();
    for path in ["/apis", "/apis/serving.kserve.io", "/apis/serving.kserve.io/v1beta1", "/api/v1"] {
        documents.insert(path.to_owned(), api.get(path).await.1);
    }
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let response = api.request(Method::GET, "/apis").header("accept", aggregated).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], aggregated);
    documents.insert("/apis aggregated".to_owned(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap());
    insta::assert_yaml_snapshot!(documents);
    assert_eq!(api.get("/apis/batch/v1").await.0, 404);
}

#[tokio::test]
async fn lists_are_filtered_by_namespace_label_and_field() {
    let api = Api::start().await;
    api.namespace("team").await;
    for (name, namespace, label) in [("a", "default", "x"), ("b", "default", "y"), ("c", "team", "x")] {
        let mut body = isvc(name);
        body["metadata"]["labels"] = json!({"team": label});
        assert_eq!(api.post(&ISVC.replace("default", namespace), &body).await.0, 201);
    }
    let all = "/apis/serving.kserve.io/v1beta1/inferenceservices";
    let table = [
        (ISVC.to_owned(), "a b"),
        (all.to_owned(), "a b c"),
        (format!("{all}?labelSelector=team%3Dx"), "a c"),
        (format!("{ISVC}?labelSelector=team%20in%20(y,z)"), "b"),
        (format!("{all}?fieldSelector=metadata.name%3Dc"), "c"),
        (format!("{all}?fieldSelector=metadata.namespace!%3Dteam"), "a b"),
    ];
    for (path, expected) in table {
        let (code, list) = api.get(&path).await;
        assert_eq!((code, list["kind"].as_str()), (200, Some("InferenceServiceList")), "{path}");
        let names: Vec<&str> =
            list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names.join(" "), expected, "{path}");
    }
    assert_eq!(reason(&api.get(&format!("{all}?fieldSelector=spec.x%3D1")).await), (400, "BadRequest"));
    assert_eq!(api.get("/api/v1/namespaces/team").await.1["status"]["phase"], "Active");
}

#[tokio::test]
async fn tables_have_kserves_columns() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("iris")).await;
    api.pods.send_replace(std::sync::Arc::new(vec![pod(
        "iris",
        ContainerViewState::Waiting { reason: "ImagePullBackOff".to_owned(), message: "no network".to_owned() },
        None,
    )]));
    let key = ObjectKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: "iris".to_owned() };
    api.events.record(&key, EventType::Warning, "Failed", "no network", born());
    let mut shown = String::new();
    for path in [ISVC, "/api/v1/namespaces/default/pods", "/api/v1/events", "/api/v1/namespaces"] {
        let (_, table) = api.send(api.request(Method::GET, path).header("accept", TABLE)).await;
        assert_eq!(table["kind"], "Table");
        let heads: Vec<String> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| format!("{}/{}", column["name"].as_str().unwrap(), column["priority"]))
            .collect();
        writeln!(shown, "{path}\n  {}", heads.join(" | ")).unwrap();
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
            writeln!(shown, "  {}", row["cells"]).unwrap();
        }
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn secrets_show_string_data_as_data() {
    let api = Api::start().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "value"}});
    assert_eq!(api.post("/api/v1/namespaces/default/secrets", &secret).await.0, 201);
    let (_, secret) = api.get("/api/v1/namespaces/default/secrets/s").await;
    assert_eq!(secret["data"], json!({"key": "dmFsdWU="}));
    assert_eq!(secret.get("stringData"), None);
    assert_eq!(secret["type"], "Opaque");
}

// ── writing ──

#[tokio::test]
async fn a_write_is_a_file_and_a_write_that_changes_nothing_is_none() {
    let api = Api::start().await;
    let path = format!("{ISVC}/iris");
    assert_eq!(reason(&api.get(&path).await), (404, "NotFound"));
    let (code, created) = api.post(ISVC, &isvc("iris")).await;
    assert_eq!(code, 201);
    assert_eq!(
        (created["metadata"]["generation"].as_i64(), created["metadata"]["namespace"].as_str()),
        (Some(1), Some("default"))
    );
    let file = api.home.services().join("default/iris.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n"), "{text}");
    assert!(!text.contains("uid"), "{text}");

    assert_eq!(reason(&api.post(ISVC, &isvc("iris")).await), (409, "AlreadyExists"));
    assert_eq!(reason(&api.put(&path, &isvc("iris")).await), (422, "Invalid"), "it does not say what it replaces");
    let mut body = isvc("iris");
    body["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    let (code, same) = api.put(&path, &body).await;
    assert_eq!((code, version(&same)), (200, version(&created)), "nothing changed");

    let (code, changed) = api.merge(&path, &json!({"spec": {"predictor": {"minReplicas": 0}}})).await;
    assert_eq!((code, changed["metadata"]["generation"].as_i64()), (200, Some(2)));
    assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"]);
    let (_, labelled) = api.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled["metadata"]["generation"].as_i64(), Some(2), "labels are not counted");

    let (code, gone) = api.delete(&path).await;
    assert_eq!((code, gone["status"].as_str()), (200, Some("Success")));
    assert_eq!(gone["details"]["uid"], created["metadata"]["uid"]);
    assert!(!file.exists());
    assert_eq!(reason(&api.delete(&path).await), (404, "NotFound"));
}

#[tokio::test]
async fn a_write_from_an_old_version_is_a_conflict() {
    let api = Api::start().await;
    let path = format!("{ISVC}/iris");
    let (_, mut old) = api.post(ISVC, &isvc("iris")).await;
    api.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    old["spec"]["predictor"]["minReplicas"] = json!(0);
    let answer = api.put(&path, &old).await;
    assert_eq!(reason(&answer), (409, "Conflict"));
    assert_eq!(
        answer.1["message"],
        "Operation cannot be fulfilled on inferenceservices.serving.kserve.io \"iris\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let stale = json!({"metadata": {"resourceVersion": old["metadata"]["resourceVersion"], "labels": {"c": "d"}}});
    assert_eq!(reason(&api.merge(&path, &stale).await), (409, "Conflict"));
    let other = api.request(Method::DELETE, &path).json(&json!({"preconditions": {"uid": "another"}}));
    assert_eq!(reason(&api.send(other).await), (409, "Conflict"));
    assert_eq!(api.get(&path).await.0, 200);
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_and_writes_nothing() {
    let api = Api::start().await;
    let (code, shown) = api.post(&format!("{ISVC}?dryRun=All"), &isvc("iris")).await;
    assert_eq!((code, shown["metadata"]["generation"].as_i64()), (201, Some(1)));
    assert_eq!(api.get(&format!("{ISVC}/iris")).await.0, 404);
    api.post(ISVC, &isvc("iris")).await;
    let patch = json!({"spec": {"predictor": {"minReplicas": 0}}});
    let (_, shown) = api.merge(&format!("{ISVC}/iris?dryRun=All"), &patch).await;
    assert_eq!(
        (shown["metadata"]["generation"].as_i64(), shown["spec"]["predictor"]["minReplicas"].as_i64()),
        (Some(2), Some(0))
    );
    api.delete(&format!("{ISVC}/iris?dryRun=All")).await;
    let (code, kept) = api.get(&format!("{ISVC}/iris")).await;
    assert_eq!((code, kept["metadata"]["generation"].as_i64()), (200, Some(1)));
    assert_eq!(reason(&api.post(&format!("{ISVC}?dryRun=all"), &isvc("x")).await), (400, "BadRequest"));
}

#[tokio::test]
async fn unknown_fields_are_refused_pruned_loudly_or_pruned() {
    let api = Api::start().await;
    let mut body = isvc("iris");
    body["spec"]["predictor"]["model"]["storageURI"] = json!("gs://a/b");
    let answer = api.post(&format!("{ISVC}?fieldValidation=Strict"), &body).await;
    assert_eq!(reason(&answer), (400, "BadRequest"));
    assert_eq!(
        answer.1["message"],
        "InferenceService in version \"v1beta1\" cannot be handled as a InferenceService: strict decoding error: unknown field \"spec.predictor.model.storageURI\""
    );
    let response = api.request(Method::POST, &format!("{ISVC}?fieldValidation=Warn")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], r#"299 - "unknown field \"spec.predictor.model.storageURI\"""#);
    let (_, stored) = api.get(&format!("{ISVC}/iris")).await;
    assert_eq!(stored["spec"]["predictor"]["model"].get("storageURI"), None);
    body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    let path = format!("{ISVC}/iris?fieldValidation=Ignore");
    let response = api.request(Method::PUT, &path).json(&body).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("warning")), (200, None));
}

#[tokio::test]
async fn an_invalid_object_is_refused_with_every_cause() {
    let api = Api::start().await;
    let mut body = isvc("Iris_1");
    body["spec"]["predictor"]["minReplicas"] = json!("three");
    let answer = api.post(ISVC, &body).await;
    assert_eq!(reason(&answer), (422, "Invalid"));
    let causes: Vec<(&str, &str)> = answer.1["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["reason"].as_str().unwrap(), cause["field"].as_str().unwrap()))
        .collect();
    assert!(causes.contains(&("FieldValueTypeInvalid", "spec.predictor.minReplicas")), "{causes:?}");
    assert!(causes.contains(&("FieldValueInvalid", "metadata.name")), "{causes:?}");
    assert!(std::fs::read_dir(api.home.services()).unwrap().next().is_none(), "nothing was written");
    let mut other = isvc("iris");
    other["kind"] = json!("Secret");
    assert_eq!(reason(&api.post(ISVC, &other).await), (400, "BadRequest"));
    other = isvc("iris");
    other["metadata"]["namespace"] = json!("team");
    assert_eq!(reason(&api.post(ISVC, &other).await), (400, "BadRequest"));
}

#[tokio::test]
async fn what_the_api_server_refuses_is_refused_in_its_words() {
    let api = Api::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let change = |at: &str, value: Value| {
        let mut body = isvc("iris");
        *body.pointer_mut(at).unwrap() = value;
        body
    };
    let webhook = "admission webhook \"inferenceservice.kserve-webhook-server.validator\" denied the request: ";
    let with = |predictor: Value| {
        let mut body = isvc("iris");
        for (field, value) in predictor.as_object().unwrap() {
            body["spec"]["predictor"][field] = value.clone();
        }
        body
    };
    let table = [
        // KServe's webhook: its own words, 403.
        (
            ISVC,
            with(json!({"minReplicas": 3, "maxReplicas": 1})),
            403,
            format!("{webhook}'MinReplicas' cannot be greater than MaxReplicas"),
        ),
        (ISVC, with(json!({"minReplicas": -1})), 403, format!("{webhook}'MinReplicas' cannot be less than 0")),
        (
            ISVC,
            change("/metadata/name", json!("1iris")),
            403,
            format!("{webhook}the InferenceService \"1iris\" is invalid: a InferenceService name must"),
        ),
        // The API server: schema and metadata, 422, by the name of the field.
        (
            ISVC,
            change("/metadata/name", json!("Iris")),
            422,
            "InferenceService.serving.kserve.io \"Iris\" is invalid: metadata.name: Invalid value: ".to_owned(),
        ),
        (ISVC, with(json!({"minReplicas": "many"})), 422, "spec.predictor.minReplicas: Invalid value: ".to_owned()),
        (ISVC, with(json!({"logger": {"mode": "loud"}})), 422, "spec.predictor.logger.mode: ".to_owned()),
        (ISVC, change("/spec", json!({})), 422, "spec.predictor: Required value".to_owned()),
        (
            ISVC,
            change("/metadata", json!({"name": "iris", "labels": {"a": "b c"}})),
            422,
            "metadata.labels.a: Invalid value: ".to_owned(),
        ),
        (
            ISVC,
            change("/metadata", json!({"name": "iris", "annotations": {"a": "x".repeat(270_000)}})),
            422,
            "metadata.annotations: Too long: ".to_owned(),
        ),
        // A core kind that cannot be read at all, 400.
        (
            secrets,
            json!({"metadata": {"name": "s"}, "data": {"a": "not base64!"}}),
            400,
            "Secret in version \"v1\" cannot be handled as a Secret: ".to_owned(),
        ),
        (
            secrets,
            json!({"metadata": {"name": "s"}, "stringData": {"a b": "c"}}),
            422,
            "stringData[a b]: Invalid value: ".to_owned(),
        ),
        (
            secrets,
            json!({"metadata": {"name": "s"}, "stringData": {"a": "x".repeat(1_100_000)}}),
            422,
            "data: Too long: ".to_owned(),
        ),
        (
            ISVC,
            json!({"kind": "Secret", "metadata": {"name": "x"}}),
            400,
            "the kind in the data (Secret) does not match".to_owned(),
        ),
        (
            ISVC,
            json!({"metadata": {"name": "x", "namespace": "other"}}),
            400,
            "the namespace of the provided object does not match".to_owned(),
        ),
    ];
    for (path, body, code, said) in table {
        let answer = api.post(path, &body).await;
        let message = answer.1["message"].as_str().unwrap_or_default();
        assert_eq!(answer.0, code, "{said}: {message}");
        assert!(message.contains(&said), "{said}: {message}");
    }
    assert_eq!(api.get(ISVC).await.1["items"], json!([]), "nothing was kept");
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused_told_or_let_through() {
    let api = Api::start().await;
    let text =
        isvc("iris").to_string().replacen("\"predictor\":{", "\"predictor\":{\"minReplicas\":1,\"minReplicas\":2,", 1);
    let post = |validation: &str| {
        let request = api.request(Method::POST, &format!("{ISVC}?dryRun=All&fieldValidation={validation}"));
        request.header("content-type", "application/json").body(text.clone())
    };
    let answer = api.send(post("Strict")).await;
    assert_eq!(answer.0, 400);
    assert!(answer.1["message"].as_str().unwrap().ends_with("duplicate field \"spec.predictor.minReplicas\""));
    let told = post("Warn").send().await.unwrap();
    assert_eq!(told.headers()["warning"], r#"299 - "duplicate field \"spec.predictor.minReplicas\"""#);
    let (code, shown) = api.send(post("Ignore")).await;
    assert_eq!((code, shown["spec"]["predictor"]["minReplicas"].as_i64()), (201, Some(2)));
    let yaml = "kind: InferenceService\nmetadata: {name: iris, name: iris}\nspec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: 'gs://a/b'}}}\n";
    let apply = api.request(Method::PATCH, &format!("{ISVC}/iris?fieldManager=t&fieldValidation=Strict"));
    let answer = api.send(apply.header("content-type", "application/apply-patch+yaml").body(yaml)).await;
    assert!(answer.1["message"].as_str().unwrap().ends_with("duplicate field \"metadata.name\""), "{answer:?}");
}

#[tokio::test]
async fn what_never_changes_is_not_changed() {
    let api = Api::start().await;
    let secret = json!({"metadata": {"name": "s"}, "type": "Opaque", "immutable": true, "stringData": {"a": "b"}});
    assert_eq!(api.post("/api/v1/namespaces/default/secrets", &secret).await.0, 201);
    let path = "/api/v1/namespaces/default/secrets/s";
    for (patch, field) in [
        (json!({"type": "kubernetes.io/tls"}), "type: "),
        (json!({"data": {"a": "eA=="}}), "data: "),
        (json!({"immutable": false}), "data: "),
    ] {
        let answer = api.merge(path, &patch).await;
        assert_eq!(reason(&answer), (422, "Invalid"), "{patch}");
        assert!(answer.1["message"].as_str().unwrap().contains(field), "{}", answer.1["message"]);
    }
    assert_eq!(reason(&api.put(&format!("{path}-none"), &json!({"metadata": {}})).await), (404, "NotFound"));
    let uri = json!({"metadata": {"name": "m"}, "spec": {"sourceModelUri": "hf://a/b", "modelSize": "1Gi", "nodeGroups": ["g"]}});
    let caches = "/apis/serving.kserve.io/v1alpha1/localmodelcaches";
    assert_eq!(api.post(caches, &uri).await.0, 201);
    let answer = api.merge(&format!("{caches}/m"), &json!({"spec": {"sourceModelUri": "hf://a/c"}})).await;
    assert_eq!(reason(&answer), (422, "Invalid"));
    assert!(
        answer.1["message"].as_str().unwrap().contains("spec.sourceModelUri: Invalid value: StorageUri is immutable")
    );
}

#[tokio::test]
async fn names_are_made_up_when_asked_for() {
    let api = Api::start().await;
    let body = json!({"metadata": {"generateName": "kserve-secret-"}, "data": {}});
    let (code, first) = api.post("/api/v1/namespaces/default/secrets", &body).await;
    let (_, second) = api.post("/api/v1/namespaces/default/secrets", &body).await;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(code, 201);
    assert!(name(&first).starts_with("kserve-secret-") && name(&first).len() == "kserve-secret-".len() + 5);
    assert_ne!(name(&first), name(&second));
    assert_eq!(
        reason(&api.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {}})).await),
        (400, "BadRequest")
    );
}

#[tokio::test]
async fn what_cannot_be_written_says_why() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("iris")).await;
    let builtin = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/kserve-mlserver";
    assert_eq!(reason(&api.delete(builtin).await), (403, "Forbidden"));
    let status = format!("{ISVC}/iris/status");
    let (_, mut body) = api.get(&status).await;
    body["status"] = json!({"url": "http://elsewhere"});
    let response = api.request(Method::PUT, &status).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers()["warning"].to_str().unwrap().contains("not kept"));
    assert_eq!(api.merge(&status, &json!({"status": {"url": "http://elsewhere"}})).await.0, 200);
    assert_eq!(api.get(&status).await.1["status"].get("url"), None);
    body["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(reason(&api.put(&status, &body).await), (409, "Conflict"));
    let pod = api.run_pod("iris").await;
    assert_eq!(reason(&api.delete(&format!("/api/v1/namespaces/default/pods/{pod}")).await), (405, "MethodNotAllowed"));
    let strategic = api.request(Method::PATCH, &format!("{ISVC}/iris"));
    let strategic = strategic.header("content-type", "application/strategic-merge-patch+json").body("{}");
    assert_eq!(reason(&api.send(strategic).await), (415, "UnsupportedMediaType"));
    let forward = api.get("/api/v1/namespaces/default/pods/x/portforward").await;
    assert_eq!(reason(&forward), (400, "BadRequest"));
    for path in ["pods/x/exec", "pods/x/proxy", "deployments/x/scale"] {
        let root = if path.starts_with('d') { "/apis/apps/v1" } else { "/api/v1" };
        let answer = api.get(&format!("{root}/namespaces/default/{path}")).await;
        assert_eq!(reason(&answer), (403, "Forbidden"), "{path}");
    }
}

#[tokio::test]
async fn tls_and_plain_http_share_a_port() {
    let api = Api::start().await;
    let tls = std::fs::read_to_string(api.home.tls()).unwrap();
    let authority = kserve_local::kubeapi::tls::authority(&tls).unwrap();
    let authority = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let port = api.base.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}/api/v1/namespaces");
        let answer = client.get(&url).bearer_auth(support::TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        assert_eq!(client.get(&url).send().await.unwrap().status(), 401, "{url}");
    }
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(stranger.get(format!("https://127.0.0.1:{port}/healthz")).send().await.is_err());
    assert_eq!(api.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn schemas_are_published_once_and_kept_for_ever() {
    let api = Api::start().await;
    let root = api.get("/openapi/v3").await.1;
    let paths: Vec<&String> = root["paths"].as_object().unwrap().keys().collect();
    let serving = ["v1alpha1", "v1alpha2", "v1beta1"].map(|version| format!("apis/serving.kserve.io/{version}"));
    let expected: Vec<_> = ["api/v1", "apis/apps/v1"].map(str::to_owned).into_iter().chain(serving).collect();
    assert_eq!(paths, expected.iter().collect::<Vec<_>>());
    let url = root["paths"]["apis/serving.kserve.io/v1beta1"]["serverRelativeURL"].as_str().unwrap();
    let answer = api.request(Method::GET, url).send().await.unwrap();
    assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let stale = api.request(Method::GET, url.split('?').next().unwrap()).send().await.unwrap();
    assert!(!stale.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(api.get("/openapi/v3/apis/batch/v1").await.0, 404);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.post(ISVC, &isvc(name)).await;
    }
    let mut names = Vec::new();
    let mut next = String::new();
    for left in [Some(1), None] {
        let page = api.get(&format!("{ISVC}?limit=2&continue={next}")).await.1;
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].to_string()));
        next = page["metadata"]["continue"].as_str().unwrap_or_default().replace('/', "%2F");
        assert_eq!(page["metadata"]["remainingItemCount"].as_i64(), left);
    }
    assert_eq!(names, ["\"a\"", "\"b\"", "\"c\""]);
    assert!(next.is_empty());
    assert_eq!(reason(&api.get(&format!("{ISVC}?continue=x")).await), (410, "Expired"));
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let api = Api::start().await;
    let team = ISVC.replace("default", "team");
    let lost = api.post(&team, &isvc("iris")).await;
    assert_eq!((reason(&lost), lost.1["message"].as_str()), ((404, "NotFound"), Some("namespaces \"team\" not found")));
    api.namespace("team").await;
    api.post(&team, &isvc("iris")).await;
    assert_eq!(api.get("/api/v1/namespaces/team/serviceaccounts/default").await.0, 200);
    assert_eq!(api.delete("/api/v1/namespaces/team").await.0, 200);
    assert_eq!(api.get("/api/v1/namespaces/team").await.0, 404);
    assert_eq!(api.get(&format!("{team}/iris")).await.0, 404);
    assert_eq!(reason(&api.delete("/api/v1/namespaces/default").await), (403, "Forbidden"));
    assert_eq!(reason(&api.delete("/api/v1/namespaces/default/serviceaccounts/default").await), (403, "Forbidden"));
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_in_every_dialect() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("iris")).await;
    let path = format!("{ISVC}/iris?fieldManager=test");
    let stale = [
        ("application/merge-patch+json", json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}})),
        ("application/json-patch+json", json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}])),
        ("application/apply-patch+yaml", {
            let mut body = isvc("iris");
            body["metadata"]["resourceVersion"] = json!("1");
            body
        }),
    ];
    for (kind, body) in stale {
        let request = api.request(Method::PATCH, &path).header("content-type", kind).body(body.to_string());
        assert_eq!(reason(&api.send(request).await), (409, "Conflict"), "{kind}");
    }
}

#[tokio::test]
async fn managers_are_shown_kept_and_never_written_to_files() {
    let api = Api::start().await;
    let made = api.post(&format!("{ISVC}?fieldManager=one"), &isvc("iris")).await.1;
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let before = version(&made);
    let apply = |body: Value, more: &str| {
        let path = format!("{ISVC}/iris?fieldManager=two{more}");
        let request = api.request(Method::PATCH, &path).header("content-type", "application/apply-patch+yaml");
        api.send(request.body(body.to_string()))
    };
    let (code, same) = apply(isvc("iris"), "").await;
    assert_eq!((code, version(&same)), (200, before), "saying the same changes nothing");
    let mut other = isvc("iris");
    other["spec"]["predictor"]["minReplicas"] = json!(5);
    assert_eq!(apply(other.clone(), "").await.0, 200);
    let (code, patched) = api
        .merge(&format!("{ISVC}/iris?fieldManager=three"), &json!({"spec": {"predictor": {"minReplicas": 6}}}))
        .await;
    assert_eq!((code, patched["metadata"]["managedFields"][2]["manager"].as_str()), (200, Some("three")));
    let (code, conflict) = apply(other.clone(), "").await;
    assert_eq!((code, conflict["details"]["causes"][0]["field"].as_str()), (409, Some(".spec.predictor.minReplicas")));
    assert_eq!(apply(other, "&force=true").await.1["spec"]["predictor"]["minReplicas"], 5);
    let file = std::fs::read_to_string(api.home.services().join("default/iris.yaml")).unwrap();
    assert!(!file.contains("managed"), "{file}");
    assert!(std::fs::read_to_string(api.home.managers()).unwrap().contains("f:minReplicas"));
    let unnamed =
        api.request(Method::PATCH, &format!("{ISVC}/new")).header("content-type", "application/apply-patch+yaml");
    assert_eq!(api.send(unnamed.body("{}")).await.0, 422, "an apply says in whose name");
}

#[tokio::test]
async fn a_collection_is_deleted_by_label() {
    let api = Api::start().await;
    for (name, label) in [("a", "x"), ("b", "y")] {
        let mut body = isvc(name);
        body["metadata"]["labels"] = json!({"team": label});
        api.post(ISVC, &body).await;
    }
    assert_eq!(api.delete(&format!("{ISVC}?labelSelector=team%3Dx")).await.1["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get(&format!("{ISVC}/a")).await.0, 404);
    assert_eq!(api.get(&format!("{ISVC}/b")).await.0, 200);
}

#[tokio::test]
async fn files_that_cannot_be_taken_are_told() {
    let api = Api::start().await;
    let file = api.home.services().join("bad.yaml");
    std::fs::write(&file, isvc("iris").to_string().replace("storageUri", "storageURI")).unwrap();
    api.loader.load().await;
    let (_, problems) = api.get("/apis/kserve-local/v1/problems").await;
    assert_eq!(problems["items"][0]["path"], file.as_str());
    let diagnostic = &problems["items"][0]["diagnostics"][0];
    assert_eq!(
        (diagnostic["severity"].as_str(), diagnostic["object"].as_str()),
        (Some("error"), Some("InferenceService default/iris"))
    );
    assert!(diagnostic["line"].is_u64());
}

// ── watching ──

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("a")).await;
    let mut watch = api.lines(&format!("{ISVC}?watch=True")).await;
    assert_eq!(watch.event().await.0, "ADDED");
    api.merge(&format!("{ISVC}/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    let (kind, name, _) = watch.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("MODIFIED", "a"));
    api.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await;
    api.post(ISVC, &isvc("b")).await;
    let (kind, name, seen) = watch.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("ADDED", "b"), "other kinds are not seen");
    api.delete(&format!("{ISVC}/a")).await;
    assert_eq!(watch.event().await.0, "DELETED");

    let mut resumed = api.lines(&format!("{ISVC}?watch=1&resourceVersion={seen}")).await;
    let (kind, name, _) = resumed.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("DELETED", "a"));
}

#[tokio::test]
async fn an_object_that_stops_matching_is_deleted_to_the_watcher() {
    let api = Api::start().await;
    let mut body = isvc("a");
    body["metadata"]["labels"] = json!({"x": "y"});
    api.post(ISVC, &body).await;
    api.post(ISVC, &isvc("other")).await;
    let mut watch = api.lines(&format!("{ISVC}?watch=true&labelSelector=x%3Dy&fieldSelector=metadata.name%3Da")).await;
    assert_eq!(watch.event().await.0, "ADDED");
    for (label, expected) in [(json!("z"), "DELETED"), (json!("y"), "ADDED"), (json!(null), "DELETED")] {
        api.merge(&format!("{ISVC}/other"), &json!({"metadata": {"labels": {"x": label}}})).await;
        api.merge(&format!("{ISVC}/a"), &json!({"metadata": {"labels": {"x": label}}})).await;
        assert_eq!(watch.event().await.0, expected);
    }
}

#[tokio::test]
async fn a_watch_list_ends_its_beginning_with_a_bookmark_and_its_time_with_the_stream() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("a")).await;
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut watch = api.lines(&format!("{ISVC}?{query}")).await;
    assert_eq!(watch.event().await.0, "ADDED");
    let bookmark: Value = serde_json::from_str(&watch.next().await.unwrap()).unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(watch.next().await, None);
    let refused = api.get(&format!("{ISVC}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(reason(&refused), (400, "BadRequest"));
}

#[tokio::test]
async fn a_version_that_is_not_remembered_is_gone() {
    let api = Api::start().await;
    let answer = api.get(&format!("{ISVC}?watch=true&resourceVersion=999999")).await;
    assert_eq!(reason(&answer), (410, "Expired"));
    let answer = api.get("/api/v1/pods?watch=true&resourceVersion=1").await;
    assert_eq!(reason(&answer), (410, "Expired"));
}

#[tokio::test]
async fn watches_end_with_the_daemon() {
    let api = Api::start().await;
    let mut watch = api.lines(&format!("{ISVC}?watch=true")).await;
    api.tasks.shut_down(support::DEADLINE).await;
    assert_eq!(watch.next().await, None);
}

// ── pods, logs, events ──

#[tokio::test]
async fn replicas_are_pods() {
    let api = Api::start().await;
    let mut watch = api.lines("/api/v1/namespaces/default/pods?watch=true").await;
    let name = api.run_pod("iris").await;
    assert_eq!(watch.event().await.0, "ADDED");
    let label = "labelSelector=serving.kserve.io/inferenceservice%3Diris";
    let (_, list) = api.get(&format!("/api/v1/pods?{label}")).await;
    let mut pod = list["items"][0].clone();
    assert_eq!(pod["metadata"]["name"], name.as_str());
    for hidden in [&["metadata", "resourceVersion"][..], &["status", "containerStatuses", "0", "containerID"]] {
        let (last, parents) = hidden.split_last().unwrap();
        let parent = parents.iter().fold(&mut pod, |value, key| match key.parse::<usize>() {
            Ok(index) => &mut value[index],
            Err(_) => &mut value[*key],
        });
        parent[*last] = json!("…");
    }
    insta::assert_yaml_snapshot!(pod);
    api.pods.send_replace(std::sync::Arc::default());
    assert_eq!(watch.event().await.0, "DELETED");
}

#[tokio::test]
async fn logs_are_text_and_follow_until_the_container_ends() {
    let api = Api::start().await;
    let name = api.run_pod("iris").await;
    for line in ["one", "two", "three"] {
        api.engine.say(&name, line);
    }
    let path = format!("/api/v1/namespaces/default/pods/{name}/log");
    let text = |query: &'static str| {
        let request = api.request(Method::GET, &format!("{path}?{query}"));
        async { request.send().await.unwrap().text().await.unwrap() }
    };
    assert_eq!(text("").await, "one\ntwo\nthree\n");
    assert_eq!(text("tailLines=1&container=kserve-container").await, "three\n");
    let stamped = text("timestamps=true&tailLines=1").await;
    assert!(stamped.ends_with("Z three\n") && stamped.len() > "three\n".len() + 20, "{stamped}");

    let mut follow = api.lines(&format!("{path}?follow=true&tailLines=1")).await;
    assert_eq!(follow.next().await.as_deref(), Some("three"));
    api.engine.say(&name, "four");
    assert_eq!(follow.next().await.as_deref(), Some("four"));
    api.engine.end(&name, kserve_local::engine::Exit::default());
    assert_eq!(follow.next().await, None);

    let wrong = api.get(&format!("{path}?container=nope")).await;
    assert_eq!(reason(&wrong), (400, "BadRequest"));
    assert!(wrong.1["message"].as_str().unwrap().contains("choose one of: [kserve-container]"));
    let restarts = |restarts: u32| {
        let mut pods = (**api.pods.borrow()).clone();
        std::sync::Arc::make_mut(&mut pods[0]).containers[0].restarts = restarts;
        api.pods.send_replace(std::sync::Arc::new(pods));
    };
    restarts(0);
    assert_eq!(reason(&api.get(&format!("{path}?previous=true")).await), (400, "BadRequest"));
    restarts(1);
    assert_eq!(text("limitBytes=6").await, "one\ntw");
    let mut restarted = (**api.pods.borrow()).clone();
    // All of it was said before its last start.
    let now = "2100-01-01T00:00:00Z".parse().unwrap();
    std::sync::Arc::make_mut(&mut restarted[0]).containers[0].state =
        ContainerViewState::Running { started_at: Some(now) };
    api.pods.send_replace(std::sync::Arc::new(restarted.clone()));
    assert_eq!(text("previous=true&tailLines=2").await, "three\nfour\n");
    std::sync::Arc::make_mut(&mut restarted[0]).containers[0].state =
        ContainerViewState::Running { started_at: Some(jiff::Timestamp::UNIX_EPOCH) };
    api.pods.send_replace(std::sync::Arc::new(restarted));
    assert_eq!(text("previous=true").await, "");
    assert_eq!(reason(&api.get("/api/v1/namespaces/default/pods/none/log").await), (404, "NotFound"));
}

#[tokio::test]
async fn a_container_that_never_started_says_what_it_waits_for() {
    let api = Api::start().await;
    let state = ContainerViewState::Waiting { reason: "ErrImagePull".to_owned(), message: "no network".to_owned() };
    api.pods.send_replace(std::sync::Arc::new(vec![pod("iris", state, None)]));
    let (code, status) = api.get("/api/v1/namespaces/default/pods/iris-predictor-00001-0/log").await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "container \"kserve-container\" in pod \"iris-predictor-00001-0\" is waiting to start: ErrImagePull: no network"
    );
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let api = Api::start().await;
    api.post(ISVC, &isvc("iris")).await;
    let key =
        |name: &str| ObjectKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: name.to_owned() };
    api.events.record(
        &key("iris"),
        EventType::Normal,
        "InferenceServiceReady",
        "InferenceService [iris] is Ready",
        born(),
    );
    api.events.record(
        &key("iris"),
        EventType::Normal,
        "InferenceServiceReady",
        "InferenceService [iris] is Ready",
        born(),
    );
    api.events.record(&key("other"), EventType::Warning, "InternalError", "x", born());
    let (_, isvc) = api.get(&format!("{ISVC}/iris")).await;
    let uid = isvc["metadata"]["uid"].as_str().unwrap();
    let selector =
        format!("involvedObject.kind%3DInferenceService,involvedObject.uid%3D{uid},involvedObject.name%3Diris");
    let (_, list) = api.get(&format!("/api/v1/namespaces/default/events?fieldSelector={selector}")).await;
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0]["count"].as_u64(), items[0]["type"].as_str()), (Some(2), Some("Normal")));
    let (_, warnings) = api.get("/api/v1/events?fieldSelector=type%3DWarning").await;
    assert_eq!(warnings["items"][0]["involvedObject"]["name"], "other");
}
