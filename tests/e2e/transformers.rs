//! Transformers on KServe's SDK before real predictors, in containers: wiring, not rules.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Daemon, PATIENCE, docker_or_skip, eventually};

/// Takes twice of each feature, so that the answer shows that it was asked. Speaks the protocol it is told to.
pub(crate) const TRANSFORMER: &str = r#"
import argparse
import kserve

parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
args, _ = parser.parse_known_args()


class Doubling(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    def preprocess(self, payload, headers=None):
        if isinstance(payload, kserve.InferRequest):
            for tensor in payload.inputs:
                tensor.set_data_from_numpy(tensor.as_numpy() * 2, binary_data=False)
            return payload
        return {"instances": [[2 * feature for feature in row] for row in payload["instances"]]}


if __name__ == "__main__":
    kserve.ModelServer().start([Doubling(args.model_name)])
"#;

/// Halves of flowers of the second kind: alone the predictor takes them for the first.
fn halves() -> Value {
    json!([[3.4, 1.4, 2.4, 0.7], [3.0, 1.7, 2.25, 0.8]])
}

fn transformer(args: &[&str]) -> Value {
    let own = [TRANSFORMER].into_iter().chain(args.iter().copied()).collect::<Vec<_>>();
    json!({
        "name": "kserve-container", "image": "kserve/sklearnserver:v0.20.0", "command": ["python3", "-c"], "args": own,
    })
}

fn service(name: &str, predictor: &Value, transformer: &Value) -> String {
    let annotations = json!({"autoscaling.knative.dev/window": "6s"});
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": predictor, "transformer": {"containers": [transformer]}},
    })
    .to_string()
}

fn sklearn(name: &str) -> Value {
    let uri = format!("file://{}/examples/models/iris/model.joblib", env!("CARGO_MANIFEST_DIR"));
    json!({"minReplicas": 0, "model": {"modelFormat": {"name": name}, "storageUri": uri}})
}

async fn post(url: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
    let answer = client.post(url).json(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// Runs a program in the transformer's container and returns what it printed.
fn inside(daemon: &Daemon, service: &str, script: &str) -> String {
    let name = format!("kserve-local.{}.{service}-transformer-00001-0.default", daemon.instance());
    let ran = Command::new("docker").args(["exec", &name, "python3", "-c", script]).output().expect("docker runs");
    String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transformer_of_the_sdk_finds_its_predictor_wakes_it_and_reaches_nothing_else() {
    let test = "a_transformer_of_the_sdk_finds_its_predictor_wakes_it_and_reaches_nothing_else";
    if !docker_or_skip(test) {
        return;
    }
    let daemon = Daemon::start_with(&[], |home| {
        std::fs::write(home.join("config.yaml"), "scaleToZeroGraceSeconds: 1\n").expect("settings can be written");
    });
    daemon.drop_file("one.json", &service("one", &sklearn("sklearn"), &transformer(&[])));
    daemon.drop_file("two.json", &service("two", &sklearn("sklearn"), &transformer(&["--predictor_protocol=v2"])));
    daemon.wait_ready("one");
    daemon.wait_ready("two");

    let v1 = json!({"instances": halves()});
    let v2 = json!({"inputs": [{"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": halves()}]});
    for _ in 0..2 {
        let (status, answer) = post(&daemon.url("/v1/models/one:predict"), &v1).await;
        assert_eq!((status, &answer["predictions"]), (200, &json!([1, 1])), "{answer}");
        let (status, answer) = post(&daemon.url("/v2/models/two/infer"), &v2).await;
        assert_eq!((status, &answer["outputs"][0]["data"]), (200, &json!([1, 1])), "{answer}");
        // The second time it wakes them.
        for service in ["one", "two"] {
            eventually("the predictor sleeps", || {
                let names = Command::new("docker").args(["ps", "--format", "{{.Names}}"]).output().ok()?;
                let names = String::from_utf8_lossy(&names.stdout).into_owned();
                let own = format!("{}.{service}-predictor-00001-0.default", daemon.instance());
                (!names.lines().any(|name| name.ends_with(&own))).then_some(())
            });
        }
    }

    let probe = r#"
import json, urllib.request, urllib.error
def ask(url):
    try:
        body = json.dumps({"instances": [[6.8, 2.8, 4.8, 1.4]]}).encode()
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
    except Exception as error:
        return type(error).__name__
names = ["one-predictor.default", "one-predictor", "one-predictor.default.svc", "one-predictor.default.svc.cluster.local",
         "one-predictor-default.default.svc.cluster.local", "one.default.svc.cluster.local"]
print([ask(f"http://{name}/v1/models/one:predict") for name in names])
print([ask(f"http://{name}/v1/models/two:predict") for name in ["two-predictor.default", "two.default"]])
"#;
    let said = inside(&daemon, "one", probe);
    assert!(said.contains("[200, 200, 200, 200, 200, 200]"), "{said}");
    assert!(said.contains("['URLError', 'URLError']"), "other services have no name here: {said}");
    let data = daemon.url("");
    let host = format!(
        "import urllib.request\nfor gateway in open('/proc/net/route'):\n  pass\ntry:\n  urllib.request.urlopen('{data}', timeout=3); print('reached')\nexcept Exception as e:\n  print('closed')"
    );
    assert!(inside(&daemon, "one", &host).contains("closed"), "the daemon's own port is not theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_that_is_down_is_told_through_the_transformer() {
    if !docker_or_skip("a_predictor_that_is_down_is_told_through_the_transformer") {
        return;
    }
    let daemon = Daemon::start();
    let broken = json!({"containers": [{
        "name": "kserve-container", "image": "kserve-local/stub-runtime:test", "command": ["/stub-runtime", "exit", "7"],
    }]});
    daemon.drop_file("down.json", &service("down", &broken, &transformer(&[])));
    let url = daemon.url("/serving/default/down/v1/models/down:predict");
    let told = async {
        loop {
            let (status, answer) = post(&url, &json!({"instances": halves()})).await;
            // The SDK makes a 500 of our 503, and keeps the words.
            let words = answer.to_string();
            if status == 500 && words.contains("container `kserve-container` ended with exit code 7") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the cause is told");
}
