//! Named canaries (`spec.canary[]`) on the real binary and real containers: shares, a dark launch, restarts, promotion
//! and removal, with somebody asking all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Daemon, condition, docker_or_skip, eventually_or};
use super::{Engine, client};

const HOST: &str = "iris-default.example.com";
const GREEN_HOST: &str = "iris-green-predictor-default.example.com";

/// A runtime of the stub server.
fn runtime() -> Value {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ClusterServingRuntime", "metadata": {"name": "stub"},
        "spec": {
            "supportedModelFormats": [{"name": "stub", "autoSelect": true}], "protocolVersions": ["v1"],
            "containers": [{
                "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
                "args": ["--model_name={{.Name}}"],
            }],
        },
    })
}

/// A predictor whose answers carry a mark.
fn predictor(daemon: &Daemon, mark: &str) -> Value {
    let folder = daemon.home().join("folders").join(mark);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("model.txt"), mark).expect("a model");
    json!({"model": {
        "modelFormat": {"name": "stub"}, "storageUri": format!("file://{}", folder.display()),
        "env": [{"name": "MARK", "value": mark}],
    }})
}

fn service(daemon: &Daemon, stable: &str, name: Option<&str>, canary: Option<(&str, u32)>) -> String {
    let mut service = json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "iris", "annotations": {"serving.kserve.io/deploymentMode": "Standard"}},
        "spec": {"predictor": predictor(daemon, stable)},
    });
    if let Some(name) = name {
        service["spec"]["predictor"]["name"] = json!(name);
    }
    if let Some((mark, percent)) = canary {
        let mut predictor = predictor(daemon, mark);
        predictor["name"] = json!("green");
        service["spec"]["canary"] = json!([{"trafficPercent": percent, "predictor": predictor}]);
    }
    service.to_string()
}

/// Asks so often and returns how often the answer carried the mark, in percent; every answer must be good.
async fn share(daemon: &Daemon, host: &str, mark: &str, count: u32) -> u32 {
    let client = client();
    let mut hits = 0;
    for _ in 0..count {
        let answer = client.get(daemon.url("/stub/env")).header("host", host).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        hits += u32::from(answer.text().await.expect("a body").contains(mark));
    }
    hits * 100 / count
}

/// Waits until the condition of the canaries gives this reason; none when it is to be gone.
fn wait_for(daemon: &Daemon, reason: Option<&str>) {
    eventually_or(
        "the condition of the canaries",
        || daemon.log(),
        || {
            let object = daemon.object("iris")?;
            let told = condition(&object, "CanaryPredictorReady");
            let told = told.and_then(|told| told["reason"].as_str().map(str::to_owned));
            (told.as_deref() == reason).then_some(())
        },
    );
}

/// Asks `iris` without a pause until told to end, and counts what it is answered.
pub(super) struct Asking {
    ends: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Asking {
    /// Begins to ask.
    pub(super) fn begin(daemon: &Daemon) -> Self {
        let (ends, good, bad) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..4).map(|_| {
            let (ends, good, bad) = (Arc::clone(&ends), Arc::clone(&good), Arc::clone(&bad));
            let (client, url) = (client(), daemon.url("/v1/models/iris:predict"));
            tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let sent = client.post(&url).header("host", HOST).json(&json!({"instances": [[1]]})).send().await;
                    let is_good = sent.is_ok_and(|answer| answer.status() == 200);
                    if is_good { &good } else { &bad }.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { ends, good, bad, tasks }
    }

    /// Ends. Returns how many answers were good, and how many were not.
    pub(super) async fn end(self) -> (u64, u64) {
        self.ends.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("it ends");
        }
        (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_canary_gets_its_share_and_is_promoted_as_it_runs_without_losing_a_request() {
    if !docker_or_skip("a_named_canary_gets_its_share_and_is_promoted_as_it_runs_without_losing_a_request") {
        return;
    }
    let mut daemon = Engine::Docker.daemon();
    daemon.drop_file("runtime.json", &runtime().to_string());
    daemon.drop_file("iris.json", &service(&daemon, "first", None, None));
    daemon.wait_ready("iris");
    let asking = Asking::begin(&daemon);

    daemon.drop_file("iris.json", &service(&daemon, "first", None, Some(("second", 0))));
    wait_for(&daemon, Some("AllCanariesReady"));
    assert_eq!(share(&daemon, HOST, "second", 100).await, 0, "a dark launch gets nothing");
    assert_eq!(share(&daemon, GREEN_HOST, "second", 20).await, 100, "and has a host of its own");

    daemon.drop_file("iris.json", &service(&daemon, "first", None, Some(("second", 20))));
    eventually_or(
        "the share is told",
        || daemon.log(),
        || (daemon.object("iris")?["status"]["canaryStatuses"][0]["trafficPercent"] == 20).then_some(()),
    );
    let hits = share(&daemon, HOST, "second", 600).await;
    assert!((14..=26).contains(&hits), "{hits} %");
    let pods = |daemon: &Daemon| daemon.cli_ok(&["get", "pods", "-o", "name"]);
    let green = |daemon: &Daemon| pods(daemon).lines().find(|line| line.contains("green")).map(str::to_owned);
    let before = green(&daemon).expect("a pod of the canary");
    let deployments = daemon.cli_ok(&["get", "deployments", "-o", "name"]);
    assert!(deployments.contains("iris-green-predictor"), "{deployments}");
    let (good, bad) = asking.end().await;
    assert!(good > 100 && bad == 0, "{good} good, {bad} bad");

    daemon.kill();
    daemon.restart();
    daemon.wait_ready("iris");
    wait_for(&daemon, Some("AllCanariesReady"));
    let hits = share(&daemon, HOST, "second", 600).await;
    assert!((14..=26).contains(&hits), "{hits} % after a restart");

    let asking = Asking::begin(&daemon);
    daemon.drop_file("iris.json", &service(&daemon, "second", Some("green"), None));
    wait_for(&daemon, None);
    eventually_or("the old one is gone", || daemon.log(), || (daemon.containers().len() == 1).then_some(()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (good, bad) = asking.end().await;
    assert!(good > 20 && bad == 0, "{good} good, {bad} bad");
    assert_eq!(share(&daemon, HOST, "second", 50).await, 100);
    assert_eq!(green(&daemon), Some(before), "the same replica goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_never_answers_gets_no_request_and_its_removal_changes_nothing() {
    if !docker_or_skip("a_canary_that_never_answers_gets_no_request_and_its_removal_changes_nothing") {
        return;
    }
    let daemon = Engine::Docker.daemon();
    daemon.drop_file("runtime.json", &runtime().to_string());
    daemon.drop_file("iris.json", &service(&daemon, "first", None, None));
    daemon.wait_ready("iris");
    let mut broken: Value =
        serde_json::from_str(&service(&daemon, "first", None, Some(("second", 50)))).expect("a service");
    broken["spec"]["canary"][0]["predictor"]["model"]["env"] = json!([{"name": "STUB_NEVER_READY", "value": "1"}]);
    daemon.drop_file("iris.json", &broken.to_string());
    wait_for(&daemon, Some("CanariesNotReady"));
    assert_eq!(share(&daemon, HOST, "second", 100).await, 0);
    let object = daemon.object("iris").expect("the service");
    assert_eq!(condition(&object, "Ready").expect("Ready")["status"], "True");
    assert_eq!(object["status"]["canaryStatuses"][0]["ready"], false);
    // Its own host waits for it, as anybody does for what loads; who only asks how it is does not.
    let refused =
        client().get(daemon.url("/v2/health/ready")).header("host", GREEN_HOST).send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    daemon.drop_file("iris.json", &service(&daemon, "first", None, None));
    wait_for(&daemon, None);
    eventually_or("it is gone", || daemon.log(), || (daemon.containers().len() == 1).then_some(()));
    assert_eq!(share(&daemon, HOST, "first", 50).await, 100);
}
