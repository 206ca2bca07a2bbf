//! Batcher, logger, mirror, explainer and gRPC between components, with real models on KServe's SDK: wiring, not rules.

use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Daemon, docker_or_skip, eventually, skip};
use super::transformers::TRANSFORMER;

/// Says which features change the prediction when they are left out.
const EXPLAINER: &str = r#"
import argparse
import kserve

parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
args, _ = parser.parse_known_args()


class LeavingOut(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def explain(self, payload, headers=None):
        row = payload["instances"][0]
        without = [[0 if at == left else value for at, value in enumerate(row)] for left in range(len(row))]
        first, *rest = (await self.predict({"instances": [row, *without]}, headers))["predictions"]
        return {"explanations": [one != first for one in rest]}


if __name__ == "__main__":
    kserve.ModelServer().start([LeavingOut(args.model_name)])
"#;

fn iris(more: &Value) -> Value {
    let uri = format!("file://{}/examples/models/iris/model.joblib", env!("CARGO_MANIFEST_DIR"));
    let mut model = json!({"modelFormat": {"name": "sklearn"}, "storageUri": uri});
    let fields = model.as_object_mut().expect("it is an object");
    fields.extend(more.as_object().cloned().unwrap_or_default());
    model
}

/// A component that is a program on KServe's SDK.
fn program(source: &str, args: &[&str]) -> Value {
    let args: Vec<&str> = [source].into_iter().chain(args.iter().copied()).collect();
    json!({"containers": [{
        "name": "kserve-container", "image": "kserve/sklearnserver:v0.20.0", "command": ["python3", "-c"], "args": args,
    }]})
}

fn service(name: &str, annotations: &Value, spec: &Value) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations}, "spec": spec,
    })
    .to_string()
}

async fn post(daemon: &Daemon, path: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
    let answer = client.post(daemon.url(path)).json(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// Flowers from all over the place, always the same ones.
fn flowers(count: u32) -> Vec<Value> {
    let feature = |flower: u32, at: u32, most: u32| f64::from((flower * 7 + at * 13) * 31 % most) / 10.0;
    let row = |flower| {
        json!([feature(flower, 0, 80), feature(flower, 1, 45), feature(flower, 2, 70), feature(flower, 3, 25)])
    };
    (0..count)
        .map(|client| Value::from((0..=client % 3).map(|one| row(client * 3 + one)).collect::<Vec<_>>()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_of_many_clients_as_the_model_alone_would() {
    if !docker_or_skip("a_batch_answers_each_of_many_clients_as_the_model_alone_would") {
        return;
    }
    let daemon = Daemon::start();
    let batcher = json!({"maxBatchSize": 16, "maxLatency": 200});
    daemon.drop_file("alone.json", &service("alone", &json!({}), &json!({"predictor": {"model": iris(&json!({}))}})));
    let batched = json!({"predictor": {"model": iris(&json!({})), "batcher": batcher}});
    daemon.drop_file("batched.json", &service("batched", &json!({}), &batched));
    daemon.wait_ready("alone");
    daemon.wait_ready("batched");
    let rows = flowers(120);
    let asked = rows.iter().map(|rows| {
        let body = json!({"instances": rows});
        let daemon = &daemon;
        async move { post(daemon, "/v1/models/batched:predict", &body).await }
    });
    let together = futures::future::join_all(asked).await;
    let mut batches = std::collections::BTreeSet::new();
    for (rows, (status, answer)) in rows.iter().zip(&together) {
        let (_, alone) = post(&daemon, "/v1/models/alone:predict", &json!({"instances": rows})).await;
        assert_eq!((*status, &answer["predictions"]), (200, &alone["predictions"]), "{rows}: {answer}");
        batches.insert(answer["batchId"].as_str().expect("a batch has an id").to_owned());
    }
    // 239 rows, about 16 in a batch; no client more than another is owed one of its own.
    assert!(batches.len() < 60, "{} batches for 120 clients", batches.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_is_logged_sent_to_the_mirror_and_can_be_sent_again() {
    if !docker_or_skip("what_was_asked_is_logged_sent_to_the_mirror_and_can_be_sent_again") {
        return;
    }
    let daemon = Daemon::start();
    let logger = |spec: Value| json!({"predictor": {"model": iris(&json!({})), "logger": spec}});
    // The copy is logged where it arrives, by the service it was sent to.
    daemon.drop_file("next.json", &service("next", &json!({}), &json!({"predictor": {"model": iris(&json!({}))}})));
    let mirror = json!({"kserve-local/mirror": "next"});
    daemon.drop_file("now.json", &service("now", &mirror, &logger(json!({"mode": "all"}))));
    daemon.wait_ready("next");
    daemon.wait_ready("now");
    let body = json!({"instances": [[6.8, 2.8, 4.8, 1.4]]});
    assert_eq!(post(&daemon, "/v1/models/now:predict", &body).await, (200, json!({"predictions": [1]})));

    let file = daemon.home().join("state/payloads/default/now.jsonl");
    let events = |count: usize| {
        eventually("the payloads are written", || {
            let text = std::fs::read_to_string(&file).ok()?;
            let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            (events.len() == count).then_some(events)
        })
    };
    let said = events(2);
    assert_eq!(said[0]["type"], "org.kubeflow.serving.inference.request");
    assert_eq!(said[0]["data"], body);
    assert_eq!(said[1]["type"], "org.kubeflow.serving.inference.response");
    assert_eq!(said[1]["data"], json!({"predictions": [1]}));
    assert_eq!(said[0]["id"], said[1]["id"]);

    let again = daemon.cli_ok(&["replay", "now", "--last", "1", "--send"]);
    assert!(again.contains(r#"{"predictions":[1]}"#), "{again}");
    assert_eq!(events(4)[2]["data"], body, "it is logged like any other");

    let api = daemon.addresses()["api"].as_str().expect("an address").to_owned();
    let client = reqwest::Client::builder().no_proxy().danger_accept_invalid_certs(true).build().expect("a client");
    let mut mirrored = String::new();
    for _ in 0..100 {
        let metrics = client.get(format!("https://{api}/metrics")).send().await.expect("metrics").text().await;
        let metrics = metrics.expect("text");
        let line = metrics.lines().find(|line| line.starts_with("kserve_local_mirrored_requests_total "));
        mirrored = line.unwrap_or_default().to_owned();
        if mirrored.ends_with(" 2") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(mirrored, "kserve_local_mirrored_requests_total 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explainer_asks_its_predictor_and_a_transformer_may_do_so_by_grpc() {
    if !docker_or_skip("an_explainer_asks_its_predictor_and_a_transformer_may_do_so_by_grpc") {
        return;
    }
    let daemon = Daemon::start();
    let explained = json!({"predictor": {"model": iris(&json!({}))}, "explainer": program(EXPLAINER, &[])});
    daemon.drop_file("explained.json", &service("explained", &json!({}), &explained));
    let grpc = json!({"ports": [{"name": "h2c", "containerPort": 8081, "protocol": "TCP"}]});
    let called = json!({
        "predictor": {"model": iris(&grpc)},
        "transformer": program(TRANSFORMER, &["--predictor_protocol=grpc-v2"]),
    });
    daemon.drop_file("called.json", &service("called", &json!({}), &called));
    daemon.wait_ready("explained");
    daemon.wait_ready("called");

    let body = json!({"instances": [[6.8, 2.8, 4.8, 1.4]]});
    let explanation = post(&daemon, "/v1/models/explained:explain", &body).await;
    assert_eq!(explanation, (200, json!({"explanations": [true, true, true, false]})));
    assert_eq!(post(&daemon, "/v1/models/explained:predict", &body).await, (200, json!({"predictions": [1]})));

    let halves = json!([3.4, 1.4, 2.4, 0.7, 3.0, 1.7, 2.25, 0.8]);
    let body = json!({"inputs": [{"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": halves}]});
    let (status, answer) = post(&daemon, "/v2/models/called/infer", &body).await;
    assert_eq!((status, &answer["outputs"][0]["data"]), (200, &json!([1, 1])), "{answer}");
}

/// Stops with the test.
struct Moto(std::process::Child, String);

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a store that speaks S3; none, and says so, when there is none to be had.
fn moto(test: &str) -> Option<Moto> {
    if std::env::var("KSERVE_LOCAL_TEST_EMULATORS").is_err() {
        skip(test, "KSERVE_LOCAL_TEST_EMULATORS is not set");
        return None;
    }
    // Free a moment ago; who takes it in between makes the wait below fail.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let mut command = std::process::Command::new("moto_server");
    command.args(["-H", "127.0.0.1", "-p", &free.port().to_string()]);
    let Ok(child) = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn() else {
        skip(test, "moto_server is not on the path");
        return None;
    };
    let moto = Moto(child, format!("http://{free}"));
    eventually("the store answers", || std::net::TcpStream::connect(free).ok());
    Some(moto)
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_go_to_a_bucket_as_an_object_each() {
    let test = "payloads_go_to_a_bucket_as_an_object_each";
    if !docker_or_skip(test) {
        return;
    }
    let Some(moto) = moto(test) else { return };
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let bucket = format!("{}/payloads", moto.1);
    let get = |url: String| client.get(url).header("authorization", "AWS x:y");
    client.put(&bucket).header("authorization", "AWS x:y").send().await.expect("a bucket");
    let environment = [
        ("AWS_ENDPOINT_URL", moto.1.as_str()),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ];
    let daemon = Daemon::start_with(&environment, |_| {});
    let logger = json!({"mode": "all", "url": "s3://payloads/kept"});
    let spec = json!({"predictor": {"model": iris(&json!({})), "logger": logger}});
    daemon.drop_file("stored.json", &service("stored", &json!({}), &spec));
    daemon.wait_ready("stored");
    let body = json!({"instances": [[6.8, 2.8, 4.8, 1.4]]});
    assert_eq!(post(&daemon, "/v1/models/stored:predict", &body).await, (200, json!({"predictions": [1]})));

    let mut listed = String::new();
    for _ in 0..100 {
        listed = get(bucket.clone()).send().await.expect("a list").text().await.expect("text");
        if listed.contains("-response.json</Key>") && listed.contains("-request.json</Key>") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let key =
        listed.split("<Key>").filter_map(|rest| rest.split("</Key>").next()).find(|key| key.ends_with("-request.json"));
    let key = key.unwrap_or_else(|| panic!("no request in {listed}\n{}", daemon.log()));
    assert!(key.starts_with("kept/default/stored/predictor/"), "{key}");
    let event: Value = get(format!("{bucket}/{key}")).send().await.expect("it").json().await.expect("JSON");
    assert_eq!((&event["inferenceservicename"], &event["data"]), (&json!("stored"), &body));
}
