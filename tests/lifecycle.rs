//! Sleep, wake and what a service goes through in between, on the real binary: on imagined containers always, on Docker
//! with the stub server when it is there. Rules are told in `src/plan/tests`; here it is shown that they are wired.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

use std::path::Path;
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

/// Prints what a wake takes beside `docker run` of the same image, interleaved.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "the measurement is what it is for")]
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
