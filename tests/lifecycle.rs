//! Sleep, wake and what a service goes through in between, on the real binary: on imagined containers always, on Docker
//! with the stub server when it is there. Rules are told in `src/plan/tests`; here it is shown that they are wired.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

#[path = "lifecycle/bad_inputs.rs"]
mod bad_inputs;
#[path = "lifecycle/canaries.rs"]
mod canaries;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daemon::{Daemon, condition, docker_or_skip, eventually_or};
use serde_json::{Value, json};

/// What the containers are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Engine {
    Memory,
    Docker,
}

impl Engine {
    /// Starts a daemon whose services sleep soon: after a window of six seconds and no grace.
    fn daemon(self) -> Daemon {
        let engine = if self == Self::Memory { "memory" } else { "docker" };
        let config = format!("engine: {engine}\nscaleToZeroGraceSeconds: 0\n");
        Daemon::start_with(&[], |home: &Path| std::fs::write(home.join("config.yaml"), &config).expect("a config"))
    }
}

/// An InferenceService of a custom container that may sleep.
fn sleepy(name: &str, env: &[(&str, &str)]) -> Value {
    let env: Vec<Value> =
        [("PROTOCOL", "v1")].iter().chain(env).map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"autoscaling.knative.dev/window": "6s"}},
        "spec": {"predictor": {"minReplicas": 0, "containers": [{
            "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
            "args": [format!("--model_name={name}")],
            "env": env,
        }]}},
    })
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client")
}

async fn predict(client: &reqwest::Client, url: &str) -> (u16, Option<String>, String) {
    let sent = client.post(url).json(&json!({"instances": [[1, 2, 3]]})).send().await;
    let answer = sent.expect("an answer");
    let phase = answer.headers().get("x-kserve-local-phase").and_then(|phase| phase.to_str().ok()).map(str::to_owned);
    (answer.status().as_u16(), phase, answer.text().await.unwrap_or_default())
}

/// Waits until the predictor says it sleeps and nothing runs.
fn wait_asleep(daemon: &Daemon, name: &str) {
    eventually_or(
        "it falls asleep",
        || daemon.log(),
        || {
            let object = daemon.object(name)?;
            let pods = daemon.cli_ok(&["get", "pods", "-o", "name"]);
            (condition(&object, "PredictorReady")?["reason"] == "Asleep" && pods.trim().is_empty()).then_some(())
        },
    );
}

async fn sleeps_and_wakes(engine: Engine) {
    let daemon = engine.daemon();
    daemon.drop_file("iris.json", &sleepy("iris", &[]).to_string());
    daemon.wait_ready("iris");
    let url = daemon.url("/v1/models/iris:predict");
    let client = client();
    assert_eq!(predict(&client, &url).await.0, 200);
    wait_asleep(&daemon, "iris");
    let object = daemon.object("iris").expect("the object");
    assert_eq!(condition(&object, "Ready").expect("Ready")["status"], "True", "as on a cluster");
    assert_eq!(object["status"]["modelStatus"]["states"]["activeModelState"], "Standby");

    // A health check is told and wakes nothing.
    let health = client.get(daemon.url("/v2/models/iris/ready")).send().await.expect("an answer");
    assert_eq!(health.status(), 503);
    assert_eq!(health.headers()["x-kserve-local-phase"], "Asleep");
    assert!(health.headers().contains_key("retry-after"));
    assert!(daemon.cli_ok(&["get", "pods", "-o", "name"]).trim().is_empty());

    // Many first requests: one container, and all are answered.
    let first = (0..200).map(|_| predict(&client, &url));
    let answers = futures::future::join_all(first).await;
    assert!(answers.iter().all(|(status, ..)| *status == 200), "{answers:?}");
    assert!(answers.iter().any(|(_, phase, _)| phase.is_some()), "it is said that there was a wait");
    let pods = daemon.cli_ok(&["get", "pods", "-o", "name"]);
    assert_eq!(pods.lines().count(), 1, "{pods}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sleeps_and_a_burst_of_first_requests_wakes_it() {
    sleeps_and_wakes(Engine::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sleeps_and_a_burst_of_first_requests_wakes_it_on_docker() {
    if docker_or_skip("a_service_sleeps_and_a_burst_of_first_requests_wakes_it_on_docker") {
        sleeps_and_wakes(Engine::Docker).await;
    }
}

/// A paused service keeps its container, is asleep across a restart of the daemon, and wakes at once.
async fn sleeps_by_pausing(engine: Engine) {
    let mut daemon = engine.daemon();
    let mut service = sleepy("iris", &[("STUB_READY_DELAY_MS", "1000")]);
    service["metadata"]["annotations"]["kserve-local/sleep"] = json!("pause");
    daemon.drop_file("iris.json", &service.to_string());
    daemon.wait_ready("iris");
    let url = daemon.url("/v1/models/iris:predict");
    let client = client();
    let wait_paused = |daemon: &Daemon| {
        eventually_or(
            "it is paused",
            || daemon.log(),
            || daemon.cli_ok(&["get", "pods"]).contains("Asleep").then_some(()),
        );
    };
    wait_paused(&daemon);
    let start = Instant::now();
    let (status, phase, body) = predict(&client, &url).await;
    assert_eq!((status, phase.as_deref()), (200, Some("Asleep")), "{body}\n{}", daemon.log());
    // Starting it anew would take more than a second.
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    wait_paused(&daemon);
    if engine == Engine::Docker {
        let before: Vec<Value> = daemon.containers().iter().map(|one| one["Id"].clone()).collect();
        daemon.kill();
        daemon.restart();
        wait_paused(&daemon);
        assert_eq!(predict(&client, &url).await.0, 200, "{}", daemon.log());
        let after: Vec<Value> = daemon.containers().iter().map(|one| one["Id"].clone()).collect();
        assert_eq!(before, after, "the very same container");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sleeps_by_pausing_and_wakes_at_once() {
    sleeps_by_pausing(Engine::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sleeps_by_pausing_and_wakes_at_once_on_docker() {
    if docker_or_skip("a_service_sleeps_by_pausing_and_wakes_at_once_on_docker") {
        sleeps_by_pausing(Engine::Docker).await;
    }
}

/// Requests come at the very time the service falls asleep, again and again; none may be lost.
async fn meets_the_scale_down(engine: Engine, rounds: u32) {
    let daemon = engine.daemon();
    daemon.drop_file("iris.json", &sleepy("iris", &[("STUB_TERM_DELAY_MS", "300")]).to_string());
    daemon.wait_ready("iris");
    let url = daemon.url("/v1/models/iris:predict");
    let client = client();
    for round in 0..rounds {
        // Six seconds of silence, then requests every few milliseconds around the moment of sleep.
        tokio::time::sleep(Duration::from_millis(5_900 + 37 * u64::from(round))).await;
        for _ in 0..10 {
            let (status, _, body) = predict(&client, &url).await;
            assert_eq!(status, 200, "{body}\n{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_when_it_meets_the_scale_down() {
    meets_the_scale_down(Engine::Memory, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_when_it_meets_the_scale_down_on_docker() {
    if docker_or_skip("no_request_is_lost_when_it_meets_the_scale_down_on_docker") {
        meets_the_scale_down(Engine::Docker, 6).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_a_service_that_loads_wait_and_are_told_at_once_when_it_fails() {
    if !docker_or_skip("requests_to_a_service_that_loads_wait_and_are_told_at_once_when_it_fails") {
        return;
    }
    let daemon = Engine::Docker.daemon();
    daemon.drop_file("slow.json", &sleepy("slow", &[("STUB_READY_DELAY_MS", "2000")]).to_string());
    daemon.drop_file(
        "sick.json",
        &sleepy("sick", &[("STUB_EXIT_AFTER_MS", "1500"), ("STUB_NEVER_READY", "1")]).to_string(),
    );
    eventually_or("both are known", || daemon.log(), || daemon.object("slow").and(daemon.object("sick")));
    let client = client();
    let (slow, sick) = (daemon.url("/v1/models/slow:predict"), daemon.url("/v1/models/sick:predict"));
    let (slow, sick) = tokio::join!(predict(&client, &slow), predict(&client, &sick));
    assert_eq!(slow.0, 200, "{slow:?}");
    assert_eq!(sick.0, 503, "{sick:?}");
    assert!(sick.2.contains("CrashLoopBackOff") && sick.2.contains("exit code"), "{sick:?}");
}

/// Counts the replicas that answer.
fn ready_pods(daemon: &Daemon) -> usize {
    let pods: Value = serde_json::from_str(&daemon.cli_ok(&["get", "pods", "-o", "json"])).unwrap_or_default();
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    pods["items"].as_array().map_or(0, |pods| pods.iter().filter(is_ready).count())
}

/// Eight clients ask without a pause, then one asks now and then: replicas follow, and every request is answered.
async fn follows_the_load(engine: Engine) {
    let daemon = engine.daemon();
    let mut service = sleepy("iris", &[("STUB_DELAY_MS", "300")]);
    let predictor = &mut service["spec"]["predictor"];
    predictor["minReplicas"] = json!(1);
    predictor["maxReplicas"] = json!(3);
    predictor["scaleTarget"] = json!(2);
    daemon.drop_file("iris.json", &service.to_string());
    daemon.wait_ready("iris");
    let url = daemon.url("/v1/models/iris:predict");
    let client = client();
    let is_busy = AtomicBool::new(true);
    let ask = async || {
        let sent = client.post(&url).header("x-imagined-takes-ms", "300").json(&json!({"instances": [[1]]})).send();
        let answer = sent.await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", daemon.log());
    };
    let busy = async |_: u32| {
        let mut answered = 0;
        while is_busy.load(Ordering::Relaxed) {
            ask().await;
            answered += 1;
        }
        answered
    };
    let watch = async {
        wait_pods(&daemon, 3).await;
        is_busy.store(false, Ordering::Relaxed);
        for _ in 0..200 {
            ask().await;
            if ready_pods(&daemon) == 1 {
                return;
            }
        }
        panic!("replicas do not go: {}", daemon.log());
    };
    let (counts, ()) = tokio::join!(futures::future::join_all((0..8).map(busy)), watch);
    assert!(counts.iter().all(|count| *count > 0), "every client was answered: {counts:?}");
}

async fn wait_pods(daemon: &Daemon, count: usize) {
    for _ in 0..600 {
        if ready_pods(daemon) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there are never {count} replicas that answer: {}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_the_load_and_no_request_is_lost() {
    follows_the_load(Engine::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_the_load_and_no_request_is_lost_on_docker() {
    if docker_or_skip("replicas_follow_the_load_and_no_request_is_lost_on_docker") {
        follows_the_load(Engine::Docker).await;
    }
}

/// The share of answers that come from the revision with this mark, in percent; every answer must be good.
async fn share_of(daemon: &Daemon, mark: &str, count: u32) -> u32 {
    let client = client();
    let ask = async |_: u32| {
        let request = client.get(daemon.url("/stub/env")).header("host", "iris-default.example.com");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        u32::from(answer.text().await.expect("a body").contains(mark))
    };
    let mut hits = 0;
    for number in 0..count {
        hits += ask(number).await;
    }
    hits * 100 / count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_through_restarts_promotion_and_return_and_no_request_is_lost() {
    if !docker_or_skip("a_canary_gets_its_share_through_restarts_promotion_and_return_and_no_request_is_lost") {
        return;
    }
    let mut daemon = Engine::Docker.daemon();
    let version = |mark: &str, percent: Option<u32>| {
        let mut service = sleepy("iris", &[("MARK", mark)]);
        service["spec"]["predictor"]["minReplicas"] = json!(1);
        if let Some(percent) = percent {
            service["spec"]["predictor"]["canaryTrafficPercent"] = json!(percent);
        }
        service.to_string()
    };
    let rolled_out = |daemon: &Daemon, ready: &str, rolled_out: &str, percent: i64| {
        eventually_or(
            "the revisions are told",
            || daemon.log(),
            || {
                let object = daemon.object("iris")?;
                let part = &object["status"]["components"]["predictor"];
                let told = part["latestReadyRevision"] == format!("iris-predictor-{ready}")
                    && part["latestRolledoutRevision"] == format!("iris-predictor-{rolled_out}")
                    && part["traffic"][0]["percent"] == percent;
                told.then_some(())
            },
        );
    };
    daemon.drop_file("iris.json", &version("first", None));
    daemon.wait_ready("iris");
    daemon.drop_file("iris.json", &version("second", Some(20)));
    rolled_out(&daemon, "00002", "00001", 20);
    let share = share_of(&daemon, "second", 600).await;
    assert!((14..=26).contains(&share), "{share} %");
    daemon.kill();
    daemon.restart();
    daemon.wait_ready("iris");
    let share = share_of(&daemon, "second", 600).await;
    assert!((14..=26).contains(&share), "{share} % after a restart");
    // Promotion, and back to a revision whose container is long gone.
    daemon.drop_file("iris.json", &version("second", Some(100)));
    rolled_out(&daemon, "00002", "00002", 100);
    assert_eq!(share_of(&daemon, "second", 50).await, 100);
    eventually_or("the first revision is gone", || daemon.log(), || (daemon.containers().len() == 1).then_some(()));
    daemon.drop_file("iris.json", &version("second", Some(0)));
    rolled_out(&daemon, "00002", "00001", 0);
    eventually_or("the first revision serves", || daemon.log(), || (daemon.containers().len() == 2).then_some(()));
    for _ in 0..40 {
        // All the while somebody answers.
        if share_of(&daemon, "first", 10).await == 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(share_of(&daemon, "first", 100).await, 100, "nought percent pins the one before");
}

/// Prints what a wake takes beside `docker run` of the same image, interleaved.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure_wakes_against_docker_run() {
    if !docker_or_skip("measure_wakes_against_docker_run") {
        return;
    }
    let daemon = Engine::Docker.daemon();
    daemon.drop_file("iris.json", &sleepy("iris", &[]).to_string());
    daemon.wait_ready("iris");
    let url = daemon.url("/v1/models/iris:predict");
    let client = client();
    let (mut wakes, mut runs) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        wait_asleep(&daemon, "iris");
        let start = Instant::now();
        assert_eq!(predict(&client, &url).await.0, 200);
        wakes.push(start.elapsed());
        runs.push(docker_run().await);
    }
    wakes.sort();
    runs.sort();
    let ratio = wakes[3].as_secs_f64() / runs[3].as_secs_f64();
    println!("wake {wakes:?}\ndocker run {runs:?}\nmedian ratio {ratio:.2}");
}

/// From `docker run` to the first answer.
async fn docker_run() -> Duration {
    let start = Instant::now();
    let id = daemon::docker(&["run", "-d", "--rm", "kserve-local/stub-runtime:test", "--model_name=iris"]);
    let id = id.trim();
    let address = daemon::docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", id]);
    let url = format!("http://{}:8080/v1/models/iris:predict", address.trim());
    let client = client();
    loop {
        let sent = client.post(&url).json(&json!({"instances": [[1]]})).send().await;
        if sent.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = start.elapsed();
    daemon::docker(&["rm", "-f", id]);
    took
}
