//! `kserve-local run`: services for as long as a command runs, on the engine that imagines containers.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

const SERVICE: &str = "apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: iris
spec:
  predictor:
    containers:
      - name: kserve-container
        image: example/iris:1
";

struct Case {
    folder: TempDir,
}

impl Case {
    fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("iris.yaml"), manifest).unwrap();
        Self { folder }
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kserve-local"));
        command.args(["run", "-f", "iris.yaml", "--engine", "memory"]).args(words);
        command.current_dir(&self.folder).env("HOME", self.folder.path()).env("TMPDIR", self.folder.path());
        command.env_remove("KSERVE_LOCAL_HOME").output().unwrap()
    }

    fn left_over(&self) -> Vec<String> {
        let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("kserve-local-run-")).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_command_finds_the_services_and_its_exit_code_is_ours() {
    let case = Case::new(SERVICE);
    let script = "test -f \"$KUBECONFIG\" && echo \"$KSERVE_LOCAL_URL $INGRESS_HOST:$INGRESS_PORT\" && exit 7";
    let output = case.run(&["--wait", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let (url, host) = said.trim().split_once(' ').unwrap();
    assert_eq!(url, format!("http://{host}"));
    assert!(text(&output.stderr).contains("default/iris ready after"), "{}", text(&output.stderr));
    assert_eq!(case.left_over(), [""; 0]);
}

#[test]
fn a_command_ended_by_a_signal_has_a_shells_exit_code() {
    let output = Case::new(SERVICE).run(&["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
}

#[test]
fn a_service_that_will_never_be_ready_ends_the_run_and_is_reported() {
    let case = Case::new(&SERVICE.replace(
        "    containers:\n      - name: kserve-container\n        image: example/iris:1\n",
        "    model:\n      modelFormat:\n        name: sklearn\n      storageUri: file:///nowhere/at/all\n",
    ));
    let words = [
        "--wait",
        "--timeout",
        "60s",
        "--report",
        "junit=report.xml",
        "--report",
        "json=report.json",
        "--",
        "touch",
        "ran",
    ];
    let output = case.run(&words);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(!case.folder.path().join("ran").exists());
    let junit = fs::read_to_string(case.folder.path().join("report.xml")).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains("/nowhere/at/all"), "{junit}");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(case.folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(json["services"][0]["outcome"], "Failed", "{json}");
    assert_eq!(json["services"][0]["cause"], "model-local-missing", "{json}");
    assert!(
        junit.contains("<failure type=\"model-local-missing\"") && junit.contains("  next:    put it at"),
        "{junit}"
    );
    assert_eq!(case.left_over(), [""; 0]);
}

#[test]
fn claims_are_the_folders_of_the_users_own_home_and_stay_there() {
    let volumes = "    volumes: [{name: data, persistentVolumeClaim: {claimName: models}}]\n";
    let mount = "        volumeMounts: [{name: data, mountPath: /data}]\n";
    let case = Case::new(&format!("{SERVICE}{mount}{volumes}"));
    let kept = case.folder.path().join(".kserve-local/volumes/default/models/kept");
    assert_eq!(case.run(&["--wait"]).status.code(), Some(1), "there is no such folder");
    fs::create_dir_all(&kept).unwrap();
    let output = case.run(&["--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(kept.exists() && case.left_over().is_empty());
}

#[test]
fn an_invalid_manifest_is_told_with_its_place_and_starts_nothing() {
    let output = Case::new(&SERVICE.replace("image:", "imgae:")).run(&["--", "touch", "ran"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("iris.yaml:9:9"), "{}", text(&output.stderr));
}

#[test]
fn what_has_to_be_pulled_can_be_listed_beforehand() {
    let output = Case::new(SERVICE).run(&["--list-pulls"]);
    assert_eq!(text(&output.stdout), "image example/iris:1\n");
}

#[test]
fn a_command_that_is_not_there_is_named_and_everything_is_cleaned_up() {
    let case = Case::new(SERVICE);
    let output = case.run(&["--", "no-such-program --flag"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("could not start `no-such-program --flag`"), "{}", text(&output.stderr));
    assert_eq!(case.left_over(), [""; 0]);
}

impl Case {
    /// Starts a run whose command says that it has begun, and waits for that.
    fn begin(&self) -> std::process::Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kserve-local"));
        command.args(["run", "-f", "iris.yaml", "--engine", "memory", "--wait", "--", "sh", "-c"]);
        command.arg("touch begun; exec sleep 20").stderr(std::process::Stdio::null());
        command.current_dir(&self.folder).env("HOME", self.folder.path()).env("TMPDIR", self.folder.path());
        let mut child = command.env_remove("KSERVE_LOCAL_HOME").spawn().unwrap();
        let begun = self.folder.path().join("begun");
        let in_time = (0..6000).any(|_| {
            pause();
            begun.exists()
        });
        if !in_time {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the command did not begin within a minute");
        }
        child
    }

    fn home(&self) -> kserve_local::home::Home {
        let name = self.left_over().pop().unwrap();
        kserve_local::home::Home::new(self.folder.path().join(name).to_str().unwrap())
    }
}

#[expect(clippy::disallowed_methods, reason = "another process is looked at from outside")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(10));
}

fn send(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_terminal_that_goes_away_ends_the_run_in_order() {
    let case = Case::new(SERVICE);
    let mut child = case.begin();
    let holder = kserve_local::daemon::holder(&case.home()).unwrap();
    assert_eq!(holder, Some(child.id().to_string()), "who serves a home can be seen without locking it");
    send(&child, rustix::process::Signal::HUP);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(case.left_over().is_empty(), "{:?}", case.left_over());
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let case = Case::new(SERVICE);
    let mut child = case.begin();
    send(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    let left = case.left_over();
    assert_eq!((left.len(), kserve_local::daemon::holder(&case.home()).unwrap()), (1, None));
    let next = case.run(&["--wait", "--", "true"]);
    assert!(next.status.success(), "{next:?}");
    assert!(text(&next.stderr).contains("removed what a process that was killed left"), "{next:?}");
    assert!(case.left_over().is_empty(), "{:?}", case.left_over());
}
