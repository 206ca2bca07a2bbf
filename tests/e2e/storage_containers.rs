//! Models that containers of the user's fetch, and several models in one folder: in real containers, because what a server
//! sees is what counts.

use serde_json::{Value, json};

use super::client;
use super::daemon::{Daemon, docker, docker_or_skip, eventually_or, text};

const IMAGE: &str = "kserve-local/test-python:bookworm";

/// Does as KServe's storage initializer: source and destination are its arguments. It writes down what it was given.
const DOWNLOADER: &str = r#"
import json, os, stat, sys, time
source, destination = sys.argv[1:3]
name = source.rsplit("/", 1)[1]
if name == "missing":
    print("looking for", source, "with", os.environ.get("AWS_SECRET_ACCESS_KEY"))
    print("there is no such model", file=sys.stderr)
    sys.exit(3)
if name == "slow":
    open(os.path.join(destination, "part"), "w").write("x")
    time.sleep(600)
if name == "empty":
    sys.exit(0)
os.makedirs(os.path.join(destination, "weights"))
said = {
    "arguments": sys.argv[1:],
    "keys": [os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("S3_ENDPOINT")],
    "secret": os.path.exists("/var/secrets/gcloud-application-credentials.json"),
    "own": os.environ.get("OWN"),
    "home": os.environ.get("KSERVE_LOCAL_CACHE_DIR"),
}
json.dump(said, open(os.path.join(destination, "said.json"), "w"))
open(os.path.join(destination, "weights", "a.bin"), "wb").write(b"weights of " + name.encode())
os.chmod(os.path.join(destination, "weights", "a.bin"), 0o600)
"#;

fn storage_container(name: &str, more: &Value) -> String {
    let mut spec = json!({
        "container": {
            "name": "storage-initializer", "image": IMAGE,
            "command": ["python3", "-c", DOWNLOADER],
            "env": [{"name": "OWN", "value": "mine"}],
            "resources": {"limits": {"memory": "128Mi", "cpu": "1"}},
        },
        "supportedUriFormats": [{"prefix": "company://"}],
        "workloadType": "initContainer",
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ClusterStorageContainer",
        "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

/// A server that shows the files of its model.
fn files_of(name: &str, predictor: &Value) -> String {
    let mut spec = json!({
        "serviceAccountName": "reader",
        "containers": [{
            "name": "kserve-container", "image": IMAGE,
            "command": ["python3", "-m", "http.server", "8080", "--directory", "/mnt/models"],
        }],
    });
    for (key, value) in predictor.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name}, "spec": {"predictor": spec},
    })
    .to_string()
}

fn one(name: &str, uri: &str) -> String {
    let container = json!({
        "name": "kserve-container", "image": IMAGE,
        "command": ["python3", "-m", "http.server", "8080", "--directory", "/mnt/models"],
        "env": [{"name": "STORAGE_URI", "value": uri}],
    });
    files_of(name, &json!({"containers": [container]}))
}

async fn shown(daemon: &Daemon, service: &str, path: &str) -> String {
    let request = client().get(daemon.url(path)).header("host", format!("{service}-default.example.com"));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.expect("text")
}

/// Names of containers that fetch models.
fn downloads(daemon: &Daemon) -> Vec<String> {
    let filter = format!("label=kserve-local/instance={}", daemon.instance());
    let ids = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter, "--filter", "label=kserve-local/download"]);
    ids.split_whitespace().map(str::to_owned).collect()
}

const ACCOUNT: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\nsecrets: [{name: s3}, {name: gcs}]\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s3, annotations: {serving.kserve.io/s3-endpoint: 'minio:9000', serving.kserve.io/s3-usehttps: '0'}}\nstringData: {AWS_ACCESS_KEY_ID: mine, AWS_SECRET_ACCESS_KEY: hush-hush-hush}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: gcs}\nstringData: {gcloud-application-credentials.json: '{}'}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_the_users_fetches_the_model_with_kserves_arguments_and_credentials() {
    if !docker_or_skip("a_container_of_the_users_fetches_the_model_with_kserves_arguments_and_credentials") {
        return;
    }
    let daemon = Daemon::start();
    daemon.drop_file("account.yaml", ACCOUNT);
    daemon.drop_file("container.json", &storage_container("company", &json!({})));
    daemon.drop_file("files.json", &one("files", "company://team/model"));
    daemon.wait_ready("files");
    let said: Value = serde_json::from_str(&shown(&daemon, "files", "/said.json").await).expect("JSON");
    assert_eq!(said["arguments"], json!(["company://team/model", "/mnt/models"]));
    assert_eq!(said["keys"], json!(["mine", "minio:9000"]));
    assert_eq!((&said["secret"], &said["own"]), (&json!(true), &json!("mine")));
    assert_eq!(said["home"], Value::Null, "the daemon's own environment is not given away");
    assert_eq!(shown(&daemon, "files", "/weights/a.bin").await, "weights of model");
    assert_eq!(downloads(&daemon), [""; 0], "nothing is left of the run");
    let listed = daemon.cli_ok(&["cache", "ls"]);
    assert!(listed.contains("company://team/model by company"), "{listed}");

    // A second service takes what is there.
    daemon.drop_file("again.json", &one("again", "company://team/model"));
    daemon.wait_ready("again");
    assert_eq!(daemon.cli_ok(&["cache", "ls"]).matches("company://team/model").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_container_that_fails_is_quoted_and_one_that_a_dead_daemon_left_is_removed() {
    const NAME: &str = "a_storage_container_that_fails_is_quoted_and_one_that_a_dead_daemon_left_is_removed";
    if !docker_or_skip(NAME) {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.drop_file("account.yaml", ACCOUNT);
    daemon.drop_file("container.json", &storage_container("company", &json!({})));
    for (service, uri, expected) in [
        (
            "missing",
            "company://team/missing",
            "ended with exit code 3: looking for company://team/missing with … | there is no such model",
        ),
        ("empty", "company://team/empty", "`company` ended well and left nothing in /mnt/models"),
        ("nobody", "nobody://team/model", "StorageURI not supported"),
    ] {
        daemon.drop_file(&format!("{service}.json"), &one(service, uri));
        let message = eventually_or(
            &format!("{service} fails with `{expected}`"),
            || format!("{}\n{}", text(&daemon.cli(&["describe", "isvc", service]).stdout), daemon.log()),
            || {
                let object = daemon.object(service)?.to_string();
                object.contains(expected).then_some(object)
            },
        );
        assert!(!message.contains("hush"), "{message}");
    }
    assert!(!daemon.log().contains("hush"), "{}", daemon.log());

    daemon.drop_file("slow.json", &one("slow", "company://team/slow"));
    let running = eventually_or(
        "the download runs",
        || daemon.log(),
        || {
            let ids = downloads(&daemon);
            ids.iter()
                .find(|id| docker(&["inspect", "-f", "{{.State.Running}} {{.Args}}", id]).contains("team/slow"))
                .cloned()
        },
    );
    daemon.kill();
    std::fs::remove_file(daemon.service_file("slow.json")).expect("the file is there");
    daemon.restart();
    eventually_or(
        "the old download is removed",
        || daemon.log(),
        || (!downloads(&daemon).contains(&running)).then_some(()),
    );

    // A daemon that is asked to end takes its downloads with it.
    daemon.drop_file("slow.json", &one("slow", "company://team/slow"));
    eventually_or(
        "the download runs again",
        || daemon.log(),
        || {
            let ids = downloads(&daemon);
            ids.into_iter()
                .find(|id| docker(&["inspect", "-f", "{{.State.Running}} {{.Args}}", id]).contains("team/slow"))
        },
    );
    let instance = daemon.instance();
    daemon.signal("TERM");
    daemon.wait_exit();
    let filter = format!("label=kserve-local/instance={instance}");
    let left = docker(&["ps", "-aq", "--filter", &filter, "--filter", "label=kserve-local/download"]);
    assert_eq!(left.trim(), "");
    std::fs::remove_file(daemon.service_file("slow.json")).expect("the file is there");
    daemon.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_artifacts_share_a_folder_and_lie_within_each_other() {
    if !docker_or_skip("several_artifacts_share_a_folder_and_lie_within_each_other") {
        return;
    }
    let daemon = Daemon::start();
    let root = daemon.home().join("models");
    let file = |path: &str, content: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        std::fs::write(path, content).expect("a file can be written");
    };
    file("base/config.json", "base");
    file("base/weights.bin", "base");
    file("over/config.json", "over");
    file("lora/adapter.bin", "lora");
    let claim = daemon.home().join("volumes/default/notes");
    std::fs::create_dir_all(&claim).expect("a folder can be made");
    std::fs::write(claim.join("read.me"), "notes").expect("a file can be written");
    daemon.drop_file("account.yaml", ACCOUNT);
    daemon.drop_file("container.json", &storage_container("company", &json!({"supportsMultiModelDownload": true})));
    let local = |name: &str| format!("file://{}/{name}", root.display());
    daemon.drop_file(
        "together.json",
        &files_of(
            "together",
            &json!({"storageUris": [
                {"uri": local("base")},
                {"uri": local("over")},
                {"uri": local("lora"), "mountPath": "/mnt/models/adapters/lora"},
                {"uri": "pvc://notes", "mountPath": "/mnt/models/notes"},
            ]}),
        ),
    );
    daemon.drop_file(
        "containers.json",
        &files_of(
            "containers",
            &json!({"storageUris": [
                {"uri": "company://team/base", "mountPath": "/mnt/models/base"},
                {"uri": "company://team/lora", "mountPath": "/mnt/models/base/lora"},
            ]}),
        ),
    );
    daemon.wait_ready("together");
    for (path, expected) in [
        ("/config.json", "over"),
        ("/weights.bin", "base"),
        ("/adapters/lora/adapter.bin", "lora"),
        ("/notes/read.me", "notes"),
    ] {
        assert_eq!(shown(&daemon, "together", path).await, expected, "{path}");
    }
    daemon.wait_ready("containers");
    assert_eq!(shown(&daemon, "containers", "/base/weights/a.bin").await, "weights of base");
    assert_eq!(shown(&daemon, "containers", "/base/lora/weights/a.bin").await, "weights of lora");
    assert!(!root.join("base/adapters").exists(), "the user's folder is as it was");
}

/// An image of this machine with one file, which goes with the test.
struct Image(String);

impl Image {
    fn import(folder: &std::path::Path) -> Self {
        let name = format!("kserve-local/test-model:{}", std::process::id());
        let archive = folder.join("image.tar");
        let root = folder.join("root");
        std::fs::create_dir_all(root.join("models/1")).expect("a folder can be made");
        std::fs::write(root.join("models/1/weights"), "of the image").expect("a file can be written");
        std::fs::write(root.join("other"), "not of the model").expect("a file can be written");
        let packed = std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
        assert!(packed.expect("tar runs").success());
        docker(&["import", archive.to_str().expect("a name"), &name]);
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_this_machine_and_claims_are_models() {
    if !docker_or_skip("images_of_this_machine_and_claims_are_models") {
        return;
    }
    let daemon = Daemon::start();
    let image = Image::import(&daemon.home().join("build"));
    let claim = daemon.home().join("volumes/default/shelf/deep/model");
    std::fs::create_dir_all(&claim).expect("a folder can be made");
    std::fs::write(claim.join("weights"), "of the claim").expect("a file can be written");
    daemon.drop_file("account.yaml", ACCOUNT);
    daemon.drop_file("car.json", &one("car", &format!("oci://{}", image.0)));
    daemon.drop_file("native.json", &one("native", &format!("oci+native://{}", image.0)));
    daemon.drop_file("claim.json", &one("claim", "pvc://shelf/deep/model"));
    for (service, path, expected) in [
        ("car", "/1/weights", "of the image"),
        ("native", "/1/weights", "of the image"),
        ("claim", "/weights", "of the claim"),
    ] {
        daemon.wait_ready(service);
        assert_eq!(shown(&daemon, service, path).await, expected, "{service}");
    }
}
