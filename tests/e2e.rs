//! The real binary, the real Docker, real runtimes: wiring, not rules.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "e2e/bad_sources.rs"]
mod bad_sources;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "e2e/extras.rs"]
mod extras;
#[path = "e2e/folder.rs"]
mod folder;
#[path = "e2e/load.rs"]
mod load;
#[path = "e2e/scaling.rs"]
mod scaling;
#[path = "e2e/storage_containers.rs"]
mod storage_containers;
#[path = "e2e/supervision.rs"]
mod supervision;
#[path = "e2e/transformers.rs"]
mod transformers;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use daemon::{BINARY, Daemon, condition, docker_or_skip, eventually, eventually_or, text};
use serde_json::{Value, json};

fn iris() -> String {
    format!("file://{}/examples/models/iris/model.joblib", env!("CARGO_MANIFEST_DIR"))
}

/// An InferenceService of a custom container: the stub server.
fn stub(name: &str, env: &[(&str, &str)]) -> String {
    let protocol = [("PROTOCOL", "v1")];
    let env: Vec<Value> =
        protocol.iter().chain(env).map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"containers": [{
            "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
            "args": [format!("--model_name={name}")],
            "env": env,
        }]}},
    })
    .to_string()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client")
}

async fn post(url: &str, host: Option<&str>, body: &Value) -> (u16, Value) {
    let mut request = client().post(url).json(body);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_shapes_answer_through_every_address_form() {
    if !docker_or_skip("the_three_shapes_answer_through_every_address_form") {
        return;
    }
    let daemon = Daemon::start();
    let uri = iris();
    // A heredoc, a file of its own, and another in a sub-folder.
    let legacy = format!(
        "apiVersion: \"serving.kserve.io/v1beta1\"\nkind: \"InferenceService\"\nmetadata:\n  name: \"sklearn-iris\"\nspec:\n  predictor:\n    sklearn:\n      storageUri: \"{uri}\"\n"
    );
    let explicit = format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: sklearn-v2\n  annotations:\n    prometheus.kserve.io/port: \"8082\"\nspec:\n  predictor:\n    model:\n      modelFormat:\n        name: sklearn\n      runtime: kserve-mlserver\n      storageUri: {uri}\n"
    );
    let implicit = format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris-auto\n  namespace: kserve-test\nspec:\n  predictor:\n    model:\n      modelFormat:\n        name: sklearn\n      storageUri: {uri}\n"
    );
    let mut apply = Command::new(BINARY)
        .args(["apply", "-f", "-", "--home"])
        .arg(daemon.home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("apply runs");
    std::io::Write::write_all(&mut apply.stdin.take().expect("stdin"), legacy.as_bytes()).expect("a heredoc");
    let applied = text(&apply.wait_with_output().expect("apply ends").stdout);
    assert_eq!(applied.trim(), "inferenceservice.serving.kserve.io/sklearn-iris created");
    daemon.drop_file("explicit.yaml", &explicit);
    daemon.drop_file("team/implicit.yml", &implicit);
    daemon.wait_ready("sklearn-iris");
    daemon.wait_ready("sklearn-v2");
    daemon.cli_ok(&["wait", "isvc", "iris-auto", "-n", "kserve-test", "--for", "create", "--timeout", "30s"]);
    daemon.cli_ok(&["wait", "isvc", "iris-auto", "-n", "kserve-test", "--timeout", "180s"]);

    let v1 = json!({"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]});
    let v2 = json!({"inputs": [{"name": "input-0", "shape": [2, 4], "datatype": "FP32",
        "data": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}]});
    let calls = [
        (None, "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris-default.example.com"), "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris.default.example.com"), "/v1/models/sklearn-iris:predict"),
        (Some("SKLEARN-IRIS-default.localhost:80"), "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris.default.localhost"), "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris-predictor-default.example.com"), "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris-predictor.default.example.com"), "/v1/models/sklearn-iris:predict"),
        (Some("sklearn-iris.default.svc.cluster.local"), "/v1/models/sklearn-iris:predict"),
        (Some("example.com"), "/serving/default/sklearn-iris/v1/models/sklearn-iris:predict"),
        (None, "/serving/default/sklearn-iris/v1/models/sklearn-iris:predict"),
        (Some("iris-auto-kserve-test.example.com"), "/v1/models/iris-auto:predict"),
        (None, "/v1/models/iris-auto:predict"),
    ];
    for (host, path) in calls {
        let (status, answer) = post(&daemon.url(path), host, &v1).await;
        assert_eq!((status, &answer["predictions"]), (200, &json!([1, 1])), "{host:?} {path}: {answer}");
    }
    for (name, path) in [
        ("sklearn-v2", "/v2/models/sklearn-v2/infer"),
        ("sklearn-iris", "/v2/models/sklearn-iris/infer"),
        ("sklearn-v2", "/serving/default/sklearn-v2/v2/models/sklearn-v2/infer"),
    ] {
        let host = format!("{name}-default.example.com");
        let by_path = path.starts_with("/serving/");
        for host in [None, Some(host.as_str())].into_iter().take(if by_path { 1 } else { 2 }) {
            let (status, answer) = post(&daemon.url(path), host, &v2).await;
            assert_eq!((status, &answer["outputs"][0]["data"]), (200, &json!([1, 1])), "{host:?} {path}: {answer}");
        }
    }

    // What the runtimes say of themselves stands beside ours, with whose it is.
    let url = format!("http://{}/metrics", daemon.addresses()["api"].as_str().expect("an address"));
    let shown = client().get(url).send().await.expect("an answer").text().await.expect("text");
    for (metric, name) in
        [("request_predict_seconds_count", "sklearn-iris"), ("model_infer_request_success_total", "sklearn-v2")]
    {
        let head = format!("{metric}{{namespace=\"default\",inferenceservice=\"{name}\",component=\"predictor\"");
        assert!(shown.lines().any(|line| line.starts_with(&head)), "{head}: {shown}");
    }

    let (status, answer) = post(&daemon.url("/v1/models/nobody:predict"), None, &v1).await;
    assert_eq!(status, 404);
    assert!(answer["services"].to_string().contains("sklearn-iris"), "a 404 lists what exists: {answer}");

    let object = daemon.object("sklearn-v2").expect("an object");
    assert_eq!(object["status"]["clusterServingRuntimeName"], "kserve-mlserver");
    assert_eq!(object["status"]["modelStatus"]["transitionStatus"], "UpToDate");
    assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    let url = object["status"]["url"].as_str().expect("a URL");
    assert!(url.contains("sklearn-v2") && url.contains(".localhost:"), "it can be pasted: {url}");
    check_containment(&daemon);
    let table = daemon.cli_ok(&["get", "isvc"]);
    assert!(table.lines().next().is_some_and(|head| head.starts_with("NAME") && head.contains("LATESTREADYREVISION")));
    let predicted = daemon.cli_ok(&["predict", "sklearn-iris", "-d", &v1.to_string()]);
    assert_eq!(serde_json::from_str::<Value>(&predicted).expect("JSON")["predictions"], json!([1, 1]));
}

/// Promise K5, read off the containers themselves.
fn check_containment(daemon: &Daemon) {
    let containers = daemon.containers();
    assert_eq!(containers.len(), 3);
    for container in containers {
        let host = &container["HostConfig"];
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        assert_eq!(host["Privileged"], json!(false));
        assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"));
        assert!(host["PidsLimit"].as_i64().unwrap_or(0) > 0);
        assert_eq!(host["PortBindings"].as_object().map_or(0, serde_json::Map::len), 0, "nothing is published");
        let mounts = container["Mounts"].as_array().expect("mounts");
        assert!(mounts.iter().all(|mount| mount["RW"] == json!(false)), "{mounts:?}");
        assert!(mounts.iter().any(|mount| mount["Destination"] == "/mnt/models"));
    }
}

/// Requests without a pause, and what came of them.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<BTreeMap<String, u64>>,
}

impl Load {
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&good));
        #[expect(clippy::disallowed_methods, reason = "tests have no daemon to track their tasks")]
        let task = tokio::spawn(async move {
            let client = client();
            let mut bad = BTreeMap::new();
            let body = json!({"instances": [[1, 2, 3]]});
            while !until.load(Ordering::Relaxed) {
                let answer = client.post(&url).json(&body).send().await;
                let outcome = match answer {
                    Ok(answer) if answer.status() == 200 => match answer.bytes().await {
                        Ok(_) => {
                            count.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Err(error) => format!("cut: {error:?}"),
                    },
                    Ok(answer) => answer.status().to_string(),
                    Err(error) if error.is_connect() => "connect".to_owned(),
                    Err(error) => format!("{error:?}"),
                };
                *bad.entry(outcome).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            bad
        });
        Self { stop, good, task }
    }

    /// Waits for some more good answers.
    fn more(&self, count: u64) {
        let until = self.good.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || (self.good.load(Ordering::Relaxed) >= until).then_some(()));
    }

    async fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load ends")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_edit_break_fix_and_delete_lose_no_request() {
    if !docker_or_skip("drop_edit_break_fix_and_delete_lose_no_request") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("echo.json", &stub("echo", &[]));
    daemon.wait_ready("echo");
    let load = Load::start(daemon.url("/v1/models/echo:predict"));
    load.more(20);

    // Edit: the new revision answers before the old one goes.
    daemon.drop_file("echo.json", &stub("echo", &[("EDITED", "1")]));
    eventually_or(
        "the second revision serves",
        || daemon.log(),
        || {
            let object = daemon.object("echo")?;
            let revision = &object["status"]["components"]["predictor"]["latestReadyRevision"];
            (revision == "echo-predictor-00002").then_some(())
        },
    );
    load.more(20);
    eventually("the first revision is gone", || (daemon.containers().len() == 1).then_some(()));
    let kept = daemon.containers()[0]["Id"].clone();

    // Break: the file says nothing sensible any more; what runs keeps running, and the line is told.
    daemon.drop_file("echo.json", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: echo\nspec:\n  predictor:\n    modle: {}\n");
    let problem = eventually("the mistake is told", || {
        let log = daemon.log();
        log.lines().find(|line| line.contains("echo.json:7:5")).map(str::to_owned)
    });
    assert!(problem.contains("modle") && problem.contains("model"), "{problem}");
    load.more(20);
    daemon.drop_file("echo.json", "kind: [unclosed\n");
    eventually("the syntax error is told", || daemon.log().contains("flow sequence").then_some(()));
    load.more(20);

    // Fix, as it was: nothing restarts.
    daemon.drop_file("echo.json", &stub("echo", &[("EDITED", "1")]));
    load.more(20);
    assert_eq!(daemon.containers()[0]["Id"], kept, "the same container all along");
    let bad = load.end().await;
    assert!(bad.is_empty(), "lost requests: {bad:?}\n{}", daemon.log());

    // Delete: gone from the proxy at once, from Docker after the drain.
    std::fs::remove_file(daemon.service_file("echo.json")).expect("the file can be deleted");
    eventually("the containers are removed", || daemon.containers().is_empty().then_some(()));
    let (status, _) = post(&daemon.url("/v1/models/echo:predict"), None, &json!({"instances": [[1]]})).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_restarts_no_model() {
    if !docker_or_skip("a_killed_daemon_restarts_no_model") {
        return;
    }
    let mut daemon = Daemon::start();
    for name in ["one", "two", "three"] {
        daemon.drop_file(&format!("{name}.json"), &stub(name, &[]));
    }
    for name in ["one", "two", "three"] {
        daemon.wait_ready(name);
    }
    let url = daemon.url("/v1/models/one:predict");
    let identity = |daemon: &Daemon| -> BTreeMap<String, (String, String)> {
        let one = |c: &Value| {
            let field = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            (field(&c["Name"]), (field(&c["Id"]), field(&c["State"]["StartedAt"])))
        };
        daemon.containers().iter().map(one).collect()
    };
    let before = identity(&daemon);
    let load = Load::start(url.clone());
    load.more(10);
    for _ in 0..3 {
        daemon.kill();
        let begun = Instant::now();
        daemon.restart();
        load.more(10);
        println!("serving again {} ms after exec", begun.elapsed().as_millis());
    }
    let bad = load.end().await;
    // While the process was gone nobody could answer, and right after it routes are not known: that is all.
    let unexpected: Vec<_> = bad
        .keys()
        .filter(|what| {
            !["connect", "404 Not Found", "503 Service Unavailable"].contains(&what.as_str())
                && !what.contains("Connection reset")
                && !what.contains("IncompleteMessage")
        })
        .collect();
    assert!(unexpected.is_empty(), "{bad:?}");
    assert_eq!(identity(&daemon), before, "same containers, never restarted");

    // SIGTERM leaves the models running too; Ctrl-C stops them.
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(), Some(0));
    daemon.restart();
    daemon.wait_ready("three");
    assert_eq!(identity(&daemon), before);
    let instance = daemon.instance();
    daemon.signal("INT");
    assert_eq!(daemon.wait_exit(), Some(130));
    let filter = format!("label=kserve-local/instance={instance}");
    assert_eq!(daemon::docker(&["ps", "-aq", "--filter", &filter]), "", "Ctrl-C stops what serve started");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_and_disturbs_nobody() {
    if !docker_or_skip("bad_input_is_told_and_disturbs_nobody") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("good.json", &stub("good", &[]));
    daemon.wait_ready("good");
    let good = daemon.containers()[0]["Id"].clone();
    let model = |name: &str, extra: &str| {
        format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: {name}\nspec:\n  predictor:\n    model:\n      modelFormat: {{name: sklearn{}}}\n{extra}\n",
            if extra.contains("version:") { ", version: \"99\"" } else { "" }
        )
    };
    let uri = iris();
    daemon.drop_file(
        "unknown.yaml",
        &model("unknown-runtime", &format!("      runtime: kserve-sklaernserver\n      storageUri: {uri}")),
    );
    daemon.drop_file("version.yaml", &model("wrong-version", &format!("      # version:\n      storageUri: {uri}")));
    daemon.drop_file("missing.yaml", &model("missing-model", "      storageUri: file:///nowhere/at/all"));
    daemon.drop_file("bucket.yaml", &model("no-bucket", "      storageUri: s3://bucket/model\n"));
    daemon.drop_file(
        "disabled.yaml",
        &format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata:\n  name: resting\nspec:\n  disabled: true\n  supportedModelFormats:\n  - name: sklearn\n  containers:\n  - name: kserve-container\n    image: x:1\n---\n{}",
            model("disabled-runtime", &format!("      runtime: resting\n      storageUri: {uri}"))
        ),
    );
    let image = stub("missing-image", &[]).replace("kserve-local/stub-runtime:test", "localhost:1/nobody/nothing:1");
    daemon.drop_file("image.json", &image);
    daemon.drop_file("crash.json", &stub("crash", &[("STUB_EXIT_CODE", "3"), ("STUB_EXIT_AFTER_MS", "50")]));

    let said = daemon.wait_reason("unknown-runtime", "RuntimeNotRecognized");
    assert!(said.contains("kserve-sklaernserver") && said.contains("kserve-sklearnserver"), "{said}");
    assert!(daemon.wait_reason("disabled-runtime", "RuntimeDisabled").contains("resting"));
    assert!(daemon.wait_reason("wrong-version", "NoSupportingRuntime").contains("sklearn"));
    assert!(daemon.wait_reason("missing-model", "ModelPullFailed").contains("/nowhere/at/all"));
    let said = daemon.wait_reason("missing-image", "ImagePullFailed");
    assert!(said.contains("localhost:1/nobody/nothing:1"), "{said}");
    let said = daemon.wait_reason("crash", "CrashLoopBackOff");
    assert!(said.contains("exit code 3"), "{said}");
    let object = daemon.object("unknown-runtime").expect("an object");
    let failure = &object["status"]["modelStatus"]["lastFailureInfo"];
    assert_eq!(failure["reason"], "RuntimeNotRecognized");
    assert_eq!(object["status"]["modelStatus"]["transitionStatus"], "InvalidSpec");
    assert!(condition(&object, "Ready").is_some_and(|ready| ready["status"] == "False"));

    // A request to each of them is told the reason at once.
    let (status, answer) = post(&daemon.url("/v1/models/crash:predict"), None, &json!({"instances": []})).await;
    assert_eq!((status, answer["reason"].as_str()), (503, Some("CrashLoopBackOff")), "{answer}");
    // It is started again now and then; between its ends the first lines say why it is not ready.
    eventually("the first three lines say why", || {
        let described = daemon.cli_ok(&["describe", "isvc", "crash"]);
        described.lines().take(3).any(|line| line.contains("exit code 3")).then_some(())
    });

    // Nobody else felt it.
    let (status, _) = post(&daemon.url("/v1/models/good:predict"), None, &json!({"instances": [[1]]})).await;
    assert_eq!(status, 200);
    let still = daemon.containers().into_iter().find(|c| c["Id"] == good).expect("the good one");
    assert_eq!(still["RestartCount"], json!(0));
}

/// Where the engine is on most machines.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// A way to the engine that can be cut.
struct Wire {
    path: std::path::PathBuf,
    open: tokio::sync::watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl Wire {
    fn lay() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let (open, state) = tokio::sync::watch::channel(true);
        #[expect(clippy::disallowed_methods, reason = "tests have no daemon to track their tasks")]
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let Ok(mut far) = tokio::net::UnixStream::connect(DOCKER_SOCKET).await else { return };
                    tokio::select! {
                        // A cut wire loses whatever is on it.
                        _ = state.wait_for(|open| !open) => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { path, open, _folder: folder }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_serve_while_the_engine_is_away() {
    if !docker_or_skip("models_serve_while_the_engine_is_away") {
        return;
    }
    if !std::path::Path::new(DOCKER_SOCKET).exists() {
        return daemon::skip("models_serve_while_the_engine_is_away", "the engine is not at its usual socket");
    }
    let wire = Wire::lay();
    let address = format!("unix://{}", wire.path.display());
    let daemon = Daemon::start_with(&[("DOCKER_HOST", &address)], |_| {});
    daemon.drop_file("steady.json", &stub("steady", &[]));
    daemon.wait_ready("steady");
    let before = daemon.containers()[0]["Id"].clone();
    let load = Load::start(daemon.url("/v1/models/steady:predict"));
    load.more(10);
    wire.open.send_replace(false);
    eventually("the daemon notices", || daemon.log().contains("does not answer").then_some(()));
    load.more(50);
    // What is wanted meanwhile waits, and says for what.
    daemon.drop_file("late.json", &stub("late", &[]));
    daemon.wait_reason("late", "EngineUnavailable");
    wire.open.send_replace(true);
    daemon.wait_ready("late");
    load.more(10);
    let bad = load.end().await;
    assert!(bad.is_empty(), "lost requests: {bad:?}\n{}", daemon.log());
    assert!(daemon.containers().iter().any(|container| container["Id"] == before), "nothing was restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_tampered_with_by_hand_are_put_right() {
    if !docker_or_skip("containers_tampered_with_by_hand_are_put_right") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("prey.json", &stub("prey", &[]));
    daemon.wait_ready("prey");
    let url = daemon.url("/v1/models/prey:predict");
    let name = || daemon.containers()[0]["Name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    let answers = async || {
        eventually("it answers again", || {
            let object = daemon.object("prey")?;
            condition(&object, "Ready").filter(|ready| ready["status"] == "True")?;
            daemon
                .containers()
                .first()
                .filter(|c| c["State"]["Running"] == json!(true) && c["State"]["Paused"] == json!(false))?;
            Some(())
        });
        post(&url, None, &json!({"instances": [[1]]})).await.0
    };
    for verb in ["kill", "stop", "rm -f"] {
        let target = name();
        let mut arguments: Vec<&str> = verb.split(' ').collect();
        arguments.push(&target);
        daemon::docker(&arguments);
        eventually("the loss is noticed", || {
            let log = daemon.log();
            (log.matches("not ready").count() + log.matches("being created").count() > 1 || verb == "rm -f")
                .then_some(())
        });
        assert_eq!(answers().await, 200, "after docker {verb}\n{}", daemon.log());
    }
}

#[test]
fn an_unreachable_bucket_is_told_with_its_address() {
    if !docker_or_skip("an_unreachable_bucket_is_told_with_its_address") {
        return;
    }
    let environment = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret-key"),
        ("AWS_REGION", "us-east-1"),
    ];
    let daemon = Daemon::start_with(&environment, |_| {});
    daemon.drop_file(
        "s3.yaml",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: far\nspec:\n  predictor:\n    sklearn:\n      storageUri: s3://bucket/model\n",
    );
    let said = daemon.wait_reason("far", "ModelPullFailed");
    assert!(said.contains("s3://bucket/model"), "{said}");
    assert!(!daemon.log().contains("very-secret-key") && !said.contains("very-secret-key"));
}

#[test]
fn a_second_daemon_and_a_taken_port_are_explained() {
    let away = [("DOCKER_HOST", "unix:///nowhere/docker.sock"), ("KSERVE_LOCAL_ENGINE", "docker")];
    let daemon = Daemon::start_with(&away, |_| {});
    let second = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--home"])
        .arg(daemon.home())
        .output()
        .expect("serve runs");
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(said.contains("already serves the home") && said.contains("hint:"), "{said}");

    let other = tempfile::tempdir().expect("a folder");
    let taken = daemon.addresses()["data"].as_str().expect("an address").to_owned();
    let third = Command::new(BINARY)
        .args(["serve", "--listen", &taken, "--api-listen", "127.0.0.1:0", "--home"])
        .arg(other.path())
        .output()
        .expect("serve runs");
    let said = text(&third.stderr);
    assert_eq!(third.status.code(), Some(3), "{said}");
    assert!(said.contains(&taken) && said.contains("--listen"), "{said}");

    // Without an engine the daemon runs, answers, and says why nothing starts.
    daemon.drop_file("lonely.json", &stub("lonely", &[]));
    let why = daemon.wait_reason("lonely", "EngineUnavailable");
    assert!(why.contains("/nowhere/docker.sock"), "{why}");
}

#[test]
fn the_demo_ends_in_a_real_prediction() {
    if !docker_or_skip("the_demo_ends_in_a_real_prediction") {
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let demo = Command::new(BINARY)
        .args(["demo", "--once"])
        .env("KSERVE_LOCAL_CACHE_DIR", cache.path())
        .output()
        .expect("demo runs");
    let (out, err) = (text(&demo.stdout), text(&demo.stderr));
    assert!(demo.status.success(), "{out}\n{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["predictions"], json!([1, 1]));
}
