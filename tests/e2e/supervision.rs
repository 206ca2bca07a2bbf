//! Faults of containers, on Docker: what is noticed, what is done about it, what is said. The rules are told in
//! `src/plan/tests`; `docs/supervision.md` lists faults and tests.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{
    BINARY, Daemon, PATIENCE, condition, docker, docker_or_skip, eventually, eventually_or, skip, text,
};
use super::{Load, client, post};

/// A custom container of the stub server, with what the test writes into it.
fn stub(name: &str, env: &[(&str, &str)], container: &Value) -> Value {
    let env: Vec<Value> =
        [("PROTOCOL", "v1")].iter().chain(env).map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut whole = json!({
        "name": "kserve-container", "image": "kserve-local/stub-runtime:test", "env": env,
        "args": [format!("--model_name={name}")],
    });
    for (key, value) in container.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"containers": [whole]}},
    })
}

/// Calls the stub server of a service.
async fn call(daemon: &Daemon, name: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = client().post(daemon.url(path)).header("host", format!("{name}-default.example.com"));
    for (header, value) in headers {
        request = request.header(*header, *value);
    }
    request.json(&json!({"instances": [[1]]})).send().await.map_or(0, |answer| answer.status().as_u16())
}

/// The only container of a service.
fn container(daemon: &Daemon, name: &str) -> Value {
    let is_its = |one: &Value| one["Config"]["Labels"]["kserve-local/service"] == name;
    eventually("it has a container", || daemon.containers().into_iter().find(is_its))
}

fn restarts(daemon: &Daemon, name: &str) -> i64 {
    let pods: Value = serde_json::from_str(&daemon.cli_ok(&["get", "pods", "-o", "json"])).unwrap_or_default();
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let pod = pods.iter().find(|pod| pod["metadata"]["name"].as_str().is_some_and(|pod| pod.starts_with(name)));
    pod.and_then(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_probes_of_every_kind_decide_who_is_asked() {
    if !docker_or_skip("readiness_probes_of_every_kind_decide_who_is_asked") {
        return;
    }
    let daemon = Daemon::start();
    let kinds = [
        ("http", json!({"httpGet": {"path": "/readyz", "port": 8080}})),
        ("tcp", json!({"tcpSocket": {"port": 8080}})),
        ("grpc", json!({"grpc": {"port": 8080}})),
        ("exec", json!({"exec": {"command": ["/stub-runtime", "exit", "0"]}})),
        ("exec-fails", json!({"exec": {"command": ["/stub-runtime", "exit", "7"]}})),
        ("exec-hangs", json!({"exec": {"command": ["/stub-runtime", "sleep", "5"]}, "timeoutSeconds": 1})),
        ("exec-absent", json!({"exec": {"command": ["/no-such-program"]}})),
        ("nobody", json!({"tcpSocket": {"port": 9}})),
    ];
    for (name, probe) in &kinds {
        let mut probe = probe.clone();
        probe["periodSeconds"] = json!(1);
        daemon.drop_file(&format!("{name}.json"), &stub(name, &[], &json!({"readinessProbe": probe})).to_string());
    }
    for name in ["http", "tcp", "grpc", "exec"] {
        daemon.wait_ready(name);
    }
    for (name, words) in [
        ("exec-fails", "`/stub-runtime exit 7` exited with 7"),
        ("exec-hangs", "no answer within 1s"),
        ("exec-absent", "/no-such-program"),
        ("nobody", "connection refused"),
    ] {
        eventually_or(
            &format!("{name} says why it is not ready"),
            || format!("{:#}\n{}", daemon.object(name).unwrap_or_default()["status"], daemon.log()),
            || {
                let object = daemon.object(name)?;
                let ready = condition(&object, "Ready")?;
                (ready["status"] != "True" && ready["message"].as_str()?.contains(words)).then_some(())
            },
        );
        assert_eq!(restarts(&daemon, name), 0, "readiness never restarts");
    }
    // What stops being ready is asked no more, and is back as soon as it is ready again.
    for name in ["http", "grpc"] {
        assert_eq!(call(&daemon, name, "/stub/ready/false", &[]).await, 200);
        daemon.wait_reason(name, "ModelNotReady");
        let id = container(&daemon, name);
        let address =
            id["NetworkSettings"]["Networks"].as_object().expect("networks").values().next().expect("one")["IPAddress"]
                .as_str()
                .expect("an address")
                .to_owned();
        let (status, body) = post(&daemon.url(&format!("/v1/models/{name}:predict")), None, &json!({})).await;
        assert_eq!(status, 503, "{body}");
        let told = client().post(format!("http://{address}:8080/stub/ready/true")).send().await.expect("an answer");
        assert_eq!(told.status(), 200);
        daemon.wait_ready(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_liveness_probe_restarts_the_container_within_the_probes_own_grace() {
    if !docker_or_skip("a_failing_liveness_probe_restarts_the_container_within_the_probes_own_grace") {
        return;
    }
    let daemon = Daemon::start();
    let live = json!({
        "httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2,
        "terminationGracePeriodSeconds": 1,
    });
    // It does not heed the signal: the pod's own thirty seconds would be over long after the test.
    let service = stub("hung", &[("STUB_IGNORE_TERM", "1")], &json!({"livenessProbe": live}));
    daemon.drop_file("hung.json", &service.to_string());
    daemon.wait_ready("hung");
    let before = container(&daemon, "hung");
    let begun = Instant::now();
    assert_eq!(call(&daemon, "hung", "/stub/live/false", &[]).await, 200);
    eventually_or(
        "it is started again",
        || daemon.log(),
        || (container(&daemon, "hung")["State"]["StartedAt"] != before["State"]["StartedAt"]).then_some(()),
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    daemon.wait_ready("hung");
    let after = container(&daemon, "hung");
    assert_eq!(after["Id"], before["Id"], "restarted, not made anew");
    assert_eq!(restarts(&daemon, "hung"), 1);
    let events = daemon.cli_ok(&["events"]);
    assert!(events.contains("liveness probe failed 2 times: HTTP 503"), "{events}\n{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_probe_holds_the_liveness_probe_back_and_ends_what_never_starts() {
    if !docker_or_skip("a_startup_probe_holds_the_liveness_probe_back_and_ends_what_never_starts") {
        return;
    }
    let daemon = Daemon::start();
    let probe = |threshold: u32| json!({"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1, "failureThreshold": threshold});
    let slow = json!({"startupProbe": probe(60), "livenessProbe": probe(1)});
    daemon.drop_file("slow.json", &stub("slow", &[("STUB_READY_DELAY_MS", "5000")], &slow).to_string());
    let never = json!({"startupProbe": probe(2)});
    daemon.drop_file("never.json", &stub("never", &[("STUB_NEVER_READY", "1")], &never).to_string());
    daemon.wait_ready("slow");
    assert_eq!(restarts(&daemon, "slow"), 0, "liveness was not asked while it loaded");
    let message = daemon.wait_reason("never", "CrashLoopBackOff");
    assert!(message.contains("startup probe failed 2 times: HTTP 503"), "{message}");
    assert!(message.contains("next time 10 s after it ended"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_killed_for_memory_is_told_of_and_so_is_the_server_itself() {
    if !docker_or_skip("a_child_killed_for_memory_is_told_of_and_so_is_the_server_itself") {
        return;
    }
    let daemon = Daemon::start();
    let limits = json!({"resources": {"limits": {"memory": "96Mi"}}});
    daemon.drop_file("eater.json", &stub("eater", &[], &limits).to_string());
    daemon.wait_ready("eater");
    let before = container(&daemon, "eater");
    let predict = "/v1/models/eater:predict";
    assert_eq!(call(&daemon, "eater", predict, &[("x-stub-child-eat-mib", "300")]).await, 200, "it outlives its child");
    eventually_or(
        "the death of the child is told",
        || format!("{}\n{}", daemon.cli_ok(&["events"]), daemon.log()),
        || daemon.cli_ok(&["events"]).contains("OOMKilling").then_some(()),
    );
    let after = container(&daemon, "eater");
    assert_eq!((&after["Id"], &after["State"]["StartedAt"]), (&before["Id"], &before["State"]["StartedAt"]));
    assert_eq!(call(&daemon, "eater", predict, &[]).await, 200);
    // Now the server itself, again and again until it is in back-off and the reason stays to be read.
    let named = || {
        let object = daemon.object("eater")?;
        (condition(&object, "Ready")?["reason"] == "OOMKilled").then_some(())
    };
    let begun = Instant::now();
    while named().is_none() {
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.log());
        // The answer never comes: it is killed, or still starting.
        let _ = call(&daemon, "eater", predict, &[("x-stub-eat-mib", "300")]).await;
    }
    let events = daemon.cli_ok(&["events"]);
    assert!(events.contains("was killed because it ran out of memory (exit code 137)"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_paused_renamed_or_removed_again_and_again_are_no_fight() {
    if !docker_or_skip("containers_paused_renamed_or_removed_again_and_again_are_no_fight") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("prey.json", &stub("prey", &[], &json!({})).to_string());
    daemon.wait_ready("prey");
    let predict = daemon.url("/v1/models/prey:predict");
    let id = container(&daemon, "prey")["Id"].as_str().expect("an id").to_owned();

    // Renamed: nothing happens, and it is known by its new name from then on.
    let load = Load::start(predict.clone());
    load.more(5);
    docker(&["rename", &id, &format!("stolen-{}", &id[..12])]);
    load.more(300);
    let bad = load.end().await;
    assert!(bad.is_empty(), "{bad:?}");
    let still = container(&daemon, "prey");
    assert_eq!(still["Id"], json!(id), "the same container\n{}", daemon.log());
    docker(&["kill", &id]);
    eventually_or(
        "it is started under its new name",
        || daemon.log(),
        || (container(&daemon, "prey")["State"]["StartedAt"] != still["State"]["StartedAt"]).then_some(()),
    );
    daemon.wait_ready("prey");
    assert_eq!(container(&daemon, "prey")["Id"], json!(id));

    // Paused: reported, left alone, and served again when it goes on.
    docker(&["pause", &id]);
    let message = daemon.wait_reason("prey", "ContainerPaused");
    assert!(message.contains("unpause"), "{message}");
    let (status, body) = post(&predict, None, &json!({"instances": [[1]]})).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(container(&daemon, "prey")["State"]["Paused"], json!(true), "it is not ours to wake");
    docker(&["unpause", &id]);
    daemon.wait_ready("prey");

    // Removed: made again at once, and again only after a while when somebody goes on.
    for _ in 0..2 {
        let id = container(&daemon, "prey")["Id"].as_str().expect("an id").to_owned();
        docker(&["rm", "-f", &id]);
        eventually("the loss is noticed", || {
            daemon.containers().iter().all(|one| one["Id"] != json!(id)).then_some(())
        });
        eventually_or(
            "it is made again, or said why not",
            || daemon.log(),
            || {
                let object = daemon.object("prey")?;
                let ready = condition(&object, "Ready")?;
                let is_back = ready["status"] == "True" && !daemon.containers().is_empty();
                (is_back || ready["reason"] == "ContainerRemoved").then_some(())
            },
        );
    }
    let message = daemon.wait_reason("prey", "ContainerRemoved");
    assert!(message.contains("2 times") && message.contains("10 s"), "{message}");
    daemon.wait_ready("prey");
}

#[test]
fn a_restarted_engine_whose_containers_live_on_costs_no_request_and_any_other_no_back_off() {
    const NAME: &str = "a_restarted_engine_whose_containers_live_on_costs_no_request_and_any_other_no_back_off";
    if !docker_or_skip(NAME) {
        return;
    }
    let can = |program: &str, argument: &str| {
        let ran = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    let in_own_namespaces = Command::new("unshare").args(["-n", "-m", "true"]).stderr(Stdio::null()).status();
    if !can("dockerd", "--version") || !in_own_namespaces.is_ok_and(|status| status.success()) {
        return skip(NAME, "it needs dockerd, and root to give it namespaces of its own");
    }
    let folder = tempfile::Builder::new().prefix("kl-engine-").tempdir().expect("a folder");
    let image = folder.path().join("stub.tar");
    docker(&["save", "-o", &image.display().to_string(), "kserve-local/stub-runtime:test"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/engine-restart");
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", script, BINARY]).arg(folder.path()).arg(&image);
    let ran = command.output().expect("the script runs");
    let (said, log) =
        (text(&ran.stdout), std::fs::read_to_string(folder.path().join("daemon.log")).unwrap_or_default());
    assert!(ran.status.success(), "{said}{}\n{log}", text(&ran.stderr));
    let parts: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ended_with_it = |part: &Value| part["part"].as_str().is_some_and(|name| name.contains("with its"));
    assert_eq!(parts.len(), 4, "{said}");
    for part in &parts {
        assert!(part["good"].as_u64() > Some(10), "{part}");
        if ended_with_it(part) {
            // Started again as soon as the engine is there, each time: that was no crash.
            assert_eq!(part["same"], json!(false), "{part}");
        } else {
            assert_eq!((&part["bad"], &part["same"]), (&json!(0), &json!(true)), "{part}\n{log}");
        }
    }
    assert!(!log.contains("next time 10 s"), "{log}");
}
