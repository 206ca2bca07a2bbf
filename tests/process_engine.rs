//! The daemon with the process engine: real processes, and real Python environments where packages can be had.
//!
//! Tests that need packages share one cache (`KSERVE_LOCAL_TEST_CACHE`, else below `target/`), make what is missing in it
//! first, and skip themselves, loudly, when the package index does not answer. `KSERVE_LOCAL_TEST_PYTHON=0` leaves out
//! every test that needs Python, `=1` makes a missing one a failure.

#![expect(clippy::print_stdout, reason = "what was measured is printed")]
#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "it serves several test programs")]
mod daemon;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use camino::Utf8PathBuf;
use daemon::{BINARY, Daemon, eventually, eventually_or, skip, text};
use kserve_local::environments::{EnvironmentError, Environments};
use kserve_local::manifest;
use kserve_local::runtimes::Catalog;
use kserve_local::workload::{Companions, Program, RunAs, WorkloadConfig, resolve};
use serde_json::{Value, json};

/// The engine is asked for, whatever else this machine has.
const PROCESSES: (&str, &str) = ("KSERVE_LOCAL_ENGINE", "process");

fn cache() -> PathBuf {
    let given = std::env::var_os("KSERVE_LOCAL_TEST_CACHE").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("process-cache"))
}

/// Whether there is a Python at all.
fn python_or_skip(test: &str) -> bool {
    let wish = std::env::var("KSERVE_LOCAL_TEST_PYTHON").unwrap_or_default();
    let works = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if wish == "0" || !works {
        assert_ne!(wish, "1", "KSERVE_LOCAL_TEST_PYTHON is 1, but there is no python3");
        skip(test, if wish == "0" { "KSERVE_LOCAL_TEST_PYTHON is 0" } else { "there is no python3" });
    }
    wish != "0" && works
}

/// Makes the environment a service needs in the shared cache; says why it cannot.
async fn packages_or_skip(test: &str, manifests: &[&str]) -> bool {
    if !python_or_skip(test) {
        return false;
    }
    let config = WorkloadConfig { run_as: RunAs::Processes, ..WorkloadConfig::default() };
    let root = Utf8PathBuf::from_path_buf(cache()).expect("a path in UTF-8");
    let environments = Environments::new(&root, std::env::vars().collect());
    for text in manifests {
        let object = manifest::decode("test.yaml", text).objects.remove(0).object;
        let workloads = resolve(&object, &Catalog::new([]), &Companions::default(), &config).expect("it resolves");
        let process = workloads[0].containers[0].process.clone().expect("it is a process");
        let Program::Python(wanted) = process.program else { continue };
        let begun = Instant::now();
        match environments.create(&wanted, &|_| {}).await {
            Ok(_) => println!("environment of {}: {} ms", process.recipe, begun.elapsed().as_millis()),
            Err(error @ (EnvironmentError::Unreachable { .. } | EnvironmentError::NoPython { .. })) => {
                assert_ne!(std::env::var("KSERVE_LOCAL_TEST_PYTHON").as_deref(), Ok("1"), "{error}");
                skip(test, &error.to_string());
                return false;
            }
            Err(error) => panic!("{error}"),
        }
    }
    true
}

fn serve(environment: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Daemon {
    let cache = cache();
    let mut all = vec![PROCESSES, ("KSERVE_LOCAL_CACHE_DIR", cache.to_str().expect("a path in UTF-8"))];
    all.extend(environment);
    Daemon::start_with(&all, prepare)
}

fn iris() -> String {
    format!("file://{}/examples/models/iris/model.joblib", env!("CARGO_MANIFEST_DIR"))
}

fn sklearn(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: {name}\nspec:\n  predictor:\n    model:\n      modelFormat:\n        name: sklearn\n{extra}      storageUri: {}\n",
        iris()
    )
}

/// A runtime of the stub: no packages, only Python's own library.
fn stub_runtime(name: &str, recipe: &str, extra: &str) -> String {
    let recipe: String = recipe.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata:\n  name: {name}\n  annotations:\n    kserve-local/process: |\n{recipe}spec:\n  protocolVersions: [v1]\n  supportedModelFormats:\n  - name: {name}\n    autoSelect: true\n  containers:\n  - name: kserve-container\n    image: nobody/needs:this\n    args: [\"--model_name={{{{.Name}}}}\", \"--model_dir=/mnt/models\", \"--http_port=8080\"]\n{extra}"
    )
}

fn stub_recipe() -> String {
    let stub = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/process_stub.py");
    format!("executable: python3\ncommand: [python3, {stub}]\nports:\n- {{port: 8080, arg: --http_port}}\n")
}

/// A service of the runtime of the same name.
fn stub_service(name: &str, runtime: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: {name}\nspec:\n  predictor:\n    model:\n      modelFormat:\n        name: {runtime}\n      storageUri: {}\n",
        iris()
    )
}

fn write_runtime(home: &Path, name: &str, yaml: &str) {
    std::fs::create_dir_all(home.join("runtimes")).expect("a folder");
    std::fs::write(home.join("runtimes").join(format!("{name}.yaml")), yaml).expect("a runtime");
}

async fn post(url: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.post(url).json(body).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

/// What `state/processes` says of the one model of a service: its process and its supervisor.
fn running(daemon: &Daemon, service: &str) -> Option<(i64, i64)> {
    let folders = std::fs::read_dir(daemon.home().join("state/processes")).ok()?;
    let name = format!("{service}-predictor");
    let folder = folders.filter_map(Result::ok).find(|folder| folder.file_name().to_string_lossy().contains(&name))?;
    let running: Value = serde_json::from_slice(&std::fs::read(folder.path().join("running.json")).ok()?).ok()?;
    Some((running["process"]["pid"].as_i64()?, running["supervisor"]["pid"].as_i64()?))
}

fn kill(pid: i64) {
    let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

fn is_alive(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_shapes_answer_without_a_container_engine() {
    let test = "the_three_shapes_answer_without_a_container_engine";
    let explicit = sklearn("sklearn-v2", "      runtime: kserve-mlserver\n");
    let implicit = sklearn("iris-auto", "");
    if !packages_or_skip(test, &[&explicit, &implicit]).await {
        return;
    }
    let daemon = serve(&[], |_| {});
    daemon.drop_file(
        "legacy.yaml",
        &format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: sklearn-iris\nspec:\n  predictor:\n    sklearn:\n      storageUri: {}\n",
            iris()
        ),
    );
    daemon.drop_file("explicit.yaml", &explicit);
    daemon.drop_file("implicit.yaml", &implicit);
    for name in ["sklearn-iris", "sklearn-v2", "iris-auto"] {
        daemon.wait_ready(name);
    }
    let v1 = json!({"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]});
    let v2 = json!({"inputs": [{"name": "input-0", "shape": [2, 4], "datatype": "FP32",
        "data": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}]});
    for name in ["sklearn-iris", "iris-auto"] {
        let (status, answer) = post(&daemon.url(&format!("/v1/models/{name}:predict")), &v1).await;
        assert_eq!((status, &answer["predictions"]), (200, &json!([1, 1])), "{answer}");
    }
    for name in ["sklearn-iris", "sklearn-v2", "iris-auto"] {
        let (status, answer) = post(&daemon.url(&format!("/v2/models/{name}/infer")), &v2).await;
        assert_eq!((status, &answer["outputs"][0]["data"]), (200, &json!([1, 1])), "{name}: {answer}");
    }
    let object = daemon.object("sklearn-v2").expect("an object");
    assert_eq!(object["status"]["clusterServingRuntimeName"], "kserve-mlserver");
    assert_eq!(object["status"]["modelStatus"]["transitionStatus"], "UpToDate");
    assert!(daemon.cli_ok(&["logs", "sklearn-v2"]).contains("mlserver"));
    check_loopback_only(&daemon);
}

/// Promise K1: no server of ours listens on an address others can reach.
fn check_loopback_only(daemon: &Daemon) {
    let ours: Vec<String> = ["sklearn-iris", "sklearn-v2", "iris-auto"]
        .iter()
        .filter_map(|name| Some(format!("pid={},", running(daemon, name)?.0)))
        .collect();
    assert_eq!(ours.len(), 3);
    let Ok(sockets) = Command::new("ss").args(["-Hltnp"]).output() else { return };
    for line in text(&sockets.stdout).lines().filter(|line| ours.iter().any(|pid| line.contains(pid))) {
        assert!(line.contains("127.0.0.1"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_needs_no_docker_and_its_second_run_is_ready_in_seconds() {
    let test = "the_demo_needs_no_docker_and_its_second_run_is_ready_in_seconds";
    if !packages_or_skip(test, &[&sklearn("sklearn-iris", "")]).await {
        return;
    }
    for run in ["first", "second"] {
        let begun = Instant::now();
        let demo = Command::new(BINARY)
            .args(["demo", "--once"])
            .env("KSERVE_LOCAL_CACHE_DIR", cache())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env_remove("KSERVE_LOCAL_ENGINE")
            .output()
            .expect("demo runs");
        let (out, err) = (text(&demo.stdout), text(&demo.stderr));
        println!("{run} run: {} ms", begun.elapsed().as_millis());
        assert!(demo.status.success(), "{out}\n{err}");
        assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["predictions"], json!([1, 1]));
        assert!(err.contains("Docker does not answer"), "it says so: {err}");
        assert!(!err.contains("fetching"), "the environment is used again: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_model_the_supervisor_the_daemon_or_both_recovers() {
    if !python_or_skip("killing_the_model_the_supervisor_the_daemon_or_both_recovers") {
        return;
    }
    let extra = "    env: [{name: STUB_CHILD, value: \"1\"}]\n";
    let mut daemon = serve(&[], |home| write_runtime(home, "stub", &stub_runtime("stub", &stub_recipe(), extra)));
    daemon.drop_file("one.yaml", &stub_service("one", "stub"));
    daemon.wait_ready("one");
    let first = running(&daemon, "one").expect("it runs");
    let child = || daemon_child(&daemon);
    let grandchild = child();
    assert!(is_alive(grandchild));

    // The daemon: nobody else notices.
    daemon.kill();
    daemon.restart();
    daemon.wait_ready("one");
    assert_eq!(running(&daemon, "one"), Some(first), "adopted, not restarted");
    let (status, answer) = post(&daemon.url("/v1/models/one:predict"), &json!({})).await;
    assert_eq!((status, answer["pid"].as_i64()), (200, Some(first.0)));
    let environment = answer["environment"].as_object().expect("an environment");
    assert!(!environment.contains_key("KSERVE_LOCAL_ENGINE"), "it is clean: {environment:?}");
    assert!(
        answer["arguments"].to_string().contains("process-cache")
            || std::env::var_os("KSERVE_LOCAL_TEST_CACHE").is_some()
    );

    // The model: it ends with what it started, and comes back.
    kill(first.0);
    let second = recovered(&daemon, first);
    assert!(!is_alive(grandchild), "what it started went with it, although in a session of its own");
    assert!(daemon.log().contains("137") || daemon.cli_ok(&["describe", "isvc", "one"]).contains("restarted"));

    // The supervisor: its server never goes on unnoticed.
    kill(second.1);
    let third = recovered(&daemon, second);
    eventually("the server of a killed supervisor is gone", || (!is_alive(second.0)).then_some(()));

    // Both, while nobody looks.
    daemon.kill();
    kill(third.0);
    eventually("the model is gone", || (!is_alive(third.0)).then_some(()));
    daemon.restart();
    let fourth = recovered(&daemon, third);

    // Ctrl-C leaves nothing behind.
    daemon.signal("INT");
    assert_eq!(daemon.wait_exit(), Some(130));
    assert!(!is_alive(fourth.0) && !is_alive(fourth.1));
    let left = std::fs::read_dir(daemon.home().join("state/processes")).expect("a folder").count();
    assert_eq!(left, 0);
}

fn daemon_child(daemon: &Daemon) -> i64 {
    eventually("it says what it started", || {
        let output = daemon.cli(&["logs", "one"]);
        let said = text(&output.stdout);
        said.lines().find_map(|line| line.rsplit_once("child ")?.1.trim().parse().ok())
    })
}

/// Waits until another process serves.
fn recovered(daemon: &Daemon, before: (i64, i64)) -> (i64, i64) {
    let now = eventually_or(
        "another process runs",
        || daemon.log(),
        || running(daemon, "one").filter(|now| now.0 != before.0 && now.1 != before.1),
    );
    daemon.wait_ready("one");
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_a_server_of_several_models_too() {
    if !python_or_skip("a_process_is_a_server_of_several_models_too") {
        return;
    }
    let daemon = serve(&[], |home| write_runtime(home, "shelf", &stub_runtime("shelf", &stub_recipe(), "")));
    let shelf = stub_service("shelf", "shelf").replace(&format!("      storageUri: {}\n", iris()), "");
    daemon.drop_file("shelf.yaml", &shelf);
    let rose = format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: TrainedModel\nmetadata: {{name: rose}}\nspec:\n  inferenceService: shelf\n  model: {{framework: shelf, storageUri: \"{}\", memory: 1Mi}}\n",
        iris()
    );
    daemon.drop_file("rose.yaml", &rose);
    eventually("its file is read", || daemon.cli(&["get", "tm/rose"]).status.success().then_some(()));
    daemon.cli_ok(&["wait", "tm/rose", "--for=condition=Ready", "--timeout=60s"]);
    // The server says what is in its folder.
    let shown = async || post(&daemon.url("/serving/default/shelf/v1/models"), &json!({})).await.1["models"].clone();
    assert_eq!(shown().await, json!(["rose"]));
    let (status, answer) = post(&daemon.url("/v1/models/rose:predict"), &json!({})).await;
    assert_eq!((status, &answer["name"]), (200, &json!("/v1/models/rose:predict")));

    // A new start loads it again.
    let before = running(&daemon, "shelf").expect("it runs");
    kill(before.0);
    eventually_or("it runs again", || daemon.log(), || running(&daemon, "shelf").filter(|now| now.0 != before.0));
    daemon.cli_ok(&["wait", "tm/rose", "--for=condition=Ready", "--timeout=60s"]);
    std::fs::remove_file(daemon.service_file("rose.yaml")).expect("the file");
    let gone = async {
        while shown().await != json!([]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("its files are taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_with_the_next_step() {
    if !python_or_skip("bad_input_is_told_with_the_next_step") {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let stub = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/process_stub.py");
    let declared = format!("    ports: [{{containerPort: {port}}}]\n");
    let hash = "0".repeat(64);
    let runtimes = [
        ("good", stub_recipe(), ""),
        ("future", "python: \">=3.99\"\npackages: []\ncommand: [python]".to_owned(), ""),
        ("absent", "executable: kserve-local-nobody\nhint: install nobody".to_owned(), ""),
        ("gone", format!("executable: python3\ncommand: [kserve-local-nobody, {stub}]"), ""),
        ("taken", format!("executable: python3\ncommand: [python3, {stub}]"), declared.as_str()),
        (
            "offline",
            format!("python: \">=3.8\"\npackages: [\"six==1.17.0 --hash=sha256:{hash}\"]\ncommand: [python]"),
            "",
        ),
    ];
    // No index answers there, and pip and uv ask once.
    let nowhere = "http://127.0.0.1:9/simple";
    let environment = [
        ("PIP_INDEX_URL", nowhere),
        ("UV_DEFAULT_INDEX", nowhere),
        ("PIP_RETRIES", "1"),
        ("UV_HTTP_RETRIES", "0"),
        ("UV_PYTHON_DOWNLOADS", "never"),
        ("PIP_FIND_LINKS", ""),
    ];
    let daemon = serve(&environment, |home| {
        for (name, recipe, extra) in &runtimes {
            write_runtime(home, name, &stub_runtime(name, recipe, extra));
        }
    });
    for (name, ..) in &runtimes {
        daemon.drop_file(&format!("{name}.yaml"), &stub_service(name, name));
    }
    daemon.drop_file("tensorflow.yaml", &stub_service("flowers", "tensorflow"));
    daemon.wait_ready("good");
    let model = running(&daemon, "good");

    let said = daemon.wait_reason("flowers", "NeedsContainerEngine");
    assert!(said.contains("kserve-tensorflow-serving") && said.contains("--engine docker"), "{said}");
    let said = daemon.wait_reason("future", "EnvironmentFailed");
    assert!(said.contains(">=3.99") && said.contains("install"), "{said}");
    let said = daemon.wait_reason("absent", "EnvironmentFailed");
    assert!(said.contains("`kserve-local-nobody` is not on the PATH; install nobody"), "{said}");
    let said = daemon.wait_reason("gone", "ContainerCannotRun");
    assert!(said.contains("`kserve-local-nobody`"), "{said}");
    let said = daemon.wait_reason("taken", "ContainerCannotRun");
    assert!(said.contains(&format!("port {port} is taken")), "{said}");
    let said = daemon.wait_reason("offline", "EnvironmentFailed");
    assert!(said.contains("the package index cannot be reached") && said.contains(".log"), "{said}");
    assert!(said.contains("six"), "it names the package: {said}");

    let (status, _) = post(&daemon.url("/v1/models/good:predict"), &json!({})).await;
    assert_eq!((status, running(&daemon, "good")), (200, model), "nobody else felt it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_fails_is_named_with_the_log() {
    let test = "a_package_that_fails_is_named_with_the_log";
    if !packages_or_skip(test, &[&sklearn("sklearn-iris", "")]).await {
        return;
    }
    let hash = "0".repeat(64);
    let recipe = format!("python: \">=3.8\"\npackages: [\"six==1.17.0 --hash=sha256:{hash}\"]\ncommand: [python]");
    let daemon = serve(&[], |home| write_runtime(home, "wrong", &stub_runtime("wrong", &recipe, "")));
    daemon.drop_file("wrong.yaml", &stub_service("wrong", "wrong"));
    let said = daemon.wait_reason("wrong", "EnvironmentFailed");
    assert!(said.contains("package six==1.17.0 cannot be installed"), "{said}");
    let log = said.split_whitespace().map(|word| word.trim_end_matches([';', ','])).find(|word| word.ends_with(".log"));
    let log = std::fs::read_to_string(log.expect("a log")).expect("the log can be read");
    assert!(log.contains("six"), "{log}");
}

#[test]
fn without_python_the_next_step_is_told() {
    let empty = tempfile::tempdir().expect("a folder");
    let cache = empty.path().to_str().expect("a path in UTF-8");
    let daemon = serve(&[("PATH", "/nowhere"), ("KSERVE_LOCAL_CACHE_DIR", cache)], |_| {});
    daemon.drop_file("iris.yaml", &sklearn("iris", ""));
    let said = daemon.wait_reason("iris", "EnvironmentFailed");
    assert!(said.contains("there is no Python at all") && said.contains("uv"), "{said}");
    assert!(said.contains("kserve-sklearnserver"), "it names the runtime: {said}");
}
