//! What can be seen of a running daemon: the dashboard we hand out asks for nothing that is not there.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

use std::collections::BTreeSet;

use daemon::Daemon;
use serde_json::{Value, json};

/// Every word of a text that could be a metric of ours.
fn our_metrics(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word).filter(|word| word.starts_with("kserve_local_")).collect()
}

fn service(name: &str, format: &str, uri: &str) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name},
        "spec": {"predictor": {"model": {"modelFormat": {"name": format}, "storageUri": uri}}},
    })
    .to_string()
}

/// Returns the text and its type.
async fn metrics(daemon: &Daemon, accept: &str) -> (String, String) {
    let url = format!("http://{}/metrics", daemon.addresses()["api"].as_str().expect("an address"));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(url).header("accept", accept).send().await.expect("an answer");
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    (answer.text().await.expect("text"), kind)
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_that_are_there() {
    let daemon = Daemon::start_with(&[], |home| {
        std::fs::write(home.join("config.yaml"), "engine: memory\n").expect("a config");
    });
    let folder = daemon.home().join("model");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("model.joblib"), "x").expect("a model");
    daemon.drop_file("iris.json", &service("iris", "sklearn", &format!("file://{}", folder.display())));
    daemon.wait_ready("iris");
    let (open, kind) = metrics(&daemon, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert!(kind.starts_with("application/openmetrics-text;") && open.ends_with("# EOF\n"), "{kind}");
    let (there, kind) = metrics(&daemon, "*/*").await;
    assert!(kind.starts_with("text/plain; version=0.0.4") && !there.contains("# EOF"), "{kind}");
    let there = our_metrics(&there);
    let dashboard = include_str!("../packaging/grafana/kserve-local.json");
    for name in our_metrics(dashboard) {
        assert!(there.contains(name), "the dashboard or a variable of it asks for `{name}`");
    }
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut asked, mut places) = (0, BTreeSet::new());
    for panel in panels {
        let place = &panel["gridPos"];
        assert!(
            places.insert((place["x"].as_u64(), place["y"].as_u64())),
            "two panels at one place: {}",
            panel["title"]
        );
        for target in panel["targets"].as_array().into_iter().flatten() {
            for name in our_metrics(target["expr"].as_str().expect("an expression")) {
                assert!(there.contains(name), "{}: there is no `{name}`", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 10, "{asked}");
}
