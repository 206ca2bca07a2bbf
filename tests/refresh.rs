//! `kserve-local/refresh` on the real binary: a model that changed at its source becomes a revision, and whoever did not
//! ask for that keeps what it has. Rules are told in `src/plan/refresh.rs` and `storage_conformance/refresh.rs`.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;
#[path = "support/origin.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod origin;

use std::path::Path;

use daemon::{Daemon, eventually_or};
use origin::{Fault, Object, Origin};
use serde_json::{Value, json};

fn service(name: &str, uri: &str, refresh: Option<&str>) -> String {
    let annotations = refresh.map_or_else(|| json!({}), |when| json!({ "kserve-local/refresh": when }));
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": {"containers": [{
            "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
            "args": [format!("--model_name={name}")],
            "env": [{"name": "PROTOCOL", "value": "v1"}, {"name": "STORAGE_URI", "value": uri}],
        }]}},
    })
    .to_string()
}

/// Returns the revision that has the traffic.
fn revision(daemon: &Daemon, name: &str) -> String {
    let object = daemon.object(name).unwrap_or_default();
    let revision = &object["status"]["components"]["predictor"]["latestRolledoutRevision"];
    revision.as_str().unwrap_or_default().to_owned()
}

fn wait_revision(daemon: &Daemon, name: &str, wanted: &str) {
    let seen = || format!("{}\n{}", revision(daemon, name), daemon.log());
    eventually_or(&format!("{name} gets to revision {wanted}"), seen, || {
        revision(daemon, name).ends_with(wanted).then_some(())
    });
}

fn note(daemon: &Daemon, name: &str, key: &str) -> Option<String> {
    let object: Value = daemon.object(name)?;
    object["status"]["annotations"][key].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_model_becomes_a_revision_where_that_was_asked_for_and_nowhere_else() {
    let origin = Origin::start().await;
    origin.put("/bucket/model.joblib", Object::new("first"));
    let uri = origin.url("/bucket/model.joblib");
    let mut daemon =
        Daemon::start_with(&[], |home: &Path| std::fs::write(home.join("config.yaml"), "engine: memory\n").unwrap());
    daemon.drop_file("fresh.json", &service("fresh", &uri, Some("on-start")));
    daemon.drop_file("still.json", &service("still", &uri, None));
    for name in ["fresh", "still"] {
        daemon.wait_ready(name);
        wait_revision(&daemon, name, "00001");
    }
    assert!(note(&daemon, "fresh", "kserve-local/model-checked").is_some(), "{:?}", daemon.object("fresh"));
    assert_eq!(note(&daemon, "still", "kserve-local/model-checked"), None);

    origin.put("/bucket/model.joblib", Object::new("second"));
    daemon.kill();
    daemon.restart();
    wait_revision(&daemon, "fresh", "00002");
    daemon.wait_ready("fresh");
    assert!(revision(&daemon, "still").ends_with("00001"), "nobody asked for something new there");
    let listed = daemon.cli_ok(&["cache", "ls", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let models = listed["models"].as_array().unwrap();
    assert_eq!(models.len(), 2, "{models:?}");
    assert!(models.iter().any(|model| model["lastChecked"].is_string()), "{models:?}");

    // A source that fails changes nothing, and is told.
    origin.faults("/bucket/model.joblib", 0, 1000, Fault::Status(503, "busy"));
    daemon.kill();
    daemon.restart();
    let problem = eventually_or(
        "the failed check is told",
        || daemon.log(),
        || note(&daemon, "fresh", "kserve-local/model-check-failed"),
    );
    assert!(problem.contains("503"), "{problem}");
    daemon.wait_ready("fresh");
    assert!(revision(&daemon, "fresh").ends_with("00002"), "{}", revision(&daemon, "fresh"));

    // Without the annotation the service stays with what it has.
    daemon.drop_file("fresh.json", &service("fresh", &uri, None));
    eventually_or(
        "the service is not asked about any more",
        || daemon.log(),
        || note(&daemon, "fresh", "kserve-local/model-checked").is_none().then_some(()),
    );
    assert!(revision(&daemon, "fresh").ends_with("00002"), "{}", revision(&daemon, "fresh"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_says_nothing_known_is_refused_with_its_place() {
    let daemon =
        Daemon::start_with(&[], |home: &Path| std::fs::write(home.join("config.yaml"), "engine: memory\n").unwrap());
    daemon.drop_file("wrong.json", &service("wrong", "s3://bucket/m", Some("sometimes")));
    let message = daemon.wait_reason("wrong", "InvalidPredictorSpec");
    assert!(message.contains("sometimes"), "{message}");
}
