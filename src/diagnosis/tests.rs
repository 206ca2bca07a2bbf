//! Every known failure, by the words it really comes with: those of our own errors are made from the errors themselves,
//! those of others were seen.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::api::status::{FailureInfo, ModelStates, ModelStatus};
use crate::api::{Condition, ConditionStatus, InferenceServiceStatus};
use crate::engine::docker_find::FindError;
use crate::environments::EnvironmentError;
use crate::reconcile::execute::chain;
use crate::reconcile::mounts::MountError;
use crate::storage::{DigestKind, PullError, SourceError};

fn status(ready: ConditionStatus, reason: &str, message: &str) -> InferenceServiceStatus {
    InferenceServiceStatus {
        observed_generation: 1,
        conditions: vec![Condition::new("Ready", ready, reason, message)],
        ..InferenceServiceStatus::default()
    }
}

const IRIS: Subject<'_> = Subject { kind: "InferenceService", namespace: "default", name: "iris", generation: 1 };

fn told(reason: &str, message: &str) -> Diagnosis {
    diagnose(&Evidence::of(IRIS, Some(&status(ConditionStatus::False, reason, message))))
}

fn source(error: SourceError) -> String {
    chain(&PullError::Source { uri: "s3://models/iris".to_owned(), source: error })
}

fn not_found(text: &str) -> String {
    source(SourceError::NotFound(text.to_owned()))
}

fn denied(text: &str) -> String {
    source(SourceError::Denied(text.to_owned()))
}

fn invalid(text: &str) -> String {
    source(SourceError::Invalid(text.to_owned()))
}

fn image(words: &str) -> String {
    format!("could not pull image `nobody/iris:v1`: {words}")
}

fn refused(words: &str) -> String {
    format!("the container engine refused to start `kserve-iris`: {words}")
}

fn ended(code: i64, last: &str) -> String {
    let output = if last.is_empty() { String::new() } else { format!("; last output:\nstarting\n{last}") };
    format!(
        "container `kserve-container` ended with exit code {code}; restarted 3 times, next time 40 s after it ended{output}"
    )
}

/// Reason, message, and the failure it is.
fn cases() -> Vec<(&'static str, String, &'static str)> {
    let mut all = spec();
    all.extend(engine());
    all.extend(images());
    all.extend(environments());
    all.extend(models());
    all.extend(room());
    all.extend(containers());
    all.extend(loading());
    all.extend(crashes());
    all
}

fn spec() -> Vec<(&'static str, String, &'static str)> {
    vec![
        (
            "NoSupportingRuntime",
            "no runtime found to support predictor with model type: {x <nil>}".to_owned(),
            "no-runtime",
        ),
        ("RuntimeNotRecognized", "waiting for runtime to become available".to_owned(), "runtime-unknown"),
        ("RuntimeDisabled", "specified runtime is disabled".to_owned(), "runtime-disabled"),
        ("NeedsContainerEngine", "it has no recipe".to_owned(), "needs-engine"),
        (
            "InvalidPredictorSpec",
            "ServiceAccount default/sa secrets[0]: secrets \"s3\" not found in namespace `default`; add it".to_owned(),
            "secret-missing",
        ),
        (
            "InvalidPredictorSpec",
            "spec.predictor.volumes[0]: secret \"x\" not found; add it".to_owned(),
            "secret-missing",
        ),
        (
            "InvalidPredictorSpec",
            "spec.predictor.volumes[0]: configmap \"x\" not found".to_owned(),
            "config-map-missing",
        ),
        (
            "InvalidPredictorSpec",
            "s3-cabundle-configmap: ConfigMap `default/ca` has no `cabundle.crt`".to_owned(),
            "config-map-missing",
        ),
        (
            "InvalidPredictorSpec",
            "spec.predictor.volumes[0].hostPath.path: folder `/etc` of this machine may not be mounted; x".to_owned(),
            "host-path",
        ),
        (
            "InvalidPredictorSpec",
            "spec.predictor.model.storageUri: unable to determine storage type".to_owned(),
            "spec-invalid",
        ),
        ("InvalidGraph", "there is no node `root`".to_owned(), "graph-invalid"),
        (
            "ServiceNotFound",
            "Failed to find graph service cat: there is no InferenceService `default/cat`".to_owned(),
            "graph-service-missing",
        ),
        ("ServiceNotReady", "service cat is not ready (ImagePulling)".to_owned(), "graph-service-not-ready"),
        ("NameTaken", "InferenceService `default/iris` has the same name".to_owned(), "name-taken"),
        ("Stopped", "the service is stopped".to_owned(), "stopped"),
    ]
}

fn engine() -> Vec<(&'static str, String, &'static str)> {
    let lost = |cause: FindError| {
        let error = crate::engine::EngineError::Unreachable {
            endpoint: "unix:///var/run/docker.sock".to_owned(),
            source: Arc::new(cause),
        };
        chain(&error)
    };
    let other = io::Error::other("broken pipe");
    vec![
        ("EngineUnavailable", lost(FindError::Denied), "engine-denied"),
        ("EngineUnavailable", lost(FindError::NotLocal("tcp://10.0.0.1:2375".to_owned())), "engine-elsewhere"),
        ("EngineUnavailable", lost(FindError::NoContext("colima".to_owned())), "engine-context"),
        ("EngineUnavailable", lost(FindError::NotRunning), "engine-stopped"),
        ("EngineUnavailable", lost(FindError::Missing), "engine-absent"),
        ("EngineUnavailable", lost(FindError::NoSocket(vec!["/var/run/docker.sock".to_owned()])), "engine-absent"),
        ("EngineUnavailable", lost(FindError::Silent), "engine-silent"),
        ("EngineUnavailable", lost(FindError::Io(other)), "engine-silent"),
        ("EngineNotAsked", "the container engine has not answered yet".to_owned(), "engine-not-asked"),
        ("EngineUnavailable", "something new".to_owned(), "engine"),
    ]
}

fn images() -> Vec<(&'static str, String, &'static str)> {
    let network = "the registry `r.example` does not answer (dial tcp: lookup r.example: no such host); check";
    let cases = [
        (
            "pull access denied for nobody/iris, repository does not exist or may require 'docker login'",
            "image-private",
        ),
        ("manifest for kserve/x:v9 not found: manifest unknown: manifest unknown", "image-absent"),
        ("unauthorized: authentication required", "image-unauthorized"),
        ("denied: requested access to the resource is denied", "image-unauthorized"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "image-platform"),
        ("toomanyrequests: You have reached your pull rate limit", "image-rate"),
        ("write /var/lib/docker/tmp/x: no space left on device", "image-disk"),
        ("http: server gave HTTP response to HTTPS client", "image-tls"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "image-tls"),
        (network, "image-network"),
        ("invalid reference format", "image-reference"),
        ("received unexpected HTTP status: 503 Service Unavailable", "image"),
    ];
    let mut all: Vec<_> = cases.map(|(words, id)| ("ImagePullFailed", image(words), id)).into();
    all.extend([
        (
            "ImagePullFailed",
            "image `a/b` is not on this machine and imagePullPolicy is Never".to_owned(),
            "image-never",
        ),
        (
            "ImagePullFailed",
            "the image `a/b` is not on this machine, and this is offline mode".to_owned(),
            "image-offline",
        ),
        (
            "InvalidImageName",
            "`my image` is not the name of an image: invalid reference format".to_owned(),
            "image-reference",
        ),
        ("ImagePulling", "pulling a/b: 12% of 2.0 GiB".to_owned(), "image-pulling"),
    ]);
    all
}

fn environments() -> Vec<(&'static str, String, &'static str)> {
    let log = || "/tmp/pip.log".into();
    let errors = [
        (EnvironmentError::NoPython { wanted: "3.11".to_owned(), found: "none".to_owned() }, "python-missing"),
        (EnvironmentError::NoVenv { python: "/usr/bin/python3".to_owned(), message: "x".to_owned() }, "python-venv"),
        (EnvironmentError::Unreachable { package: None, message: "x".to_owned(), log: log() }, "packages-network"),
        (
            EnvironmentError::Package { package: Some("kserve".to_owned()), message: "x".to_owned(), log: log() },
            "packages-refused",
        ),
        (EnvironmentError::Stalled { minutes: 10, log: log() }, "packages-stalled"),
        (EnvironmentError::UnknownLock("x".to_owned()), "environment"),
    ];
    let mut all: Vec<_> = errors.map(|(error, id)| ("EnvironmentFailed", chain(&error), id)).into();
    all.push(("EnvironmentPreparing", "preparing what x runs in".to_owned(), "environment-preparing"));
    all
}

fn models() -> Vec<(&'static str, String, &'static str)> {
    let uri = || "s3://models/iris".to_owned();
    let file = || "model.joblib".to_owned();
    let full = PullError::DiskFull { path: "/cache".into(), needed: 1 << 30, free: 1 << 20, spare: 0 };
    let digest = PullError::WrongDigest {
        uri: uri(),
        file: file(),
        kind: DigestKind::Sha256,
        stated: "a".to_owned(),
        actual: "b".to_owned(),
    };
    let disk = PullError::Disk { path: "/cache".into(), source: Arc::new(io::ErrorKind::PermissionDenied.into()) };
    let timed_out = io::Error::from(io::ErrorKind::TimedOut);
    let pulls = [
        (PullError::Offline { uri: uri() }, "model-offline"),
        (full, "model-disk-full"),
        (PullError::InodesFull { path: "/cache".into(), needed: 9, free: 1 }, "model-inodes-full"),
        (PullError::CacheFull { needed: 9, used: 9, most: 9 }, "model-cache-full"),
        (disk, "model-disk"),
        (PullError::WrongSize { uri: uri(), file: file(), stated: 1, actual: 2 }, "model-damaged"),
        (digest, "model-damaged"),
        (PullError::Archive { file: "m.tar.gz".to_owned(), problem: "it ends early".to_owned() }, "model-archive"),
        (PullError::UnsupportedScheme { scheme: "ftp".to_owned() }, "model-scheme"),
    ];
    let mut all: Vec<_> = pulls.map(|(error, id)| ("ModelPullFailed", chain(&error), id)).into();
    let texts = [
        (source(SourceError::Changed("iris".to_owned())), "model-damaged"),
        (not_found("Local path /models/iris does not exist."), "model-local-missing"),
        (denied("local path `/models/iris` cannot be read: Permission denied"), "model-local-unreadable"),
        (denied("nothing is fetched from `169.254.169.254`: it is a cloud's metadata service"), "model-place-refused"),
        (denied("Access denied to HuggingFace resource 'a/b'. It is gated, and no token was used: ask"), "model-gated"),
        (
            invalid("S3 error [AuthorizationHeaderMalformed]: the bucket is in another region; set AWS_REGION to it."),
            "model-region",
        ),
        (denied("Invalid AWS credentials. S3 said InvalidAccessKeyId."), "model-credentials"),
        (denied("GCS authentication failed. Check the credentials for 'gs://a/b'."), "model-credentials"),
        (denied("Access denied to S3 resource 's3://a/b'. Verify permissions."), "model-denied"),
        (not_found("S3 bucket 'nowhere' does not exist."), "model-bucket-missing"),
        (
            not_found(
                "HuggingFace resource 'a/b' not found. There is no such repository, or it is private and no token was used (HF_TOKEN).",
            ),
            "model-private",
        ),
        (not_found("Failed to fetch model. No model found in s3://models/iris."), "model-empty"),
        (not_found("S3 resource 's3://models/iris' not found."), "model-absent"),
        (not_found("Git resource 'https://x' has no branch, tag or commit 'v9'."), "model-absent"),
        (
            source(SourceError::transient("Failed to connect to S3 endpoint 'localhost:9000'.", timed_out)),
            "model-network",
        ),
        (invalid("HTTP request for 'https://x/y' failed with status code 418."), "model-server-error"),
        (invalid("something new"), "model"),
    ];
    all.extend(texts.map(|(text, id)| ("ModelPullFailed", text, id)));
    all.push(("ModelPulling", "fetching s3://models/iris: 3% of 2.0 GiB".to_owned(), "model-pulling"));
    all
}

fn room() -> Vec<(&'static str, String, &'static str)> {
    let waits = [
        (
            "it needs 2.0 GiB (declared); 1.0 GiB of 4.0 GiB is free; default/a is put to sleep to make room",
            "room-made",
        ),
        (
            "it needs 2.0 GiB; 1.0 GiB is free; the revision before goes first, and comes back if this one fails",
            "room-replaced",
        ),
        ("it needs 2.0 GiB; 1.0 GiB of 4.0 GiB is free; it waits until default/a is idle", "room-busy"),
        (
            "it needs 2.0 GiB; 1.0 GiB of 4.0 GiB is free; it failed before and nobody asks for it, so nobody goes to sleep for it",
            "room-retry",
        ),
        ("something new", "room-waits"),
    ];
    let refused = [
        (
            "it needs 9.0 GiB and models may have 4.0 GiB together (memory.budget): it can never run here",
            "memory-budget",
        ),
        (
            "it needs 99 GiB and this machine has 8.0 GiB, of which x is kept free (memory.reserve): it can never run here",
            "memory-too-big",
        ),
        (
            "it needs 4.0 GiB; 1.0 GiB of 4.0 GiB is free; default/a holds it and may not sleep (minReplicas is not 0)",
            "memory-held",
        ),
        ("it needs 4.0 GiB; 1.0 GiB of 4.0 GiB is free; other programs use 6.0 GiB", "memory-others"),
        ("something new", "memory"),
    ];
    let gpus = [
        ("no GPU has room: GPU-0 has 1.0 GiB of 8.0 GiB free", "gpu-too-small"),
        ("it needs 20.0 GiB on 1 GPU, and the biggest of this machine has 16.0 GiB", "gpu-too-small"),
        ("it asks for 2 GPUs and this machine has 1 GPU", "gpu-absent"),
    ];
    let waits = waits.map(|(text, id)| ("WaitingForMemory", text.to_owned(), id));
    let refused = refused.map(|(text, id)| ("InsufficientMemory", text.to_owned(), id));
    let gpus = gpus.map(|(text, id)| ("InsufficientGPU", text.to_owned(), id));
    waits.into_iter().chain(refused).chain(gpus).collect()
}

fn containers() -> Vec<(&'static str, String, &'static str)> {
    let claim = MountError::NoClaim { claim: "m".to_owned(), folder: "/home/u/.kserve-local/volumes/default/m".into() };
    let sub_path = MountError::NoSubPath { path: "v1".to_owned(), source_name: "/volumes/m".to_owned() };
    let scratch =
        MountError::Scratch { path: "/state/scratch/x".into(), source: io::ErrorKind::PermissionDenied.into() };
    let name = crate::engine::EngineError::NameTaken("kserve-iris".to_owned());
    let own = [
        (chain(&claim), "container-claim"),
        (chain(&sub_path), "container-sub-path"),
        (chain(&scratch), "container-scratch"),
        (chain(&name), "container-name"),
        ("the engine does not get done with removing container `x`; it is asked again".to_owned(), "container-stuck"),
    ];
    let engines = [
        ("exec /usr/bin/python: exec format error", "container-platform"),
        ("could not select device driver \"\" with capabilities: [[gpu]]", "container-gpu"),
        ("runc create failed: exec: \"nope\": executable file not found in $PATH: unknown", "container-command"),
        ("exec: \"/app/run\": stat /app/run: no such file or directory: unknown", "container-command"),
        ("exec: \"/app/run\": permission denied: unknown", "container-command-denied"),
        ("unable to find user nobody2: no matching entries in passwd file", "container-user"),
        ("container has runAsNonRoot and image will run as root", "container-root"),
        ("write /x: no space left on device", "container-disk"),
        ("Minimum memory limit allowed is 6MB", "container-memory-limit"),
        ("range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "container-cpus"),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", "container-port"),
        ("Mounts denied: the path /x is not shared from the host", "container-mount"),
        ("something new", "container"),
    ];
    let engines = engines.map(|(words, id)| ("ContainerCannotRun", refused(words), id));
    let others = [
        ("ContainerPaused", "someone paused the container; unpause it to serve", "container-paused"),
        ("ContainerGone", "a container of this revision was removed", "container-gone"),
        (
            "ContainerRemoved",
            "someone removed its container 3 times; it is made again 20 s after the last time",
            "container-removed",
        ),
        ("RolledBack", "it never got ready, and the revision before is back: x", "rolled-back"),
        ("ProgressDeadlineExceeded", "it came no further within 600 s: the container runs", "deadline"),
        ("Terminating", "it is not wanted any more", "terminating"),
        ("ContainerCreating", "the container is being created", "creating"),
        ("PodInitializing", "init container `fetch` is running", "init-running"),
        ("Waking", "it is being woken; its memory was kept", "waking"),
    ];
    let others = others.map(|(reason, text, id)| (reason, text.to_owned(), id));
    own.map(|(text, id)| ("ContainerCannotRun", text, id)).into_iter().chain(engines).chain(others).collect()
}

fn loading() -> Vec<(&'static str, String, &'static str)> {
    let checks = [
        ("connection refused by port 8080", "port-silent"),
        ("HTTP 404 from /v1/models/iris", "path-unknown"),
        ("/v1/models/iris says that the model is not ready", "model-loads"),
        ("HTTP 500 from /healthz", "probe-refused"),
        ("`test -f /ready` exited with 1", "probe-refused"),
        ("no answer within 1s", "probe-silent"),
        ("something new", "loading"),
    ];
    let checks = checks.map(|(words, id)| {
        ("ModelLoading", format!("the container runs; the model does not answer yet ({words})"), id)
    });
    let lost = [
        (
            "it answered before and does not now: port 80 of the container cannot be reached from here",
            "port-unreachable",
        ),
        ("it answered before and does not now: liveness check failed: HTTP 500 from /healthz", "liveness"),
        ("it answered before and does not now: connection refused by port 8080", "lost"),
    ];
    checks.into_iter().chain(lost.map(|(text, id)| ("ModelNotReady", text.to_owned(), id))).collect()
}

fn crashes() -> Vec<(&'static str, String, &'static str)> {
    let printed = [
        ("[FATAL tini (7)] exec /nope failed: No such file or directory", "crash-command"),
        ("exec /usr/bin/python3: exec format error", "crash-platform"),
        ("  File \"/usr/lib/python3.11/pickle.py\", line 1213, in load", "crash-version"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "crash-gpu-memory"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "crash-gpu-missing"),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate; MemoryError", "crash-memory"),
        ("ModuleNotFoundError: No module named 'xgboost'", "crash-module"),
        ("AttributeError: Can't get attribute 'MyModel' on <module '__main__'>", "crash-version"),
        ("ValueError: node array from the pickle has an incompatible dtype", "crash-version"),
        ("__main__.py: error: unrecognized arguments: --modell_name=x", "crash-arguments"),
        ("OSError: [Errno 98] Address already in use", "crash-port"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "crash-hub"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "crash-network"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/mnt/models/model.bst'", "crash-file"),
        ("PermissionError: [Errno 13] Permission denied: '/mnt/models/cache'", "crash-permission"),
        ("nothing that is known", "crash"),
    ];
    let codes = [
        (0, "crash-done"),
        (2, "crash-usage"),
        (127, "crash-not-executable"),
        (132, "crash-instruction"),
        (137, "crash-killed"),
        (139, "crash-native"),
        (143, "crash-terminated"),
    ];
    let startup =
        "container `kserve-container` was ended because its startup probe failed 30 times: HTTP 503 from /readyz";
    let liveness = "container `kserve-container` was ended because its liveness check failed (exit code 137)";
    let oom = "container `kserve-container` was killed because it ran out of memory (exit code 137)";
    let likely =
        "container `kserve-container` was killed (exit code 137), most likely for memory: it has a limit of 1.0 GiB";
    let printed = printed.map(|(last, id)| ("CrashLoopBackOff", ended(1, last), id));
    let codes = codes.map(|(code, id)| ("CrashLoopBackOff", ended(code, ""), id));
    let others = [
        ("CrashLoopBackOff", startup.to_owned(), "crash-startup"),
        ("CrashLoopBackOff", liveness.to_owned(), "crash-liveness"),
        ("OOMKilled", oom.to_owned(), "out-of-memory"),
        ("OOMKilled", likely.to_owned(), "out-of-memory-likely"),
    ];
    printed.into_iter().chain(codes).chain(others).collect()
}

#[test]
fn every_known_failure_is_recognised_by_the_words_it_comes_with() {
    let wrong: Vec<String> = cases()
        .into_iter()
        .filter_map(|(reason, message, id)| {
            let found = told(reason, &message).cause;
            (found != id).then(|| format!("{reason}: {message}\n  is `{found}`, not `{id}`"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_of_the_table_is_reached_by_a_case() {
    let reached: BTreeSet<&str> = cases().into_iter().map(|(_, _, id)| id).collect();
    // A row that only the program's own words could reach on other machines is named here.
    let elsewhere = ["model-git"];
    let missed: Vec<&str> =
        known().map(|cause| cause.id).filter(|id| !reached.contains(id) && !elsewhere.contains(id)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    let ids: Vec<&str> = known().map(|cause| cause.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is there twice");
}

#[test]
fn every_diagnosis_says_what_is_wrong_and_one_step_without_holes() {
    for (reason, message, id) in cases() {
        let diagnosis = told(reason, &message);
        let Diagnosis { what, why, step, headline, .. } = &diagnosis;
        for text in [what, why, step, headline] {
            assert!(!text.is_empty() && !text.contains('\n') && text.chars().count() <= 460, "{id}: {text}");
        }
        assert!(![what, step, headline].iter().any(|text| text.contains('{')), "{id}: {what} / {step}");
        assert!(why.starts_with(reason) && !step.ends_with('.'), "{id}: {why} / {step}");
        assert_eq!(diagnosis.lines().lines().count(), 3, "{id}");
    }
}

#[test]
fn the_three_lines_of_every_failure() {
    let text: Vec<String> = cases()
        .into_iter()
        .map(|(reason, message, id)| format!("── {id}\n{}", told(reason, &message).lines()))
        .collect();
    insta::assert_snapshot!(text.join(""));
}

#[test]
fn how_it_stands_is_said_in_the_first_line() {
    let mut ready = status(ConditionStatus::True, "", "");
    ready.url = Some("http://iris-default.localhost:8080".to_owned());
    let mut asleep = ready.clone();
    asleep.conditions.push(Condition::new("PredictorReady", ConditionStatus::True, "Asleep", "asleep"));
    let waits = status(ConditionStatus::Unknown, "ModelPulling", "fetching s3://models/iris");
    let mut kept = status(ConditionStatus::False, "ImagePullFailed", "could not pull image `a/b`: manifest unknown");
    let states = ModelStates { active_model_state: "Loaded".to_owned(), target_model_state: "FailedToLoad".to_owned() };
    kept.model_status = Some(ModelStatus { states: Some(states), ..ModelStatus::default() });
    let stopped = status(ConditionStatus::False, "Stopped", "the service is stopped");
    let unknown = status(ConditionStatus::False, "NewReason", "in new words");
    let side = status(ConditionStatus::False, "OOMKilled", "transformer: container `t` was killed (exit code 137)");
    let init = status(ConditionStatus::False, "CrashLoopBackOff", "container `fetch` ended with exit code 3");
    let team = Subject { namespace: "team", ..IRIS };
    let newer = Subject { generation: 2, ..IRIS };
    let file = "services/iris.yaml:6:5: unknown field `minReplica`";
    let since = Some(Duration::from_secs(300));
    let evidence = [
        Evidence { since, ..Evidence::of(IRIS, Some(&ready)) },
        Evidence::of(IRIS, Some(&asleep)),
        Evidence::of(team, Some(&waits)),
        Evidence { program: "kserve-local --home /tmp/h", ..Evidence::of(IRIS, Some(&waits)) },
        Evidence { since, ..Evidence::of(IRIS, Some(&kept)) },
        Evidence::of(IRIS, Some(&stopped)),
        Evidence::of(IRIS, Some(&unknown)),
        Evidence::of(team, Some(&side)),
        Evidence { init: Some("fetch"), ..Evidence::of(IRIS, Some(&init)) },
        Evidence::of(newer, Some(&ready)),
        Evidence::of(IRIS, None),
        Evidence { file: Some(file), ..Evidence::of(IRIS, None) },
        Evidence { file: Some(file), ..Evidence::of(IRIS, Some(&ready)) },
    ];
    let text: Vec<String> = evidence.iter().map(|one| diagnose(one).lines()).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn the_next_step_names_the_kind_that_is_asked_about() {
    let unknown = status(ConditionStatus::False, "NewReason", "in new words");
    let fetched = status(ConditionStatus::Unknown, "ModelPulling", "fetching s3://models/iris");
    for (kind, word) in [
        ("InferenceService", "isvc"),
        ("TrainedModel", "trainedmodel"),
        ("LLMInferenceService", "llminferenceservice"),
        ("InferenceGraph", "inferencegraph"),
    ] {
        let step = |status| diagnose(&Evidence::of(Subject { kind, ..IRIS }, Some(status))).step;
        assert_eq!(step(&unknown), format!("kserve-local events --for {word}/iris"));
        assert_eq!(step(&fetched), format!("kserve-local wait {word}/iris --timeout 10m"));
    }
}

#[test]
fn the_output_of_a_crash_is_that_which_its_message_carries_else_that_of_the_container() {
    let message = ended(1, "ModuleNotFoundError: No module named 'xgboost'");
    let elsewhere: Vec<String> = (0..40).map(|line| format!("line {line}")).collect();
    let crashed = status(ConditionStatus::False, "CrashLoopBackOff", &message);
    let diagnosis = diagnose(&Evidence { output: &elsewhere, ..Evidence::of(IRIS, Some(&crashed)) });
    assert_eq!(diagnosis.output, ["starting", "ModuleNotFoundError: No module named 'xgboost'"]);
    assert!(diagnosis.step.contains("`xgboost`") && !diagnosis.why.contains("Module"), "{diagnosis:?}");
    let loading = status(ConditionStatus::Unknown, "ModelLoading", "the container runs; the model does not answer yet");
    let diagnosis = diagnose(&Evidence { output: &elsewhere, ..Evidence::of(IRIS, Some(&loading)) });
    assert_eq!((diagnosis.output.len(), diagnosis.output[9].as_str()), (10, "line 39"));
}

#[test]
fn a_server_that_starts_again_is_spoken_of_by_its_last_crash() {
    let message = "the container runs again after it ended 3 times; the model does not answer yet";
    let mut loading = status(ConditionStatus::Unknown, "ModelLoading", message);
    let info = FailureInfo { exit_code: None, ..FailureInfo::default() };
    loading.model_status = Some(ModelStatus { last_failure_info: Some(info), ..ModelStatus::default() });
    let before = ended(1, "ModuleNotFoundError: No module named 'xgboost'");
    let events = [
        Happened { warning: false, reason: "ModelLoading", message: "x" },
        Happened { warning: true, reason: "CrashLoopBackOff", message: &before },
    ];
    let diagnosis = diagnose(&Evidence { events: &events, ..Evidence::of(IRIS, Some(&loading)) });
    assert_eq!((diagnosis.cause, diagnosis.standing), ("crash-module", Standing::Fails));
    assert!(diagnosis.why.contains("ended 3 times") && diagnosis.why.contains("exit code 1"), "{}", diagnosis.why);
    let first = diagnose(&Evidence::of(IRIS, Some(&loading)));
    assert_eq!((first.cause, first.standing), ("loading", Standing::Waits));
}

#[test]
fn stars_stand_for_as_little_as_possible_and_keep_their_letters() {
    use super::cause::captures;
    assert_eq!(
        captures("local path * does not exist", "x: Local path /A/b does not exist."),
        Some(vec!["/A/b".to_owned()])
    );
    assert_eq!(
        captures("`*` is not a folder or file of `*`", "`v1` is not a folder or file of `/V`"),
        Some(vec!["v1".into(), "/V".into()])
    );
    assert_eq!(captures("nothing like that", "something"), None);
}
