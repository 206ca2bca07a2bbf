//! Two hundred requests a second, twenty updates and a canary in three steps: nothing is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client;
use super::daemon::{Daemon, docker_or_skip, eventually_or};

const RATE: u64 = 200;
const UPDATES: u32 = 20;

fn version(mark: &str, percent: Option<u32>) -> String {
    let mut service = json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"predictor": {"containers": [{
            "name": "kserve-container", "image": "kserve-local/stub-runtime:test", "args": ["--model_name=iris"],
            "env": [{"name": "PROTOCOL", "value": "v1"}, {"name": "MARK", "value": mark}],
        }]}},
    });
    if let Some(percent) = percent {
        service["spec"]["predictor"]["canaryTrafficPercent"] = json!(percent);
    }
    service.to_string()
}

/// Requests at a steady rate, however long each takes, until told to stop. Every eighth is one that is not repeated by
/// anybody: a prediction of a hundred milliseconds.
async fn steady(url: String, until: Arc<AtomicBool>) -> (u64, BTreeMap<String, u64>) {
    let client = client();
    let mut under_way = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    let mut sent = 0_u64;
    while !until.load(Ordering::Relaxed) {
        ticks.tick().await;
        sent += 1;
        let delay = if sent.is_multiple_of(8) { "100" } else { "0" };
        let request = client.post(&url).header("x-stub-delay-ms", delay).json(&json!({"instances": [[1, 2, 3]]}));
        under_way.spawn(async move {
            let answer = match request.send().await {
                Ok(answer) if answer.status() == 200 => {
                    answer.json::<Value>().await.map_err(|error| format!("cut: {error}"))
                }
                Ok(answer) => Err(answer.status().to_string()),
                Err(error) => Err(format!("{error:?}")),
            };
            answer.and_then(|body| if body["predictions"] == json!([6.0]) { Ok(()) } else { Err(body.to_string()) })
        });
    }
    let mut bad = BTreeMap::new();
    for answer in under_way.join_all().await {
        if let Err(why) = answer {
            *bad.entry(why).or_default() += 1;
        }
    }
    (sent, bad)
}

fn wait_revision(daemon: &Daemon, number: u32, percent: i64) {
    let wanted = format!("iris-predictor-{number:05}");
    eventually_or(
        &format!("{wanted} has {percent} %"),
        || daemon.log(),
        || {
            let object = daemon.object("iris")?;
            let part = &object["status"]["components"]["predictor"];
            (part["latestReadyRevision"] == wanted && part["traffic"][0]["percent"] == percent).then_some(())
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_updates_and_a_canary_under_two_hundred_requests_a_second_lose_nothing() {
    if !docker_or_skip("twenty_updates_and_a_canary_under_two_hundred_requests_a_second_lose_nothing") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("iris.json", &version("0", None));
    daemon.wait_ready("iris");
    let until = Arc::new(AtomicBool::new(false));
    #[expect(clippy::disallowed_methods, reason = "tests have no daemon to track their tasks")]
    let load = tokio::spawn(steady(daemon.url("/v1/models/iris:predict"), Arc::clone(&until)));
    let begun = Instant::now();
    for update in 1..=UPDATES {
        daemon.drop_file("iris.json", &version(&update.to_string(), None));
        wait_revision(&daemon, update + 1, 100);
    }
    let updated = begun.elapsed();
    for percent in [10, 50, 100] {
        daemon.drop_file("iris.json", &version("canary", Some(percent)));
        wait_revision(&daemon, UPDATES + 2, i64::from(percent));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    until.store(true, Ordering::Relaxed);
    let (sent, bad) = load.await.expect("the load ends");
    let took = begun.elapsed();
    println!(
        "{sent} requests in {took:.1?} ({:.0} a second), {UPDATES} updates in {updated:.1?}, lost: {bad:?}",
        sent as f64 / took.as_secs_f64()
    );
    assert!(bad.is_empty(), "{bad:?}\n{}", daemon.log());
}
