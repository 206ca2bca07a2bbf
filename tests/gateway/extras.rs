//! Batches, payload logs and mirrors over real sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kserve_local::api::{ComponentKind, ServiceKey};
use kserve_local::gateway::{GatewayConfig, LATENCY_BOUNDS};
use kserve_local::plan::routes::{Backend, RouteState, RouteTable, ServiceRoute};
use kserve_local::tasks::Tasks;
use kserve_local::workload::{Batching, Extras, LogSink, Logging, Mirroring};
use serde_json::{Value, json};

use super::raw::{Answer, Raw};
use super::upstream::{AnswerBody, Upstream, full};
use super::{House, backend};

/// Requests a server has seen: path, headers, body.
type Seen = Arc<Mutex<Vec<(String, http::HeaderMap, String)>>>;

/// Doubles V1 instances; adds one to the rows of V2 inputs; misbehaves when asked to.
async fn model(seen: Seen, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    seen.lock().unwrap().push((parts.uri.to_string(), parts.headers, text.clone()));
    let sent: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let mut status = 200;
    let answer = if sent["mode"] == "fail" {
        status = 503;
        json!({"error": "no room"})
    } else if sent["mode"] == "short" {
        json!({"predictions": [1]})
    } else if let Some(instances) = sent["instances"].as_array() {
        json!({"predictions": instances.iter().map(|one| number(one) * 2).collect::<Vec<_>>()})
    } else {
        let data: Vec<i64> =
            sent["inputs"][0]["data"].as_array().into_iter().flatten().map(|n| number(n) + 1).collect();
        json!({"model_name": "m", "outputs": [{"name": "y", "datatype": "INT64", "shape": [data.len()], "data": data}]})
    };
    let mut response = Response::new(full(answer.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

async fn server(tasks: &Tasks) -> (Upstream, Seen) {
    let seen = Seen::default();
    let copy = Arc::clone(&seen);
    (Upstream::http1(tasks, move |request| model(Arc::clone(&copy), request)).await, seen)
}

fn service(name: &str, upstream: &Upstream, extras: Extras) -> (ServiceKey, Arc<ServiceRoute>) {
    let one = Backend { replica: format!("{name}-1.default").into(), ..backend(upstream.address) };
    super::service(name, RouteState::Open(vec![one]), extras)
}

async fn house(tasks: &Tasks, services: Vec<(ServiceKey, Arc<ServiceRoute>)>) -> House {
    let table = RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services: services.into_iter().collect(),
        ..RouteTable::default()
    };
    House::open(tasks, table, GatewayConfig { workers: 2, ..GatewayConfig::default() }).await
}

fn batching(max_size: usize, milliseconds: u64) -> Batching {
    let max_latency = Duration::from_millis(milliseconds);
    Batching { max_size, max_latency, v2: false, always_ok: false }
}

fn batched(batching: Batching) -> Extras {
    Extras { batching: Some(Arc::new(batching)), ..Extras::default() }
}

async fn post(client: &mut Raw, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: iris-default.localhost\r\nX-Tenant: t\r\nCe-Id: e1\r\n");
    client.ask(format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")).await
}

const PREDICT: &str = "/v1/models/iris:predict";

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_at_once_go_to_the_model_together_and_each_gets_its_own() {
    let tasks = Tasks::new();
    let (upstream, _seen) = server(&tasks).await;
    let house = house(&tasks, vec![service("iris", &upstream, batched(batching(32, 300)))]).await;
    let asked = (0..32).map(|number| {
        let address = house.address;
        async move {
            let mut client = Raw::connect(address).await;
            let body = json!({"instances": [number, number + 100]}).to_string();
            (number, post(&mut client, PREDICT, &body).await)
        }
    });
    for (number, answer) in futures::future::join_all(asked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["predictions"], json!([2 * number, 2 * (number + 100)]));
        assert_eq!(answer["message"], "");
        assert_eq!(answer["batchId"].as_str().map(str::len), Some(36), "{answer}");
    }
    assert!(upstream.requests() <= 8, "{} requests for 32 of two instances and batches of 32", upstream.requests());
}

#[tokio::test]
async fn requests_for_one_revision_are_in_no_batch_with_others() {
    let tasks = Tasks::new();
    let ((old, _), (new, _)) = (server(&tasks).await, server(&tasks).await);
    let (key, route) = service("iris", &old, batched(batching(2, 60_000)));
    let mut route = ServiceRoute::clone(&route);
    let of = |upstream: &Upstream, revision: &str, weight| Backend {
        replica: revision.into(),
        revision: revision.into(),
        weight,
        ..backend(upstream.address)
    };
    let both = vec![of(&old, "iris-predictor-00001", 1), of(&new, "iris-predictor-00002", 0)];
    route.components.get_mut(&ComponentKind::Predictor).unwrap().state = RouteState::Open(both);
    let house = house(&tasks, vec![(key, Arc::new(route))]).await;
    // Two of each make a full batch; it is sent at once.
    let asked = ["iris-default", "latest-iris-predictor-default", "iris-default", "latest-iris-predictor-default"];
    let asked = asked.map(|host| {
        let (address, body) = (house.address, r#"{"instances":[1]}"#);
        let head =
            format!("POST {PREDICT} HTTP/1.1\r\nHost: {host}.localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        async move { Raw::connect(address).await.ask(format!("{head}{body}")).await.status }
    });
    assert_eq!(futures::future::join_all(asked).await, [200; 4]);
    assert_eq!((old.requests(), new.requests()), (1, 1));
}

#[tokio::test]
async fn what_goes_wrong_in_a_batch_is_told_to_each_of_its_members() {
    let tasks = Tasks::new();
    let (upstream, seen) = server(&tasks).await;
    let house = house(&tasks, vec![service("iris", &upstream, batched(batching(100, 20)))]).await;
    let mut client = house.client().await;
    let short = post(&mut client, PREDICT, r#"{"instances":[1,2],"mode":"short"}"#).await;
    assert_eq!(short.status, 502, "{short:?}");
    assert_eq!(short.json()["message"], "size of prediction is not equal to the size of instances");
    assert_eq!(short.json()["predictions"], Value::Null);
    let failed = post(&mut client, PREDICT, r#"{"instances":[1],"mode":"fail"}"#).await;
    assert_eq!((failed.status, &failed.json()["message"]), (503, &json!("{\"error\":\"no room\"}")));
    assert!(seen.lock().unwrap()[0].2.contains("\"mode\":\"short\""), "what else a body says is kept");
    for (body, wanted) in [("oops", "can't unmarshal body"), ("{}", "no instances in the request")] {
        let answer = post(&mut client, PREDICT, body).await;
        assert_eq!((answer.status, answer.body.trim().to_lowercase()), (400, wanted.to_owned()));
    }
    // What is no prediction goes its own way.
    assert_eq!(post(&mut client, "/v2/models/iris/infer", r#"{"inputs":[{"data":[1]}]}"#).await.status, 200);
}

#[tokio::test]
async fn upstreams_200_for_failures_is_there_for_those_who_ask() {
    let tasks = Tasks::new();
    let (upstream, _seen) = server(&tasks).await;
    let extras = batched(Batching { always_ok: true, ..batching(1, 20) });
    let house = house(&tasks, vec![service("iris", &upstream, extras)]).await;
    let answer = post(&mut house.client().await, PREDICT, r#"{"instances":[1],"mode":"fail"}"#).await;
    assert_eq!((answer.status, &answer.json()["batchId"]), (200, &json!("")));
}

#[tokio::test]
async fn v2_requests_are_batched_when_asked_to() {
    let tasks = Tasks::new();
    let (upstream, seen) = server(&tasks).await;
    let extras = batched(Batching { v2: true, ..batching(3, 5_000) });
    let house = house(&tasks, vec![service("iris", &upstream, extras)]).await;
    let ask = async |id: &str, data: &str, rows: usize| {
        let body =
            format!(r#"{{"id":"{id}","inputs":[{{"name":"x","datatype":"INT64","shape":[{rows}],"data":{data}}}]}}"#);
        post(&mut house.client().await, "/v2/models/iris/infer", &body).await
    };
    let (one, two) = tokio::join!(ask("a", "[1]", 1), ask("b", "[2,3]", 2));
    assert_eq!(one.json()["outputs"][0]["data"], json!([2]), "{one:?}");
    assert_eq!((&two.json()["outputs"][0]["data"], &two.json()["id"]), (&json!([3, 4]), &json!("b")));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

fn logged(sink: LogSink) -> Extras {
    let logging = Logging {
        sink,
        requests: true,
        responses: true,
        metadata_headers: vec!["x-tenant".to_owned()],
        redact: vec!["secret".to_owned()],
        ..Logging::default()
    };
    Extras { logging: Some(Arc::new(logging)), ..Extras::default() }
}

#[tokio::test]
async fn payloads_are_cloud_events_with_one_id_for_both_sides() {
    let tasks = Tasks::new();
    let ((upstream, _seen), (receiver, events)) = (server(&tasks).await, server(&tasks).await);
    let outside = logged(LogSink::Http(format!("http://{}/events", receiver.address)));
    let house = house(&tasks, vec![service("iris", &upstream, outside)]).await;
    let mut client = house.client().await;
    let answer = post(&mut client, PREDICT, r#"{"instances":[4],"secret":"word"}"#).await;
    assert_eq!((answer.status, &answer.json()["predictions"]), (200, &json!([8])));
    until("two events", || events.lock().unwrap().len() == 2).await;
    for (path, headers, body) in &*events.lock().unwrap() {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!((path.as_str(), header("ce-id"), header("ce-specversion")), ("/events", "e1", "1.0"));
        assert_eq!(header("ce-metadata"), r#"{"X-Tenant":["t"]}"#);
        assert_eq!((header("ce-component"), header("content-type")), ("predictor", "application/json"));
        match header("ce-type") {
            "org.kubeflow.serving.inference.request" => {
                assert_eq!(body, r#"{"instances":[4],"secret":"[redacted]"}"#);
            }
            "org.kubeflow.serving.inference.response" => assert_eq!(body, r#"{"predictions":[8]}"#),
            other => panic!("an event of type {other}"),
        }
    }
    // A failure is asked, and no answer of it is logged.
    post(&mut client, PREDICT, r#"{"mode":"fail"}"#).await;
    until("the request's event", || events.lock().unwrap().len() == 3).await;
    // The receiver answers the third event as a model would: with 503.
    until("all are counted", || house.gateway.metrics().snapshot().payloads == [2, 1, 0]).await;
}

#[tokio::test]
async fn events_reach_a_service_of_our_own_by_its_name_and_are_not_logged_for_ever() {
    let tasks = Tasks::new();
    let ((upstream, _seen), (receiver, events)) = (server(&tasks).await, server(&tasks).await);
    let to_dumper = || logged(LogSink::Http("http://dumper.default/".to_owned()));
    let services = vec![service("iris", &upstream, to_dumper()), service("dumper", &receiver, to_dumper())];
    let house = house(&tasks, services).await;
    post(&mut house.client().await, PREDICT, r#"{"instances":[4]}"#).await;
    until("two events", || house.gateway.metrics().snapshot().payloads[0] == 2).await;
    assert_eq!(events.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_sink_that_hangs_neither_slows_nor_fails_a_request_and_what_is_dropped_is_counted() {
    let tasks = Tasks::new();
    let (upstream, _seen) = server(&tasks).await;
    let hangs = Upstream::raw(&tasks, |socket| async move {
        let _kept = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let extras = logged(LogSink::Http(format!("http://{}/", hangs.address)));
    let house = house(&tasks, vec![service("iris", &upstream, extras)]).await;
    let mut client = house.client().await;
    for _ in 0..1200 {
        assert_eq!(post(&mut client, PREDICT, r#"{"instances":[1]}"#).await.status, 200);
    }
    let snapshot = house.gateway.metrics().snapshot();
    until("events are dropped", || house.gateway.metrics().snapshot().payloads[2] > 0).await;
    let service = snapshot.services.values().next().expect("a service");
    let slow: u64 = service.latency[LATENCY_BOUNDS.iter().position(|bound| *bound >= 1.0).unwrap() + 1..].iter().sum();
    assert_eq!(slow, 0, "no request waited for the sink");
}

#[tokio::test]
async fn a_mirror_gets_a_copy_under_its_own_name_and_nobody_waits_for_it() {
    let tasks = Tasks::new();
    let ((upstream, _seen), (shadow, copies)) = (server(&tasks).await, server(&tasks).await);
    let mirroring = Mirroring { to: ServiceKey::new("default", "next"), percent: 100 };
    let extras = Extras { mirroring: Some(Arc::new(mirroring)), ..Extras::default() };
    let house =
        house(&tasks, vec![service("iris", &upstream, extras), service("next", &shadow, Extras::default())]).await;
    let answer = post(&mut house.client().await, PREDICT, r#"{"instances":[3]}"#).await;
    assert_eq!(answer.json()["predictions"], json!([6]));
    until("the copy was answered", || house.gateway.metrics().snapshot().mirrors[0] == 1).await;
    let copies = copies.lock().unwrap();
    let (path, headers, body) = &copies[0];
    assert_eq!((path.as_str(), body.as_str()), ("/v1/models/next:predict", r#"{"instances":[3]}"#));
    assert_eq!(headers["x-tenant"], "t");
}

/// A Python with the official CloudEvents package; `tests/gateway/cloudevents-venv` makes one.
fn python() -> Option<std::path::PathBuf> {
    let python = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/cloudevents-venv/bin/python");
    let mut import = std::process::Command::new(&python);
    let usable = import.args(["-c", "from cloudevents.http import from_http"]).stderr(std::process::Stdio::null());
    usable.status().is_ok_and(|status| status.success()).then_some(python)
}

#[tokio::test]
async fn the_official_package_understands_payload_events() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let Some(python) = python() else {
        return super::interop::skip(
            "the_official_package_understands_payload_events",
            "no Python with cloudevents; run tests/gateway/cloudevents-venv",
        );
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/cloudevents_receiver.py");
    let mut child = tokio::process::Command::new(python)
        .arg(script)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines.next_line().await.unwrap().unwrap();
    let tasks = Tasks::new();
    let (upstream, _seen) = server(&tasks).await;
    let extras = logged(LogSink::Http(format!("http://127.0.0.1:{port}/")));
    let house = house(&tasks, vec![service("iris", &upstream, extras)]).await;
    assert_eq!(post(&mut house.client().await, PREDICT, r#"{"instances":[4]}"#).await.status, 200);
    let mut told = BTreeMap::new();
    for _ in 0..2 {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        let attributes = event["attributes"].clone();
        assert_eq!((&attributes["id"], &attributes["source"]), (&json!("e1"), &json!("http://localhost:9081/")));
        assert_eq!(attributes["inferenceservicename"], "iris");
        told.insert(attributes["type"].as_str().unwrap_or_default().to_owned(), event["data"].clone());
    }
    assert_eq!(told["org.kubeflow.serving.inference.request"], json!({"instances": [4]}));
    assert_eq!(told["org.kubeflow.serving.inference.response"], json!({"predictions": [8]}));
}
