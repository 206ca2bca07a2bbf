//! What cannot work is told with numbers and cause, and disturbs nobody: on the real binary and real containers, beside a
//! service that is asked all the while.

use std::time::Duration;

use serde_json::{Value, json};

use super::canaries::Asking;
use super::daemon::{Daemon, condition, docker_or_skip, eventually_or};
use super::{Engine, client, predict, sleepy};

/// A service that stays, whose container has these fields and variables.
fn service(name: &str, env: &[(&str, &str)], resources: Value) -> String {
    let mut service = sleepy(name, env);
    service["spec"]["predictor"]["minReplicas"] = json!(1);
    service["spec"]["predictor"]["containers"][0]["resources"] = resources;
    service.to_string()
}

/// Waits until the predictor's condition has this reason, and returns status and message.
fn told(daemon: &Daemon, name: &str, reason: &str) -> (String, String) {
    eventually_or(
        &format!("{name} says {reason}"),
        || format!("{:#?}\n{}", daemon.object(name).map(|object| object["status"].clone()), daemon.log()),
        || {
            let object = daemon.object(name)?;
            let found = condition(&object, "PredictorReady")?;
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            (found["reason"] == reason).then(|| (text("status"), text("message")))
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_told_with_its_cause_and_disturbs_nobody() {
    if !docker_or_skip("what_cannot_work_is_told_with_its_cause_and_disturbs_nobody") {
        return;
    }
    let daemon = Engine::Docker.daemon();
    daemon.drop_file("iris.json", &service("iris", &[], json!({})));
    daemon.wait_ready("iris");
    let asking = Asking::begin(&daemon);

    let huge = json!({"requests": {"memory": "900Ti"}});
    daemon.drop_file("huge.json", &service("huge", &[], huge));
    let (status, message) = told(&daemon, "huge", "InsufficientMemory");
    assert_eq!(status, "False");
    assert!(message.starts_with("it needs 900.0 TiB (declared) and "), "{message}");
    assert!(message.contains("this machine has ") && message.ends_with("it can never run here"), "{message}");
    let (status, _, body) = predict(&client(), &daemon.url("/v1/models/huge:predict")).await;
    assert_eq!(status, 503, "who asks is told at once: {body}");
    assert!(body.contains("900.0 TiB"), "{body}");

    daemon.drop_file("gpus.json", &service("gpus", &[], json!({"limits": {"nvidia.com/gpu": "99"}})));
    let (_, message) = told(&daemon, "gpus", "InsufficientGPU");
    assert!(message.contains("99"), "{message}");

    let mut wrong: Value = serde_json::from_str(&service("wrong", &[], json!({}))).expect("a service");
    wrong["spec"]["predictor"]["minReplicas"] = json!(3);
    wrong["spec"]["predictor"]["maxReplicas"] = json!(2);
    daemon.drop_file("wrong.json", &wrong.to_string());
    let path = daemon.service_file("wrong.json");
    let refused = daemon.cli(&["validate", "-f", path.to_str().expect("a path")]);
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stdout).into_owned() + &String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("'MinReplicas' cannot be greater than MaxReplicas"), "{text}");
    assert!(daemon.object("wrong").is_none(), "it is not served");

    daemon.drop_file("never.json", &service("never", &[("STUB_NEVER_READY", "1")], json!({})));
    // Before the first check there is none to be told.
    eventually_or(
        "the last check is told",
        || daemon.log(),
        || {
            let (status, message) = told(&daemon, "never", "ModelLoading");
            (status == "Unknown" && message.contains("503")).then_some(())
        },
    );

    daemon
        .drop_file("dies.json", &service("dies", &[("STUB_EXIT_AT_REQUEST", "1"), ("STUB_EXIT_CODE", "7")], json!({})));
    daemon.wait_ready("dies");
    let (status, _, body) = predict(&client(), &daemon.url("/v1/models/dies:predict")).await;
    assert!((500..600).contains(&status), "{status} {body}");
    eventually_or(
        "how it ended is told",
        || format!("{:#?}\n{}", daemon.object("dies").map(|object| object["status"].clone()), daemon.log()),
        || {
            let told = daemon.cli_ok(&["describe", "isvc", "dies"]) + &daemon.cli_ok(&["events"]);
            told.contains("exit code 7").then_some(())
        },
    );
    // It is started again, as on a cluster, and answers checks until the next request.
    daemon.wait_ready("dies");

    tokio::time::sleep(Duration::from_millis(300)).await;
    let (good, bad) = asking.end().await;
    assert!(good > 50 && bad == 0, "{good} good, {bad} bad");
}
