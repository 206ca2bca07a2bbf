//! Real `kubectl` against a real daemon whose containers are imagined: what people type, and what they see.
//!
//! `KSERVE_LOCAL_TEST_KUBECTL` names the binaries to use, separated by `:`; without it the one in `PATH` is used.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/api.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests of the API")]
mod api;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "shared with the tests that need Docker")]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daemon::{Daemon, eventually, skip, text};

/// Oldest version that is supported.
const OLDEST: u32 = 29;

/// One kubectl with a daemon of its own.
struct Kubectl {
    binary: PathBuf,
    daemon: Daemon,
}

impl Kubectl {
    fn start(binary: &Path) -> Self {
        let daemon = Daemon::start_with(&[("KSERVE_LOCAL_ENGINE", "memory")], |home| {
            std::fs::create_dir_all(home.join("model")).expect("a folder for the model");
            std::fs::write(home.join("model/model.joblib"), "a model").expect("a model");
            std::fs::write(home.join("config.yaml"), "ingress: {ingressDomain: models.test}\n").expect("settings");
        });
        let config = daemon.cli_ok(&["kubeconfig"]);
        std::fs::write(daemon.home().join("kubeconfig"), config).expect("a kubeconfig");
        Self { binary: binary.to_owned(), daemon }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).env("KUBECONFIG", self.daemon.home().join("kubeconfig"));
        command.env("HOME", self.daemon.home()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it; returns whether it succeeded, and everything it said.
    fn run(&self, words: &[&str], stdin: &str) -> (bool, String) {
        let mut child = self.command(words).spawn().expect("kubectl runs");
        let mut input = child.stdin.take().expect("stdin");
        // A command that reads no stdin may have ended before this.
        drop(input.write_all(stdin.as_bytes()));
        drop(input);
        let output = child.wait_with_output().expect("kubectl ends");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Runs words that must succeed.
    fn ok(&self, words: &str) -> String {
        self.ok_with(words, "")
    }

    fn ok_with(&self, words: &str, stdin: &str) -> String {
        let split: Vec<&str> = words.split_whitespace().collect();
        let (succeeded, said) = self.run(&split, stdin);
        assert!(succeeded, "{} {words}: {said}\n{}", self.binary.display(), self.daemon.log());
        said
    }

    /// Runs words that must fail.
    fn fails(&self, words: &str, stdin: &str) -> String {
        let split: Vec<&str> = words.split_whitespace().collect();
        let (succeeded, said) = self.run(&split, stdin);
        assert!(!succeeded, "{} {words} succeeded: {said}", self.binary.display());
        said
    }

    /// An InferenceService as KServe's documentation writes it, with some lines more below the predictor.
    fn isvc(&self, more: &str) -> String {
        format!(
            "apiVersion: \"serving.kserve.io/v1beta1\"\nkind: \"InferenceService\"\nmetadata:\n  name: \"sklearn-iris\"\nspec:\n  predictor:\n{more}    model:\n      modelFormat:\n        name: sklearn\n      storageUri: \"file://{}\"\n",
            self.daemon.home().join("model").display()
        )
    }

    /// Applies the InferenceService and waits until it is ready.
    fn serve(&self) {
        self.ok_with("apply -f -", &self.isvc(""));
        self.ok("wait --for=condition=Ready isvc/sklearn-iris --timeout=60s");
    }

    fn pod(&self) -> String {
        eventually("there is a pod", || {
            let pods = self.ok("get pods -o name");
            pods.lines().next().map(str::to_owned)
        })
    }
}

/// Returns the binaries to test, each of a version that is supported.
fn binaries() -> Vec<PathBuf> {
    let named = std::env::var("KSERVE_LOCAL_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let works = |binary: &PathBuf| {
        let output = Command::new(binary).args(["version", "--client", "-o", "json"]).output().ok()?;
        let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let minor = version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse::<u32>().ok()?;
        assert!(
            minor >= OLDEST,
            "{} is of version 1.{minor}; 1.{OLDEST} is the oldest that is supported",
            binary.display()
        );
        Some(())
    };
    named.split(':').map(PathBuf::from).filter(|binary| works(binary).is_some()).collect()
}

/// Runs a test with every kubectl there is; says so when there is none.
fn with_each(test: &str, run: impl Fn(Kubectl)) {
    let binaries = binaries();
    if binaries.is_empty() {
        skip(test, "there is no kubectl; name one with KSERVE_LOCAL_TEST_KUBECTL");
    }
    for binary in binaries {
        run(Kubectl::start(&binary));
    }
}

/// Asserts that a text holds every one of these.
#[track_caller]
fn holds(said: &str, all: &[&str]) {
    for wanted in all {
        assert!(said.contains(wanted), "`{wanted}` is not in:\n{said}");
    }
}

#[test]
fn kserves_first_tutorial_works_as_it_stands() {
    with_each("kserves_first_tutorial_works_as_it_stands", |kubectl| {
        assert_eq!(kubectl.ok("create namespace kserve-test"), "namespace/kserve-test created\n");
        let applied = kubectl.ok_with("apply -n kserve-test -f -", &kubectl.isvc(""));
        assert_eq!(applied, "inferenceservice.serving.kserve.io/sklearn-iris created\n");
        kubectl.ok("wait --for=condition=Ready isvc/sklearn-iris -n kserve-test --timeout=60s");
        let got = kubectl.ok("get inferenceservices sklearn-iris -n kserve-test");
        holds(&got, &["NAME", "URL", "READY", "PREV", "LATEST", "PREVROLLEDOUTREVISION", "LATESTREADYREVISION", "AGE"]);
        holds(&got, &["sklearn-iris   http://", "True"]);
        holds(&kubectl.ok("get isvc -A"), &["NAMESPACE", "kserve-test   sklearn-iris"]);
        holds(&kubectl.ok("get clusterservingruntimes"), &["DISABLED   MODELTYPE", "kserve-sklearnserver"]);
        holds(&kubectl.ok("get pods -n kserve-test"), &["1/1", "Running"]);
        let file = kubectl.daemon.service_file("kserve-test/sklearn-iris.yaml");
        holds(&std::fs::read_to_string(file).expect("a file"), &["kind: InferenceService", "storageUri"]);
        kubectl.ok("delete namespace kserve-test");
        assert_eq!(kubectl.ok("get isvc -A"), "No resources found\n");
        assert!(!kubectl.daemon.service_file("kserve-test/sklearn-iris.yaml").exists());
        holds(
            &kubectl.fails("get namespace kserve-test", ""),
            &["Error from server (NotFound): namespaces \"kserve-test\" not found"],
        );
    });
}

#[test]
fn what_is_applied_is_created_changed_or_unchanged() {
    with_each("what_is_applied_is_created_changed_or_unchanged", |kubectl| {
        let more = kubectl.isvc("    minReplicas: 2\n");
        let version = || kubectl.ok("get isvc sklearn-iris -o jsonpath={.metadata.resourceVersion}");
        holds(&kubectl.ok_with("apply --dry-run=server -f -", &more), &["created (server dry run)"]);
        assert_eq!(kubectl.ok("get isvc -A"), "No resources found\n");
        holds(&kubectl.ok_with("apply -f -", &more), &["created"]);
        kubectl.ok("wait --for=condition=Ready isvc/sklearn-iris --timeout=60s");
        let before = version();
        holds(&kubectl.ok_with("apply -f -", &more), &["unchanged"]);
        assert_eq!(version(), before);
        holds(&kubectl.fails("diff -f -", &kubectl.isvc("")), &["-    minReplicas: 2", "generation: 2"]);
        assert_eq!(version(), before, "a diff writes nothing");
        holds(&kubectl.ok_with("apply -f -", &kubectl.isvc("")), &["configured"]);
        assert_eq!(kubectl.ok("get isvc sklearn-iris -o jsonpath={.spec.predictor.minReplicas}"), "");
        holds(&kubectl.ok_with("replace -f -", &more), &["replaced"]);
        holds(&kubectl.fails("create -f -", &more), &["AlreadyExists"]);
    });
}

#[test]
fn server_side_apply_knows_whose_field_it_is() {
    with_each("server_side_apply_knows_whose_field_it_is", |kubectl| {
        let with = |replicas: u32| kubectl.isvc(&format!("    minReplicas: {replicas}\n"));
        holds(&kubectl.ok_with("apply --server-side -f -", &with(1)), &["serverside-applied"]);
        let conflict = kubectl.fails("apply --server-side --field-manager=other -f -", &with(2));
        holds(&conflict, &["conflict with \"kubectl\"", ".spec.predictor.minReplicas", "--force-conflicts"]);
        kubectl.ok_with("apply --server-side --field-manager=other --force-conflicts -f -", &with(2));
        holds(&kubectl.fails("apply --server-side -f -", &with(1)), &["conflict with \"other\""]);
        // What it no longer says is the other's alone.
        kubectl.ok_with("apply --server-side -f -", &kubectl.isvc(""));
        assert_eq!(kubectl.ok("get isvc sklearn-iris -o jsonpath={.spec.predictor.minReplicas}"), "2");
        let shown = kubectl.ok("get isvc sklearn-iris -o yaml --show-managed-fields");
        holds(&shown, &["manager: kubectl", "manager: other", "operation: Apply", "f:minReplicas: {}"]);
        let file = std::fs::read_to_string(kubectl.daemon.service_file("default/sklearn-iris.yaml")).expect("a file");
        assert!(!file.contains("managedFields"), "{file}");
    });
}

#[test]
fn what_was_applied_by_the_client_moves_to_the_server() {
    with_each("what_was_applied_by_the_client_moves_to_the_server", |kubectl| {
        kubectl.ok_with("apply -f -", &kubectl.isvc("    minReplicas: 2\n"));
        kubectl.ok_with("apply --server-side -f -", &kubectl.isvc("    minReplicas: 2\n"));
        kubectl.ok_with("apply --server-side -f -", &kubectl.isvc(""));
        assert_eq!(kubectl.ok("get isvc sklearn-iris -o jsonpath={.spec.predictor.minReplicas}"), "");
    });
}

#[test]
fn everything_that_runs_can_be_looked_at() {
    with_each("everything_that_runs_can_be_looked_at", |kubectl| {
        kubectl.serve();
        for format in ["yaml", "json", "wide", "name", "jsonpath={.metadata.name}", "custom-columns=N:.metadata.name"] {
            holds(&kubectl.ok(&format!("get isvc sklearn-iris -o {format}")), &["sklearn-iris"]);
            holds(
                &kubectl.ok(&format!("get isvc -o {format}")),
                if format.starts_with("json") && format != "json" { &[] } else { &["sklearn-iris"] },
            );
        }
        kubectl.ok("get isvc --sort-by=.metadata.name --show-labels -l !none");
        holds(&kubectl.ok("get all"), &["pod/", "service/", "deployment.apps/", "inferenceservice.serving.kserve.io/"]);
        holds(
            &kubectl.ok("get nodes,sa,cm,secrets,rs,events"),
            &["node/", "serviceaccount/default", "replicaset.apps/"],
        );
        holds(&kubectl.ok("get cm inferenceservice-config -n kserve -o yaml"), &["s3AccessKeyIDName"]);
        holds(&kubectl.ok("describe isvc sklearn-iris"), &["Storage Uri:", "Conditions:", "InferenceServiceReady"]);
        let pod = kubectl.pod();
        holds(&kubectl.ok(&format!("describe {pod}")), &["kserve-container:", "Running", "kserve-local/127.0.0.1"]);
        holds(&kubectl.ok("describe deploy sklearn-iris-predictor"), &["1 desired", "1 available"]);
        kubectl.ok("rollout status deploy/sklearn-iris-predictor --timeout=20s");
        kubectl.ok(&format!("logs {pod} --tail=1 --timestamps"));
        kubectl.ok("logs deploy/sklearn-iris-predictor -c kserve-container");
        holds(&kubectl.ok("events --for isvc/sklearn-iris"), &["InferenceServiceReady"]);
        holds(
            &kubectl.ok("get events"),
            &["LAST SEEN", "isvc/sklearn-iris".replace("isvc", "inferenceservice").as_str()],
        );
        holds(
            &kubectl.ok("explain isvc.spec.predictor.model"),
            &["FIELDS:", "storageUri\t<string>", "modelFormat\t<ModelFormat> -required-"],
        );
        holds(&kubectl.ok("explain isvc --recursive"), &["predictor", "initialDelaySeconds"]);
        holds(&kubectl.ok("explain clusterservingruntime.spec"), &["supportedModelFormats"]);
        holds(&kubectl.ok("explain servingruntime.spec"), &["supportedModelFormats"]);
        holds(&kubectl.ok("api-resources"), &["isvc", "serving.kserve.io/v1beta1"]);
        holds(&kubectl.ok("api-versions"), &["serving.kserve.io/v1alpha1"]);
        holds(&kubectl.ok("version"), &["Server Version: v1."]);
        kubectl.ok("cluster-info");
        holds(&kubectl.ok("get --raw /readyz"), &["ok"]);
    });
}

#[test]
fn a_watch_tells_what_changes_and_only_that() {
    with_each("a_watch_tells_what_changes_and_only_that", |kubectl| {
        kubectl.serve();
        let mut watch = kubectl.command(&["get", "isvc", "sklearn-iris", "-w"]).spawn().expect("kubectl runs");
        let lines = BufReader::new(watch.stdout.take().expect("stdout")).lines();
        let mut lines = lines.map(|line| line.expect("a line"));
        assert!(lines.next().is_some_and(|line| line.starts_with("NAME")));
        assert!(lines.next().is_some_and(|line| line.starts_with("sklearn-iris")));
        kubectl.ok_with("apply -f -", &kubectl.isvc("").replace("sklearn-iris", "another"));
        kubectl.ok("label isvc sklearn-iris a=b");
        assert!(lines.next().is_some_and(|line| line.starts_with("sklearn-iris")));
        watch.kill().expect("it can be ended");
        watch.wait().expect("it ends");
        kubectl.ok("wait --for=jsonpath={.metadata.labels.a}=b isvc/sklearn-iris --timeout=20s");
        holds(&kubectl.fails("wait --for=condition=Never isvc/sklearn-iris --timeout=1s", ""), &["timed out"]);
        kubectl.ok("delete isvc another");
        kubectl.ok("wait --for=delete isvc/another --timeout=20s");
    });
}

#[test]
fn objects_are_changed_in_every_dialect() {
    with_each("objects_are_changed_in_every_dialect", |kubectl| {
        kubectl.serve();
        let patch = |kind: &str, patch: &str| {
            kubectl.run(&["patch", "isvc", "sklearn-iris", &format!("--type={kind}"), "-p", patch], "")
        };
        let minimum = || kubectl.ok("get isvc sklearn-iris -o jsonpath={.spec.predictor.minReplicas}");
        holds(&patch("merge", r#"{"spec":{"predictor":{"minReplicas":2}}}"#).1, &["patched"]);
        // kubectl compares whole objects: a status that changes between its two requests is a change, too.
        let again = || patch("merge", r#"{"spec":{"predictor":{"minReplicas":2}}}"#).1;
        assert!((0..20).any(|_| again().contains("patched (no change)")), "{}", again());
        holds(&patch("json", r#"[{"op":"replace","path":"/spec/predictor/minReplicas","value":3}]"#).1, &["patched"]);
        assert_eq!(minimum(), "3");
        assert!(!patch("json", r#"[{"op":"test","path":"/spec/predictor/minReplicas","value":9}]"#).0);
        let (succeeded, said) = patch("strategic", "{}");
        assert!(!succeeded && said.contains("strategic-merge-patch+json is not supported"), "{said}");
        holds(&kubectl.ok("label isvc sklearn-iris team=a"), &["labeled"]);
        holds(&kubectl.ok("annotate isvc sklearn-iris note=b"), &["annotated"]);
        let status = ["patch", "isvc", "sklearn-iris", "--subresource=status", "--type=merge", "-p"];
        let (succeeded, said) = kubectl.run(&[&status[..], &[r#"{"status":{"url":"http://x"}}"#]].concat(), "");
        assert!(succeeded && said.contains("Warning: the status is written by kserve-local itself"), "{said}");
        let mut edit = kubectl.command(&["edit", "isvc", "sklearn-iris"]);
        let edited = edit.env("EDITOR", "sed -i s/minReplicas:.*/minReplicas:\\ 1/").output().expect("kubectl runs");
        holds(&(text(&edited.stdout) + &text(&edited.stderr)), &["edited"]);
        assert_eq!(minimum(), "1");
        holds(&kubectl.fails("scale isvc sklearn-iris --replicas=2", ""), &["NotFound"]);
        holds(&kubectl.fails("scale deploy sklearn-iris-predictor --replicas=2", ""), &["minReplicas"]);
        holds(&kubectl.fails("rollout restart deploy sklearn-iris-predictor", ""), &["InferenceService"]);
        let pod = kubectl.pod();
        holds(&kubectl.fails(&format!("delete {pod}"), ""), &["follow from InferenceServices"]);
        holds(&kubectl.fails(&format!("exec {pod} -- ls"), ""), &["exec is not offered"]);
    });
}

/// A forwarded port, until it is dropped.
struct Forwarded {
    child: std::process::Child,
    address: String,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Forwarded {
    fn start(kubectl: &Kubectl, to: &str, port: &str) -> Self {
        Self::start_in(kubectl, "default", to, port)
    }

    fn start_in(kubectl: &Kubectl, namespace: &str, to: &str, port: &str) -> Self {
        let mut command = kubectl.command(&["port-forward", "-n", namespace, to, port, "--address=127.0.0.1"]);
        let mut child = command.spawn().expect("it runs");
        let mut said = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let first = said.next().map(|line| line.expect("a line")).unwrap_or_default();
        let address = first.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "));
        let Some((address, _)) = address else {
            let output = child.wait_with_output().expect("it ends");
            panic!("{first}{}", text(&output.stderr));
        };
        Self { address: address.to_owned(), child, said }
    }

    /// Sends a request and returns everything that comes back.
    fn ask(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(&self.address).expect("somebody listens");
        stream.set_read_timeout(Some(daemon::PATIENCE)).expect("a time limit");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it can be sent");
        let mut answer = Vec::new();
        drop(std::io::Read::read_to_end(&mut stream, &mut answer));
        text(&answer)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn ports_of_replicas_are_forwarded() {
    with_each("ports_of_replicas_are_forwarded", |kubectl| {
        kubectl.serve();
        let pod = kubectl.pod();
        let mut pods = Forwarded::start(&kubectl, &pod, ":8080");
        for _ in 0..20 {
            holds(&pods.ask("/v1/models/sklearn-iris"), &["HTTP/1.1 200"]);
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| holds(&pods.ask("/v1/models/sklearn-iris"), &["HTTP/1.1 200"]));
            }
        });
        for to in ["svc/sklearn-iris-predictor", "deploy/sklearn-iris-predictor"] {
            let port = if to.starts_with("svc") { ":80" } else { ":8080" };
            holds(&Forwarded::start(&kubectl, to, port).ask("/v1/models/sklearn-iris"), &["HTTP/1.1 200"]);
        }
        let closed = Forwarded::start(&kubectl, &pod, ":9999");
        assert_eq!(closed.ask("/"), "");
        assert!(pods.said.next().is_some_and(|line| line.expect("a line").starts_with("Handling connection")));
        holds(&kubectl.fails("port-forward pod/none 8080", ""), &["NotFound"]);
        holds(&kubectl.fails(&format!("attach {pod}"), ""), &["attach is not offered"]);
        holds(
            &kubectl.fails(&format!("cp {}:/etc/hosts /dev/null", pod.trim_start_matches("pod/")), ""),
            &["exec is not offered"],
        );
    });
}

#[test]
fn the_core_kinds_are_kept_too() {
    with_each("the_core_kinds_are_kept_too", |kubectl| {
        kubectl.ok("create namespace team");
        holds(&kubectl.ok("create secret generic s1 --from-literal=a=b -n team"), &["secret/s1 created"]);
        kubectl.ok("create secret generic s2 --from-literal=a=b -n team");
        kubectl.ok("create configmap c1 --from-literal=a=b -n team");
        kubectl.ok("create serviceaccount robot -n team");
        assert_eq!(kubectl.ok("get secret s1 -n team -o jsonpath={.data.a}"), "Yg==");
        for name in ["s1", "s2"] {
            let patch = format!("{{\"secrets\":[{{\"name\":\"{name}\"}}]}}");
            let (succeeded, said) = kubectl.run(&["patch", "sa", "robot", "-n", "team", "-p", &patch], "");
            assert!(succeeded, "{said}");
        }
        assert_eq!(kubectl.ok("get sa robot -n team -o jsonpath={.secrets[*].name}"), "s2 s1");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3, namespace: team}\nstringData: {a: x}\n";
        holds(&kubectl.ok_with("apply -f -", secret), &["created"]);
        holds(&kubectl.ok_with("apply -f -", &secret.replace("a: x", "a: z")), &["configured"]);
        assert_eq!(kubectl.ok("get secret s3 -n team -o jsonpath={.data.a}"), "eg==");
        holds(&kubectl.ok("get sa default -n team"), &["default"]);
        holds(&kubectl.ok("explain secret"), &["stringData", "immutable"]);
        holds(&kubectl.ok("explain sa.secrets"), &["name\t<string>"]);
        holds(&kubectl.ok("auth can-i create isvc"), &["yes"]);
        holds(&kubectl.fails("auth can-i delete pods", ""), &["no"]);
        holds(&kubectl.ok("auth can-i --list"), &["inferenceservices.serving.kserve.io"]);
        holds(&kubectl.ok("auth whoami"), &["kserve-local"]);
        kubectl.ok("delete secret,cm --all -n team");
        kubectl.ok("delete ns team");
        holds(&kubectl.fails("delete ns default", ""), &["may not be deleted"]);
    });
}

/// One object of each of KServe's other kinds, and of claims.
const OTHER_KINDS: &str = r#"
apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {name: chain}
spec: {nodes: {root: {routerType: Sequence, steps: [{serviceName: sklearn-iris}]}}}
---
apiVersion: serving.kserve.io/v1alpha1
kind: TrainedModel
metadata: {name: one}
spec: {inferenceService: many, model: {storageUri: "s3://b/m", framework: sklearn, memory: 1Gi}}
---
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterStorageContainer
metadata: {name: hub}
spec: {container: {name: storage-initializer, image: mine:1}, supportedUriFormats: [{prefix: "hub://"}]}
---
apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelCache
metadata: {name: cached}
spec: {sourceModelUri: "hf://a/b", modelSize: 1Gi, nodeGroups: [laptop]}
---
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata: {name: qwen}
spec: {model: {uri: "hf://Qwen/Qwen2.5-0.5B", name: qwen}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

#[test]
fn kserves_other_kinds_are_kept_under_their_short_names() {
    with_each("kserves_other_kinds_are_kept_under_their_short_names", |kubectl| {
        let created = kubectl.ok_with("apply -f -", OTHER_KINDS);
        holds(&created, &["inferencegraph.serving.kserve.io/chain created", "persistentvolumeclaim/claim created"]);
        let again = kubectl.ok_with("apply -f -", OTHER_KINDS);
        assert!(!again.contains("configured"), "{again}");
        for (name, object) in [
            ("ig", "chain"),
            ("tm", "one"),
            ("clusterstoragecontainers", "hub"),
            ("localmodelcaches", "cached"),
            ("llmisvc", "qwen"),
            ("pvc", "claim"),
        ] {
            holds(&kubectl.ok(&format!("get {name}")), &["NAME", object]);
            holds(&kubectl.ok(&format!("get {name} {object} -o yaml")), &["resourceVersion:", "spec:"]);
            holds(&kubectl.ok(&format!("describe {name} {object}")), &[object]);
            holds(&kubectl.ok(&format!("label {name} {object} a=b")), &["labeled"]);
            holds(&kubectl.ok(&format!("explain {name}.spec")), &["FIELD"]);
        }
        holds(&kubectl.ok("get pvc claim"), &["Bound"]);
        holds(&kubectl.ok("explain ig.spec.nodes.steps"), &["serviceName", "mapPredictionsToInstances"]);
        let wrong = OTHER_KINDS.replace("Sequence", "Sequel");
        holds(&kubectl.fails("apply -f -", &wrong), &["is invalid", "spec.nodes.root.routerType"]);
        let missing = OTHER_KINDS.replace("inferenceService: many, ", "");
        holds(&kubectl.fails("apply -f -", &missing), &["is invalid", "spec.inferenceService"]);
        kubectl.ok_with("delete -f -", OTHER_KINDS);
        assert_eq!(kubectl.ok("get ig,tm,llmisvc,pvc -A"), "No resources found\n");
    });
}

#[test]
fn what_is_wrong_is_refused_by_the_name_of_its_field() {
    with_each("what_is_wrong_is_refused_by_the_name_of_its_field", |kubectl| {
        let typo = kubectl.isvc("").replace("storageUri", "storageURI");
        let unknown = "unknown field \"spec.predictor.model.storageURI\"";
        holds(&kubectl.fails("apply -f -", &typo), &["BadRequest", "strict decoding error", unknown]);
        holds(&kubectl.ok_with("apply --validate=warn --dry-run=server -f -", &typo), &["Warning: ", unknown]);
        let text = kubectl.isvc("    minReplicas: many\n");
        holds(&kubectl.fails("apply -f -", &text), &["is invalid", "spec.predictor.minReplicas"]);
        let denied = "admission webhook \"inferenceservice.kserve-webhook-server.validator\" denied the request: ";
        let crossed = kubectl.isvc("    minReplicas: 3\n    maxReplicas: 1\n");
        holds(
            &kubectl.fails("apply -f -", &crossed),
            &["(Forbidden)", denied, "'MinReplicas' cannot be greater than MaxReplicas"],
        );
        holds(&kubectl.fails("apply --server-side -f -", &crossed), &[denied]);
        let nowhere = kubectl.fails("apply -n nowhere -f -", &kubectl.isvc(""));
        holds(&nowhere, &["(NotFound)", "namespaces \"nowhere\" not found"]);
        holds(&kubectl.fails("create -n nowhere -f -", &kubectl.isvc("")), &["namespaces \"nowhere\" not found"]);
        let named = kubectl.isvc("").replace("sklearn-iris", "Iris");
        holds(&kubectl.fails("apply -f -", &named), &["is invalid", "metadata.name"]);
        holds(
            &kubectl.fails("get isvc none", ""),
            &["(NotFound): inferenceservices.serving.kserve.io \"none\" not found"],
        );
        assert_eq!(kubectl.ok("get isvc"), "No resources found in default namespace.\n");
        let other = std::fs::read_to_string(kubectl.daemon.home().join("kubeconfig")).expect("a kubeconfig");
        let token = std::fs::read_to_string(kubectl.daemon.home().join("state/token")).expect("a token");
        std::fs::write(kubectl.daemon.home().join("kubeconfig"), other.replace(token.trim(), "wrong"))
            .expect("a kubeconfig");
        let refused = kubectl.fails("get isvc", "");
        assert!(refused.contains("nauthorized") || refused.contains("must be logged in"), "{refused}");
    });
}

#[test]
fn tutorials_find_the_ingress_gateway() {
    with_each("tutorials_find_the_ingress_gateway", |kubectl| {
        kubectl.serve();
        let istio = "get service istio-ingressgateway -n istio-system";
        let host = kubectl.ok(&format!("{istio} -o jsonpath={{.status.loadBalancer.ingress[0].ip}}"));
        let port = kubectl.ok(&format!("{istio} -o jsonpath={{.spec.ports[?(@.name==\"http2\")].port}}"));
        assert_eq!(format!("{host}:{port}"), kubectl.daemon.addresses()["data"].as_str().unwrap_or_default());
        let service = kubectl
            .ok("get svc -n istio-system --selector=app=istio-ingressgateway -o jsonpath={.items[0].metadata.name}");
        let forwarded = Forwarded::start_in(&kubectl, "istio-system", &format!("svc/{service}"), ":80");
        holds(&forwarded.ask("/v1/models/sklearn-iris"), &["HTTP/1.1 200"]);
        let owner = "gateway.envoyproxy.io/owning-gateway-namespace=kserve,gateway.envoyproxy.io/owning-gateway-name=kserve-ingress-gateway";
        let service = kubectl
            .ok(&format!("get svc -n envoy-gateway-system --selector={owner} -o jsonpath={{.items[0].metadata.name}}"));
        let forwarded = Forwarded::start_in(&kubectl, "envoy-gateway-system", &format!("svc/{service}"), ":80");
        holds(&forwarded.ask("/v1/models/sklearn-iris"), &["HTTP/1.1 200"]);
        let url = kubectl.ok("get inferenceservice sklearn-iris -o jsonpath={.status.url}");
        assert!(url.starts_with("http://"), "{url}");
        let said = kubectl.ok("get cm inferenceservice-config -n kserve -o jsonpath={.data.ingress}");
        let ingress: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(ingress["ingressDomain"], "models.test");
        holds(&kubectl.ok("rollout history deploy/sklearn-iris-predictor"), &["REVISION", "1"]);
        holds(&kubectl.ok(&format!("describe {}", kubectl.pod())), &["Controlled By:", "ReplicaSet/"]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_cut_and_stamped() {
    for binary in binaries() {
        let api = api::Api::start().await;
        let pod = api.run_pod("iris").await;
        let mut pods = (**api.pods.borrow()).clone();
        std::sync::Arc::make_mut(&mut pods[0]).containers[0].restarts = 0;
        api.pods.send_replace(std::sync::Arc::new(pods));
        let config = api.home.root().join("kubeconfig");
        let server = api.base.replace("http://", "https://");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server}', insecure-skip-tls-verify: true}}}}]\nusers: [{{name: u, user: {{token: {}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            api::TOKEN
        );
        std::fs::write(&config, text).expect("a kubeconfig");
        let command = |words: &str| {
            let mut command = tokio::process::Command::new(&binary);
            command
                .args(words.split_whitespace())
                .env("KUBECONFIG", config.as_str())
                .env("HOME", api.home.root().as_str());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            command
        };
        let said = |words: String| {
            let mut command = command(&words);
            async move {
                let output = command.output().await.expect("kubectl runs");
                text_of(&output)
            }
        };
        for line in ["one", "two", "three"] {
            api.engine.say(&pod, line);
        }
        assert_eq!(said(format!("logs {pod}")).await, "one\ntwo\nthree\n");
        assert_eq!(said(format!("logs {pod} --tail=1 -c kserve-container")).await, "three\n");
        assert_eq!(said(format!("logs {pod} --limit-bytes=4")).await, "one\n");
        assert_eq!(said(format!("logs {pod} --since=1h")).await.lines().count(), 3);
        assert_eq!(said(format!("logs {pod} --since-time=2100-01-01T00:00:00Z")).await, "");
        holds(&said(format!("logs {pod} --timestamps --tail=1")).await, &["Z three"]);
        holds(&said(format!("logs {pod} --previous")).await, &["previous terminated container \"kserve-container\""]);
        holds(&said(format!("logs {pod} -c nope")).await, &["nope is not valid for pod"]);
        let mut follow = command(&format!("logs -f {pod} --tail=1")).spawn().expect("kubectl runs");
        let mut lines =
            tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(follow.stdout.take().expect("stdout")));
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("three"));
        api.engine.say(&pod, "four");
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("four"));
        api.engine.end(&pod, kserve_local::engine::Exit::default());
        assert_eq!(lines.next_line().await.expect("the end"), None);
        assert!(follow.wait().await.expect("it ends").success());
    }
}

fn text_of(output: &std::process::Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// The KServe SDK, in the environment that `KSERVE_LOCAL_TEST_SDK` names (a Python with `kserve` and `kubernetes<37`), or in
/// `target/sdk-venv`.
#[test]
fn the_kserve_sdk_works_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let usual = || root.join("target/sdk-venv/bin/python");
    let python = std::env::var_os("KSERVE_LOCAL_TEST_SDK").map_or_else(usual, PathBuf::from);
    let imports = Command::new(&python).args(["-c", "import kserve, kubernetes"]).output();
    if !imports.is_ok_and(|output| output.status.success()) {
        skip("the_kserve_sdk_works_unchanged", "there is no Python with kserve; docs/kubectl.md says how to make one");
        return;
    }
    let kubectl = Kubectl::start(Path::new("kubectl"));
    let output = Command::new(python)
        .arg(root.join("tests/sdk/credentials_and_services.py"))
        .env("KUBECONFIG", kubectl.daemon.home().join("kubeconfig"))
        .env("MODEL_URI", format!("file://{}", kubectl.daemon.home().join("model").display()))
        .output()
        .expect("Python runs");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", kubectl.daemon.log());
    holds(&said, &["every call answered"]);
}
