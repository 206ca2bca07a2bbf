//! Processor limits lifted while a model loads, replicas that follow processor and memory, the annotation that stops a
//! service: on Docker, wiring and not rules.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, condition, docker_or_skip, eventually_or};
use super::{client, post};

fn service(name: &str, predictor: &Value, container: &Value) -> Value {
    let mut whole = json!({
        "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
        "args": [format!("--model_name={name}")],
    });
    for (key, value) in container.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let mut predictor = predictor.clone();
    predictor["containers"] = json!([whole]);
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {}}, "spec": {"predictor": predictor},
    })
}

fn env(pairs: &[(&str, &str)]) -> Value {
    [("PROTOCOL", "v1")].iter().chain(pairs).map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// The processor limit of a service's only container, in thousandths of a core; 0 for none.
fn limit(daemon: &Daemon, name: &str) -> Option<i64> {
    let its = |one: &Value| one["Config"]["Labels"]["kserve-local/service"] == name;
    let found = daemon.containers().into_iter().find(its)?;
    let (nanos, quota) = (found["HostConfig"]["NanoCpus"].as_i64()?, found["HostConfig"]["CpuQuota"].as_i64()?);
    let period = found["HostConfig"]["CpuPeriod"].as_i64().filter(|period| *period > 0).unwrap_or(100_000);
    Some(if nanos > 0 { nanos / 1_000_000 } else { quota.max(0) * 1000 / period })
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_limits_are_lifted_while_a_model_loads_and_hold_from_then_on() {
    if !docker_or_skip("processor_limits_are_lifted_while_a_model_loads_and_hold_from_then_on") {
        return;
    }
    let daemon = Daemon::start();
    // Two seconds of work: ten at a fifth of a core.
    let container = json!({
        "env": env(&[("STUB_BURN_MS", "2000")]),
        "resources": {"limits": {"cpu": "200m", "memory": "256Mi"}},
    });
    let times = |name: &str, lift: Option<&str>| {
        let mut written = service(name, &json!({}), &container);
        if let Some(lift) = lift {
            written["metadata"]["annotations"]["kserve-local/lift-cpu-limits"] = json!(lift);
        }
        let begun = Instant::now();
        daemon.drop_file(&format!("{name}.json"), &written.to_string());
        let at_first = eventually_or("it is made", || daemon.log(), || limit(&daemon, name));
        daemon.wait_ready(name);
        (at_first, begun.elapsed())
    };
    let (at_first, lifted) = times("lifted", None);
    assert_eq!(at_first, 0, "no limit while it loads");
    eventually_or("the limit holds", || daemon.log(), || (limit(&daemon, "lifted") == Some(200)).then_some(()));
    let (at_first, held) = times("held", Some("false"));
    assert_eq!(at_first, 200);
    println!("ready after {lifted:?} with the limit lifted, {held:?} without");
    assert!(lifted < held, "{lifted:?} {held:?}");
    // It is in force: a fifth of a second of work takes about one.
    let begun = Instant::now();
    let request = client().post(daemon.url("/v1/models/lifted:predict")).header("x-stub-burn-ms", "400");
    assert_eq!(request.json(&json!({"instances": [[1]]})).send().await.expect("an answer").status(), 200);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Counts the replicas that answer.
fn replicas(daemon: &Daemon) -> usize {
    let pods: Value = serde_json::from_str(&daemon.cli_ok(&["get", "pods", "-o", "json"])).unwrap_or_default();
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    pods["items"].as_array().map_or(0, |pods| pods.iter().filter(is_ready).count())
}

/// Asks until there are two replicas; every request must be answered. Returns how long it took, and how many were asked.
async fn grows(daemon: &Daemon, name: &str, header: (&str, &str), at_once: usize) -> (Duration, u32) {
    let (url, until) = (daemon.url(&format!("/v1/models/{name}:predict")), AtomicBool::new(false));
    let client = client();
    let ask = async |_: usize| {
        let mut asked = 0;
        while !until.load(Ordering::Relaxed) {
            let request = client.post(&url).header(header.0, header.1).json(&json!({"instances": [[1]]}));
            assert_eq!(request.send().await.expect("an answer").status(), 200, "{}", daemon.log());
            asked += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        asked
    };
    let watch = async {
        for _ in 0..1200 {
            if replicas(daemon) == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until.store(true, Ordering::Relaxed);
    };
    let begun = Instant::now();
    let (asked, ()) = tokio::join!(futures::future::join_all((0..at_once).map(ask)), watch);
    // There may be no room for another one: that is told by `ps`.
    assert_eq!(replicas(daemon), 2, "{}\n{}", daemon.cli_ok(&["ps"]), daemon.log());
    (begun.elapsed(), asked.iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_processor_and_memory() {
    if !docker_or_skip("replicas_follow_processor_and_memory") {
        return;
    }
    let daemon = Daemon::start();
    let scaled = |name: &str, metric: &str| {
        let predictor = json!({"minReplicas": 1, "maxReplicas": 2, "scaleMetric": metric, "scaleTarget": 50});
        let container = json!({
            "env": env(&[]), "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        });
        let mut written = service(name, &predictor, &container);
        written["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = json!("Standard");
        written.to_string()
    };
    daemon.drop_file("burner.json", &scaled("burner", "cpu"));
    daemon.wait_ready("burner");
    let burnt = grows(&daemon, "burner", ("x-stub-burn-ms", "50"), 2).await;
    std::fs::remove_file(daemon.service_file("burner.json")).expect("the file can be deleted");
    daemon.drop_file("eater.json", &scaled("eater", "memory"));
    daemon.wait_ready("eater");
    eventually_or("the burner is gone", || daemon.log(), || (replicas(&daemon) == 1).then_some(()));
    // What is taken is kept: one request is enough.
    let request = client().post(daemon.url("/v1/models/eater:predict")).header("x-stub-eat-mib", "60");
    assert_eq!(request.json(&json!({"instances": [[1]]})).send().await.expect("an answer").status(), 200);
    let eaten = grows(&daemon, "eater", ("x-nothing", "1"), 1).await;
    println!("two replicas, and requests till then: processor {burnt:?}, memory {eaten:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_stopped_leaves_nothing_running_and_says_so() {
    if !docker_or_skip("a_service_that_is_stopped_leaves_nothing_running_and_says_so") {
        return;
    }
    let daemon = Daemon::start();
    let mut written = service("iris", &json!({}), &json!({"env": env(&[])}));
    daemon.drop_file("iris.json", &written.to_string());
    daemon.wait_ready("iris");
    written["metadata"]["annotations"]["serving.kserve.io/stop"] = json!("true");
    daemon.drop_file("iris.json", &written.to_string());
    eventually_or("nothing runs", || daemon.log(), || daemon.containers().is_empty().then_some(()));
    let object = daemon.object("iris").expect("its object stays");
    assert_eq!(condition(&object, "Stopped").expect("Stopped")["status"], "True", "{object:#}");
    assert_eq!(condition(&object, "Ready").expect("Ready")["reason"], "Stopped");
    let (status, body) = post(&daemon.url("/v1/models/iris:predict"), None, &json!({"instances": [[1]]})).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.to_string().contains("Stopped"), "{body}");
    written["metadata"]["annotations"]["serving.kserve.io/stop"] = json!("false");
    daemon.drop_file("iris.json", &written.to_string());
    daemon.wait_ready("iris");
    let (status, _) = post(&daemon.url("/v1/models/iris:predict"), None, &json!({"instances": [[1]]})).await;
    assert_eq!(status, 200);
}
