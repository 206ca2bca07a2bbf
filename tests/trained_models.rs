//! Several models in one real MLServer: added, changed, deleted, and there again after every kind of end.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use daemon::{Daemon, condition, docker, docker_or_skip, eventually_or, text};
use serde_json::{Value, json};

const IMAGE: &str = "docker.io/seldonio/mlserver:1.7.1";

fn shelf(replicas: u32) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "shelf"},
        "spec": {"predictor": {"minReplicas": replicas, "model": {
            "modelFormat": {"name": "sklearn"}, "runtime": "kserve-mlserver",
            "env": [{"name": "MLSERVER_PARALLEL_WORKERS", "value": "0"}],
            "resources": {"requests": {"cpu": "100m", "memory": "300Mi"}, "limits": {"memory": "2Gi"}},
        }}},
    })
    .to_string()
}

fn trained(name: &str, folder: &Path, memory: &str) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "TrainedModel", "metadata": {"name": name},
        "spec": {"inferenceService": "shelf", "model": {
            "storageUri": format!("file://{}", folder.display()), "framework": "sklearn", "memory": memory,
        }},
    })
    .to_string()
}

/// Makes models that answer a number each, with the server's own libraries. False when that cannot be done here.
fn make_models(folder: &Path) -> bool {
    let script = "import joblib, os\nfrom sklearn.dummy import DummyRegressor\nfor n in range(1, 6):\n    os.makedirs(f'/out/{n}', exist_ok=True)\n    joblib.dump(DummyRegressor(strategy='constant', constant=float(n)).fit([[0.0]], [float(n)]), f'/out/{n}/model.joblib')\n    os.chmod(f'/out/{n}/model.joblib', 0o644)\n";
    let made = Command::new("docker")
        .args(["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python3", "-v"])
        .arg(format!("{}:/out", folder.display()))
        .args([IMAGE, "-c", script])
        .output();
    made.is_ok_and(|made| made.status.success())
}

async fn ask(daemon: &Daemon, url: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().expect("a client");
    let body = json!({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]});
    let answer = client.post(daemon.url(url)).json(&body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn number(daemon: &Daemon, model: &str) -> Value {
    let (status, answer) = ask(daemon, &format!("/v2/models/{model}/infer")).await;
    assert_eq!(status, 200, "{model}: {answer}\n{}", daemon.log());
    answer["outputs"][0]["data"][0].clone()
}

fn object(daemon: &Daemon, name: &str) -> Option<Value> {
    serde_json::from_str(&text(&daemon.cli(&["get", "tm", name, "-o", "json"]).stdout)).ok()
}

fn ready(daemon: &Daemon, name: &str) -> Option<(String, String)> {
    let object = object(daemon, name)?;
    let ready = condition(&object, "Ready")?;
    Some((ready["status"].as_str()?.to_owned(), ready["reason"].as_str().unwrap_or_default().to_owned()))
}

fn wait_ready(daemon: &Daemon, name: &str) {
    eventually_or(
        &format!("{name} is ready"),
        || format!("{:#}\n{}", object(daemon, name).unwrap_or_default(), daemon.log()),
        || ready(daemon, name).filter(|(status, _)| status == "True"),
    );
}

fn wait_reason(daemon: &Daemon, name: &str, reason: &str) {
    eventually_or(
        &format!("{name} says {reason}"),
        || format!("{:#}\n{}", object(daemon, name).unwrap_or_default(), daemon.log()),
        || ready(daemon, name).filter(|(_, why)| why == reason),
    );
}

fn serving(daemon: &Daemon) -> Vec<String> {
    let all = daemon.containers();
    let serving = all.iter().filter(|one| one["Config"]["Labels"]["kserve-local/container"] == "kserve-container");
    serving.filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_models_in_one_mlserver_come_change_go_and_survive() {
    let name = "three_models_in_one_mlserver_come_change_go_and_survive";
    if !docker_or_skip(name) {
        return;
    }
    let models = tempfile::tempdir().expect("a folder");
    if !make_models(models.path()) {
        daemon::skip(name, "no image of MLServer with scikit-learn; tests/images/build makes it");
        return;
    }
    let folder = |number: u32| models.path().join(number.to_string());
    let mut daemon = Daemon::start();
    daemon.drop_file("one.json", &trained("one", &folder(1), "100Mi"));
    wait_reason(&daemon, "one", "InferenceServiceNotFound");
    daemon.drop_file("shelf.json", &shelf(1));
    wait_ready(&daemon, "one");
    assert_eq!(number(&daemon, "one").await, json!(1.0));

    // More are added while it runs, and no container is made for them.
    let containers = serving(&daemon);
    daemon.drop_file("two.json", &trained("two", &folder(2), "100Mi"));
    daemon.drop_file("three.json", &trained("three", &folder(3), "100Mi"));
    wait_ready(&daemon, "two");
    wait_ready(&daemon, "three");
    for (model, answer) in [("one", 1.0), ("two", 2.0), ("three", 3.0)] {
        assert_eq!(number(&daemon, model).await, json!(answer));
        let (status, _) = ask(&daemon, &format!("/serving/default/shelf/v2/models/{model}/infer")).await;
        assert_eq!(status, 200);
    }
    assert_eq!(serving(&daemon), containers);
    let url = object(&daemon, "two").expect("an object")["status"]["url"].as_str().expect("a URL").to_owned();
    assert!(url.starts_with("http://shelf.default.localhost:") && url.ends_with("/v2/models/two/infer"), "{url}");
    let table = daemon.cli_ok(&["get", "tm"]);
    assert!(table.starts_with("NAME") && table.contains("READY"), "{table}");
    let (_, index) = ask(&daemon, "/v2/repository/index").await;
    let states: Vec<_> = index.as_array().expect("a list").iter().map(|item| (&item["name"], &item["state"])).collect();
    let state = json!("READY");
    assert_eq!(states, [(&json!("one"), &state), (&json!("three"), &state), (&json!("two"), &state)]);

    // One is changed, and answers all the time; a change that fails leaves what was there.
    daemon.drop_file("two.json", &trained("two", &folder(4), "100Mi"));
    eventually_or(
        "the change answers",
        || daemon.log(),
        || {
            let answer =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(number(&daemon, "two")));
            (answer == json!(4.0)).then_some(())
        },
    );
    std::fs::create_dir(folder(9)).expect("a folder");
    std::fs::write(folder(9).join("model.joblib"), "nonsense").expect("a file");
    daemon.drop_file("two.json", &trained("two", &folder(9), "100Mi"));
    wait_reason(&daemon, "two", "ModelLoadFailed");
    assert_eq!(number(&daemon, "two").await, json!(4.0));
    daemon.drop_file("two.json", &trained("two", &folder(2), "100Mi"));
    wait_ready(&daemon, "two");
    assert_eq!(number(&daemon, "two").await, json!(2.0));

    // What does not fit, what has another framework, and what upstream refuses.
    daemon.drop_file("large.json", &trained("large", &folder(5), "4Gi"));
    wait_reason(&daemon, "large", "MemoryResourceNotAvailable");
    let (status, answer) = ask(&daemon, "/v2/models/large/infer").await;
    assert_eq!((status, &answer["reason"]), (503, &json!("MemoryResourceNotAvailable")), "{answer}");
    std::fs::remove_file(daemon.service_file("large.json")).expect("it was there");

    // The server ends; requests wait until it has its models again.
    docker(&["kill", &serving(&daemon)[0]]);
    eventually_or(
        "it answers again",
        || daemon.log(),
        || {
            let call = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(ask(&daemon, "/v2/models/three/infer"))
            });
            (call.0 == 200).then_some(())
        },
    );
    for (model, answer) in [("one", 1.0), ("two", 2.0), ("three", 3.0)] {
        assert_eq!(number(&daemon, model).await, json!(answer));
    }

    // The daemon ends; the server does not notice.
    let before = serving(&daemon);
    let loads = daemon.log().matches("loaded").count();
    daemon.kill();
    daemon.restart();
    for (model, answer) in [("one", 1.0), ("two", 2.0), ("three", 3.0)] {
        wait_ready(&daemon, model);
        assert_eq!(number(&daemon, model).await, json!(answer));
    }
    assert_eq!(serving(&daemon), before);
    assert_eq!(daemon.log().matches("loaded").count(), loads, "nothing is loaded anew: {}", daemon.log());

    // One more replica loads all of them before it gets requests.
    daemon.drop_file("shelf.json", &shelf(2));
    eventually_or("there are two", || daemon.log(), || (serving(&daemon).len() == 2).then_some(()));
    daemon.wait_ready("shelf");
    for _ in 0..20 {
        assert_eq!(number(&daemon, "three").await, json!(3.0));
    }

    // One is deleted.
    daemon.cli_ok(&["delete", "tm", "three"]);
    eventually_or(
        "it is not called any more",
        || daemon.log(),
        || {
            let (status, _) = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(ask(&daemon, "/v2/models/three/infer"))
            });
            (status == 404).then_some(())
        },
    );
    assert_eq!(number(&daemon, "one").await, json!(1.0));
    let said = daemon.cli_ok(&["events", "--for", "tm/one"]);
    assert!(said.contains("ModelLoaded"), "{said}");
    let described = daemon.cli_ok(&["describe", "tm", "one"]);
    assert!(described.contains("ModelLoaded"), "{described}");
}
