//! InferenceGraphs over real sockets: every kind of node, what fails within, and what goes along.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kserve_local::api::{InferenceGraphSpec, ServiceKey};
use kserve_local::gateway::GatewayConfig;
use kserve_local::graph::compile;
use kserve_local::plan::routes::{Backend, GraphRoute, Hold, RouteState, RouteTable, ServiceRoute};
use kserve_local::tasks::Tasks;
use kserve_local::workload::Extras;
use serde_json::{Value, json};

use super::raw::{Answer, Raw};
use super::upstream::{AnswerBody, Upstream, full};
use super::{House, backend};

/// Answers as the model in the path: what it was sent, and a status if it is named for one.
async fn model(request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let name = parts.uri.path().trim_start_matches("/v1/models/").trim_end_matches(":predict").to_owned();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let sent: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = json!({
        "predictions": [name], "sent": sent, "method": parts.method.as_str(), "token": header("authorization"),
        "type": header("content-type"), "id": header("x-request-id"),
    });
    let text = if name == "list" { "[1]".to_owned() } else { answer.to_string() };
    let mut response = Response::new(full(Bytes::from(text)));
    if let Some(status) = name.strip_prefix("s").and_then(|status| status.parse::<u16>().ok()) {
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    }
    if name == "slow" {
        std::future::pending::<()>().await;
    }
    response
}

fn service(name: &str, state: RouteState) -> (ServiceKey, Arc<ServiceRoute>) {
    super::service(name, state, Extras::default())
}

fn graph(name: &str, spec: &Value) -> (ServiceKey, Arc<GraphRoute>) {
    let spec: InferenceGraphSpec = serde_json::from_value(spec.clone()).unwrap();
    let key = ServiceKey::new("default", name);
    (key.clone(), Arc::new(GraphRoute { key, graph: Ok(compile(&spec).unwrap()) }))
}

const SERVICES: [&str; 6] = ["a", "b", "s404", "s503", "list", "slow"];

fn table(upstream: &Upstream, spec: &Value) -> RouteTable {
    let open = |name: &str| {
        RouteState::Open(vec![Backend {
            replica: format!("{name}-predictor-00001-0.default").into(),
            ..backend(upstream.address)
        }])
    };
    RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services: SERVICES.iter().map(|name| service(name, open(name))).collect(),
        graphs: [graph("g", spec)].into(),
        ..RouteTable::default()
    }
}

async fn house(tasks: &Tasks, spec: Value) -> (House, Upstream) {
    house_with(tasks, spec, GatewayConfig::default()).await
}

async fn house_with(tasks: &Tasks, spec: Value, config: GatewayConfig) -> (House, Upstream) {
    let upstream = Upstream::http1(tasks, model).await;
    let house = House::open(tasks, table(&upstream, &spec), config).await;
    (house, upstream)
}

fn root(router: &str, steps: Value) -> Value {
    json!({"nodes": {"root": {"routerType": router, "steps": steps}}})
}

async fn ask(client: &mut Raw, body: &str) -> Answer {
    let length = body.len();
    let head = "POST / HTTP/1.1\r\nHost: g-default.localhost\r\nAuthorization: Bearer t\r\nX-Request-Id: r7\r\n";
    client.ask(format!("{head}Content-Type: text/x\r\nContent-Length: {length}\r\n\r\n{body}")).await
}

async fn one(spec: Value, body: &str) -> Answer {
    let tasks = Tasks::new();
    let (house, _upstream) = house(&tasks, spec).await;
    ask(&mut house.client().await, body).await
}

#[tokio::test]
async fn a_sequence_hands_on_the_request_or_the_response() {
    let steps = json!([
        {"serviceName": "a"},
        {"serviceName": "b", "data": "$response", "mapPredictionsToInstances": true},
        {"serviceName": "a", "data": "$request"},
        {"serviceName": "b", "data": "$response", "condition": "predictions.#(==\"a\")"},
    ]);
    let answer = one(root("Sequence", steps), r#"{"instances":[1]}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: application/json"));
    let last = answer.json();
    assert_eq!(last["predictions"], json!(["b"]));
    assert_eq!(last["sent"]["sent"], json!({"instances": [1]}), "the third step got the request again");
    assert_eq!(last["method"], "POST");
    assert_eq!((&last["type"], &last["token"]), (&json!("application/json"), &Value::Null), "nothing is propagated");
    assert_eq!(last["id"], "r7");
}

#[tokio::test]
async fn a_sequence_ends_where_a_condition_does_not_hold_and_where_a_needed_step_fails() {
    let ends = root("Sequence", json!([{"serviceName": "a"}, {"serviceName": "b", "condition": "nothing"}]));
    let answer = one(ends, "{}").await;
    assert_eq!((answer.status, &answer.json()["predictions"]), (200, &json!(["a"])));
    let hard = root("Sequence", json!([{"serviceName": "s503", "dependency": "Hard"}, {"serviceName": "b"}]));
    let answer = one(hard, "{}").await;
    assert_eq!((answer.status, &answer.json()["predictions"]), (503, &json!(["s503"])));
    let soft = root("Sequence", json!([{"serviceName": "s503"}, {"serviceName": "b", "data": "$response"}]));
    let answer = one(soft, "{}").await;
    assert_eq!((answer.status, &answer.json()["sent"]["predictions"]), (200, &json!(["s503"])), "it is data");
    let last = one(root("Sequence", json!([{"serviceName": "a"}, {"serviceName": "s404"}])), "{}").await;
    assert_eq!(last.status, 404, "the last status is the answer's");
}

#[tokio::test]
async fn an_ensemble_asks_all_and_puts_their_answers_together() {
    let steps =
        json!([{"serviceName": "b", "name": "second"}, {"serviceName": "a"}, {"serviceName": "s503", "name": "x"}]);
    let answer = one(root("Ensemble", steps), r#"{"instances":[2]}"#).await;
    assert_eq!(answer.status, 200);
    let merged = answer.json();
    assert_eq!(merged["second"]["predictions"], json!(["b"]));
    assert_eq!(merged["1"]["sent"], json!({"instances": [2]}));
    assert_eq!(merged["x"]["predictions"], json!(["s503"]), "a soft failure is data");
    let hard = json!([{"serviceName": "a"}, {"serviceName": "s503", "dependency": "Hard"}]);
    let answer = one(root("Ensemble", hard), "{}").await;
    assert_eq!((answer.status, &answer.json()["predictions"]), (503, &json!(["s503"])));
    let answer = one(root("Ensemble", json!([{"serviceName": "a"}, {"serviceName": "list"}])), "{}").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.json(),
        json!({"error": "Failed to process request", "cause": "the answer of step `1` is not a JSON object"})
    );
}

#[tokio::test]
async fn a_switch_takes_the_first_step_that_fits_and_says_when_none_does() {
    let steps = json!([
        {"serviceName": "a", "condition": "[@this].#(source==client)"},
        {"serviceName": "b", "condition": "instances.#(intval>10)"},
    ]);
    let tasks = Tasks::new();
    let (house, _upstream) = house(&tasks, root("Switch", steps.clone())).await;
    let mut client = house.client().await;
    for (body, wanted) in [
        (r#"{"source":"client","instances":[{"intval":11}]}"#, "a"),
        (r#"{"source":"other","instances":[{"intval":1},{"intval":11}]}"#, "b"),
    ] {
        assert_eq!(ask(&mut client, body).await.json()["predictions"], json!([wanted]), "{body}");
    }
    for body in ["{}", "no json", ""] {
        let answer = ask(&mut client, body).await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.json()["cause"], "None of the routes matched with the switch condition");
    }
    let nested = json!({"nodes": {
        "root": {"routerType": "Sequence", "steps": [{"nodeName": "choice"}]},
        "choice": {"routerType": "Switch", "steps": steps},
    }});
    assert_eq!(one(nested, "{}").await.status, 500, "what fails below the root is an error of the graph");
}

#[tokio::test]
async fn a_splitter_keeps_to_its_weights() {
    let steps = json!([{"serviceName": "a", "weight": 25}, {"serviceName": "b", "weight": 75}]);
    let tasks = Tasks::new();
    let (house, upstream) = house(&tasks, root("Splitter", steps)).await;
    let mut client = house.client().await;
    let mut a = 0;
    for _ in 0..400 {
        if ask(&mut client, "{}").await.json()["predictions"] == json!(["a"]) {
            a += 1;
        }
    }
    // 400 throws of 1 in 4: further out than this is one run in a million.
    assert!((58..=142).contains(&a), "{a} of 400 went to a");
    assert_eq!(upstream.requests(), 400);
    assert_eq!(upstream.connections(), 1, "the backend's connection is used again");
}

#[tokio::test]
async fn nodes_nest_and_steps_call_urls_here_and_outside() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, model).await;
    let outside = format!("http://{}/v1/models/far:predict", upstream.address);
    let spec = json!({"nodes": {
        "root": {"routerType": "Sequence", "steps": [{"nodeName": "all"}, {"nodeName": "split", "data": "$response"}]},
        "all": {"routerType": "Ensemble", "steps": [
            {"name": "here", "serviceUrl": "http://a.default.example.com/v1/models/a:predict"},
            {"name": "cluster", "serviceUrl": "http://b-predictor.default.svc.cluster.local/v1/models/b:predict"},
            {"name": "far", "serviceUrl": outside},
            {"name": "none", "serviceUrl": "http://nobody.default.example.com/"},
        ]},
        "split": {"routerType": "Splitter", "steps": [{"serviceName": "b", "weight": 100}]},
    }});
    let config = GatewayConfig { propagate_headers: vec!["^Auth".to_owned()], ..GatewayConfig::default() };
    let house = House::open(&tasks, table(&upstream, &spec), config).await;
    let answer = ask(&mut house.client().await, r#"{"n":1}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = &answer.json()["sent"];
    assert_eq!(seen["here"]["predictions"], json!(["a"]));
    assert_eq!(seen["cluster"]["predictions"], json!(["b"]));
    assert_eq!(seen["far"]["predictions"], json!(["far"]));
    assert_eq!(seen["far"]["token"], "Bearer t", "what matches is propagated");
    assert_eq!(seen["none"]["reason"], "UnknownHost");
}

#[tokio::test]
async fn what_cannot_be_reached_is_an_error_with_its_step() {
    let none = one(root("Sequence", json!([{"serviceName": "gone"}])), "{}").await;
    assert_eq!(none.status, 500);
    assert_eq!(none.json()["cause"], "step 0 of node `root`: Failed to find graph service gone");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/x?key=secret");
    let answer = one(root("Sequence", json!([{"name": "far", "serviceUrl": url}])), "{}").await;
    let cause = answer.json()["cause"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 500);
    assert!(cause.starts_with("step 0 (`far`) of node `root`: could not call `http://127.0.0.1:"), "{cause}");
    assert!(!cause.contains("secret"), "{cause}");
    let metadata = root("Sequence", json!([{"serviceUrl": "http://169.254.169.254/latest"}]));
    let cause = one(metadata, "{}").await.json()["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("it is a link-local or metadata address"), "{cause}");
}

#[tokio::test]
async fn a_graph_that_calls_itself_by_its_url_comes_to_an_end() {
    let steps = json!([{"serviceUrl": "http://g.default.example.com/"}]);
    let answer = one(root("Sequence", steps), "{}").await;
    assert_eq!(answer.status, 500);
    let cause = answer.json()["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("which looks like a circle"), "{cause}");
}

#[tokio::test]
async fn times_end_a_step_or_the_whole_request() {
    let mut spec = root("Sequence", json!([{"serviceName": "slow", "name": "s"}]));
    spec["routerTimeouts"] = json!({"serviceClient": 1});
    let answer = one(spec.clone(), "{}").await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["cause"], "step 0 (`s`) of node `root`: no answer within 1 s");
    spec["routerTimeouts"] = json!({});
    spec["timeout"] = json!(1);
    let answer = one(spec, "{}").await;
    assert_eq!((answer.status, &answer.json()["reason"]), (504, &json!("Timeout")));
}

#[tokio::test]
async fn a_step_that_sleeps_is_woken_and_waited_for() {
    let tasks = Tasks::new();
    let spec = root("Ensemble", json!([{"serviceName": "a"}, {"serviceName": "b"}]));
    let (house, upstream) = house(&tasks, spec.clone()).await;
    let mut table = table(&upstream, &spec);
    let awake = table.clone();
    let hold = Hold {
        reason: "Asleep".into(),
        message: "asleep".into(),
        retry_after: Duration::from_secs(1),
        patience: Duration::from_secs(5),
    };
    table.services.extend([service("a", RouteState::Held(hold))]);
    house.routes.store(Arc::new(table));
    let mut client = house.client().await;
    client.send("POST / HTTP/1.1\r\nHost: g-default.localhost\r\nContent-Length: 2\r\n\r\n{}").await;
    tokio::time::timeout(Duration::from_secs(5), house.board.bell()).await.expect("the bell rings");
    house.routes.store(Arc::new(awake));
    house.board.announce_table();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, &answer.json()["0"]["predictions"]), (200, &json!(["a"])));
    assert!(house.board.waiting().is_empty());
}

#[tokio::test]
async fn a_graph_is_reached_by_host_and_path_and_bodies_have_a_limit() {
    let tasks = Tasks::new();
    let config = GatewayConfig { max_whole_body: 16, ..GatewayConfig::default() };
    let (house, upstream) = house_with(&tasks, root("Sequence", json!([{"serviceName": "a"}])), config).await;
    for (host, path) in [
        ("g.default.example.com", "/"),
        ("G-default.localhost:8080", "/anything?x"),
        ("g.default.svc.cluster.local", "/"),
        ("localhost", "/serving/default/g"),
        ("localhost", "/serving/default/g/v1/models/g:predict"),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}");
        // The answer of the step is larger than the limit; that it was asked is enough.
        let answer = house.client().await.ask(request).await;
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.json()["cause"].as_str().unwrap().contains("larger than 16 bytes"));
    }
    assert_eq!(upstream.requests(), 5);
    let answer = ask(&mut house.client().await, "{\"more than\": \"sixteen\"}").await;
    assert_eq!((answer.status, &answer.json()["reason"]), (413, &json!("BodyTooLarge")));
    assert_eq!(upstream.requests(), 5);
}

#[tokio::test]
async fn when_the_client_goes_so_do_its_calls() {
    let tasks = Tasks::new();
    let (house, _upstream) = house(&tasks, root("Ensemble", json!([{"serviceName": "slow"}]))).await;
    let mut client = house.client().await;
    client.send("POST / HTTP/1.1\r\nHost: g-default.localhost\r\nContent-Length: 2\r\n\r\n{}").await;
    let busy = |count: u64| {
        let board = house.board.clone();
        async move {
            while board.of("slow-predictor-00001-0.default").in_flight != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), busy(1)).await.expect("the call is under way");
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), busy(0)).await.expect("the call has ended");
}
