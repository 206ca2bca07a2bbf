//! Graphs of each kind of node with real models in containers, and what becomes of them when a model is gone.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

use std::time::Duration;

use daemon::{Daemon, condition, docker_or_skip, eventually_or, text};
use serde_json::{Value, json};

fn model(name: &str) -> String {
    let uri = format!("file://{}/examples/models/iris/model.joblib", env!("CARGO_MANIFEST_DIR"));
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name},
        "spec": {"predictor": {"sklearn": {"storageUri": uri}}},
    })
    .to_string()
}

fn graph(name: &str, nodes: &Value) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "InferenceGraph", "metadata": {"name": name},
        "spec": {"nodes": nodes},
    })
    .to_string()
}

/// One of each, and one that nests the others.
const GRAPHS: &str = r#"{
    "chain": {"root": {"routerType": "Sequence", "steps": [
        {"serviceName": "one"}, {"serviceName": "two", "condition": "predictions.#(==1)"}]}},
    "both": {"root": {"routerType": "Ensemble", "steps": [
        {"serviceName": "one", "name": "one"}, {"serviceName": "two", "name": "two"}]}},
    "strict": {"root": {"routerType": "Ensemble", "steps": [
        {"serviceName": "one"}, {"serviceName": "two", "dependency": "Hard"}]}},
    "split": {"root": {"routerType": "Splitter", "steps": [
        {"serviceName": "one", "weight": 50}, {"serviceName": "two", "weight": 50}]}},
    "pick": {"root": {"routerType": "Switch", "steps": [
        {"serviceName": "one", "condition": "[@this].#(to==one)"},
        {"serviceName": "two", "condition": "[@this].#(to==two)"}]}},
    "nested": {
        "root": {"routerType": "Sequence", "steps": [{"nodeName": "all"}, {"nodeName": "any", "data": "$request"}]},
        "all": {"routerType": "Ensemble", "steps": [{"serviceName": "one"}, {"serviceName": "two"}]},
        "any": {"routerType": "Splitter", "steps": [{"serviceName": "two", "weight": 100}]}}
}"#;

async fn ask(daemon: &Daemon, graph: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
    let request = client.post(daemon.url("/")).header("host", format!("{graph}.default.localhost"));
    let answer = request.json(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn ready(daemon: &Daemon, graph: &str) -> Option<(String, String)> {
    let object: Value = serde_json::from_str(&text(&daemon.cli(&["get", "ig", graph, "-o", "json"]).stdout)).ok()?;
    let ready = condition(&object, "Ready")?;
    Some((ready["status"].as_str()?.to_owned(), ready["message"].as_str().unwrap_or_default().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn graphs_of_every_kind_answer_with_real_models_and_say_what_fails() {
    if !docker_or_skip("graphs_of_every_kind_answer_with_real_models_and_say_what_fails") {
        return;
    }
    let daemon = Daemon::start();
    let graphs: Value = serde_json::from_str(GRAPHS).expect("JSON");
    for (name, nodes) in graphs.as_object().expect("graphs") {
        daemon.drop_file(&format!("{name}.json"), &graph(name, nodes));
    }
    let early = eventually_or("the graphs are known", || daemon.log(), || ready(&daemon, "chain"));
    assert_eq!(early.0, "False", "{early:?}");
    assert!(early.1.starts_with("Failed to find graph service one"), "{early:?}");
    daemon.drop_file("one.json", &model("one"));
    daemon.drop_file("two.json", &model("two"));
    daemon.wait_ready("one");
    daemon.wait_ready("two");
    eventually_or("the graph is ready", || daemon.log(), || ready(&daemon, "nested").filter(|(is, _)| is == "True"));
    let table = daemon.cli_ok(&["get", "ig", "chain"]);
    assert!(table.contains("NAME") && table.contains("http://chain.default.localhost") && table.contains("True"));

    let setosa = json!({"instances": [[5.1, 3.5, 1.4, 0.2]]});
    let versicolor = json!({"instances": [[6.0, 2.7, 4.2, 1.3]]});
    for flower in [&setosa, &versicolor] {
        let class = if *flower == setosa { json!([0]) } else { json!([1]) };
        let one = json!({"predictions": class});
        assert_eq!(ask(&daemon, "chain", flower).await, (200, one.clone()));
        assert_eq!(ask(&daemon, "split", flower).await, (200, one.clone()));
        assert_eq!(ask(&daemon, "both", flower).await, (200, json!({"one": one, "two": one})));
        assert_eq!(ask(&daemon, "nested", flower).await, (200, one.clone()));
    }
    let mut to_two = versicolor.clone();
    to_two["to"] = json!("two");
    assert_eq!(ask(&daemon, "pick", &to_two).await, (200, json!({"predictions": [1]})));
    assert_eq!(ask(&daemon, "pick", &setosa).await.0, 404);

    // A body the model refuses is data of a soft step and the answer of a hard one.
    let (status, soft) = ask(&daemon, "both", &json!({"instances": "nonsense"})).await;
    assert_eq!(status, 200, "{soft}");
    assert!(soft["one"]["error"].is_string(), "{soft}");
    let (status, hard) = ask(&daemon, "strict", &json!({"instances": "nonsense"})).await;
    assert!(status >= 400 && hard["error"].is_string(), "{status} {hard}");

    // One of the two goes away.
    std::fs::remove_file(daemon.service_file("two.json")).expect("the file was there");
    eventually_or("it is noticed", || daemon.log(), || ready(&daemon, "both").filter(|(is, _)| is == "False"));
    let (status, answer) = ask(&daemon, "both", &setosa).await;
    assert_eq!((status, &answer["error"]), (500, &json!("Failed to process request")));
    assert_eq!(answer["cause"], "step 1 (`two`) of node `root`: Failed to find graph service two");
    to_two["to"] = json!("one");
    assert_eq!(ask(&daemon, "pick", &to_two).await.0, 200, "the other branch still answers");
}
