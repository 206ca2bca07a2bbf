//! A real daemon on a throwaway home, driven through its command line and its ports.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_kserve-local");
/// Longest wait for anything; machines that test are slow and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A daemon that ends with its test, with everything it started.
pub(crate) struct Daemon {
    home: TempDir,
    child: Child,
    environment: Vec<(String, String)>,
    listen: String,
}

impl Daemon {
    /// Starts a daemon on an empty home.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], |_| {})
    }

    /// Starts a daemon with extra environment on a home that `prepare` has filled.
    pub(crate) fn start_with(environment: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::Builder::new().prefix("kl-e2e-").tempdir().expect("a temporary folder can be made");
        prepare(home.path());
        let environment: Vec<(String, String)> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let child = spawn(home.path(), &environment);
        let mut daemon = Self { home, child, environment, listen: String::new() };
        daemon.listen = daemon.addresses()["data"].as_str().expect("an address").to_owned();
        daemon
    }

    /// Returns the home folder.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns a path below `services/`.
    pub(crate) fn service_file(&self, name: &str) -> PathBuf {
        self.home().join("services").join(name)
    }

    /// Writes a manifest the way editors do: beside it, then renamed over it.
    pub(crate) fn drop_file(&self, name: &str, text: &str) {
        let path = self.service_file(name);
        let temporary = path.with_extension("tmp");
        std::fs::create_dir_all(path.parent().expect("services/ has a parent")).expect("the folder can be made");
        std::fs::write(&temporary, text).expect("a manifest can be written");
        std::fs::rename(&temporary, &path).expect("a manifest can be renamed");
    }

    /// Returns what `state/addresses.json` says, waiting until the daemon has written it.
    pub(crate) fn addresses(&self) -> Value {
        let path = self.home().join("state/addresses.json");
        let pid = u64::from(self.child.id());
        eventually("the daemon writes its addresses", || {
            let value: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            (value["pid"].as_u64() == Some(pid)).then_some(value)
        })
    }

    /// Returns the URL of a path on the data plane.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses()["data"].as_str().expect("an address"))
    }

    /// Returns the name of the instance.
    pub(crate) fn instance(&self) -> String {
        self.addresses()["instance"].as_str().expect("an instance").to_owned()
    }

    /// Runs the command line against this home.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.arg("--home").arg(self.home()).args(arguments).stdin(Stdio::null());
        command.env("KSERVE_LOCAL_CACHE_DIR", self.home().join("cache"));
        command.output().expect("the command line runs")
    }

    /// Runs the command line and returns its standard output; it must succeed.
    pub(crate) fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Waits until a service is Ready.
    pub(crate) fn wait_ready(&self, name: &str) {
        eventually_or(&format!("{name} is known"), || self.log(), || self.object(name));
        let output = self.cli(&["wait", "isvc", name, "--timeout", "180s"]);
        if !output.status.success() {
            let described = text(&self.cli(&["describe", "isvc", name]).stdout);
            panic!("{name} is not ready: {}\n{described}\n{}", text(&output.stderr), self.log());
        }
    }

    /// Waits until the Ready condition of a service has this reason, and returns its message.
    pub(crate) fn wait_reason(&self, name: &str, reason: &str) -> String {
        eventually_or(
            &format!("{name} is not ready because of {reason}"),
            || self.log(),
            || {
                let object = self.object(name)?;
                let ready = condition(&object, "Ready")?;
                (ready["reason"] == reason).then(|| ready["message"].as_str().unwrap_or_default().to_owned())
            },
        )
    }

    /// Returns an InferenceService as the API shows it.
    pub(crate) fn object(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&text(&self.cli(&["get", "isvc", name, "-o", "json"]).stdout)).ok()
    }

    /// Returns `docker inspect` of every container of this instance, by name.
    pub(crate) fn containers(&self) -> Vec<Value> {
        let filter = format!("label=kserve-local/instance={}", self.instance());
        let ids = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Vec::new();
        }
        let mut arguments = vec!["inspect"];
        arguments.extend(ids);
        serde_json::from_str(&docker(&arguments)).unwrap_or_default()
    }

    /// Kills the daemon without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon can be waited for");
    }

    /// Starts the daemon again on the same home and the same addresses.
    pub(crate) fn restart(&mut self) {
        self.child = spawn_at(self.home.path(), &self.listen, &self.environment);
        self.addresses();
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits until the daemon ended by itself and returns its exit code.
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        eventually("the daemon ends", || self.child.try_wait().ok().flatten()).code()
    }

    /// Returns what the daemon logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home().join("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let instance = std::fs::read_to_string(self.home().join("state/instance")).unwrap_or_default();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            let deadline = Instant::now() + Duration::from_secs(60);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
        }
        if instance.trim().is_empty() {
            return;
        }
        let filter = format!("label=kserve-local/instance={}", instance.trim());
        for id in docker(&["ps", "-aq", "--filter", &filter]).split_whitespace() {
            docker(&["rm", "-f", id]);
        }
        docker(&["network", "rm", &format!("kserve-local-{}", instance.trim())]);
    }
}

fn spawn(home: &Path, environment: &[(String, String)]) -> Child {
    spawn_at(home, "127.0.0.1:0", environment)
}

fn spawn_at(home: &Path, listen: &str, environment: &[(String, String)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(home.join("daemon.log")).expect("a log file");
    let mut command = Command::new(BINARY);
    command
        .args(["serve", "--listen", listen, "--api-listen", "127.0.0.1:0", "--log", "info"])
        .arg("--home")
        .arg(home)
        .env("KSERVE_LOCAL_CACHE_DIR", home.join("cache"))
        .envs(environment.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().expect("the daemon starts")
}

/// Returns a condition of an object.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Runs docker and returns its standard output; failures give an empty text.
pub(crate) fn docker(arguments: &[&str]) -> String {
    Command::new("docker").args(arguments).output().map(|output| text(&output.stdout)).unwrap_or_default()
}

/// Returns bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_or(what, String::new, look)
}

/// Waits until `look` finds something; otherwise fails with `context`.
pub(crate) fn eventually_or<T>(what: &str, context: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{}", context());
        // Another process is looked at from outside; nothing here can wait for it.
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Whether container tests can run; says so when they cannot.
pub(crate) fn docker_or_skip(test: &str) -> bool {
    if std::env::var("KSERVE_LOCAL_TEST_DOCKER").as_deref() == Ok("1") {
        return true;
    }
    let present = !docker(&["images", "-q", "kserve-local/stub-runtime:test"]).trim().is_empty()
        && !docker(&["images", "-q", "kserve/sklearnserver:v0.20.0"]).trim().is_empty();
    if present && std::env::var("KSERVE_LOCAL_TEST_DOCKER").as_deref() != Ok("0") {
        return true;
    }
    skip(test, "no container engine with the test images; tests/run makes them");
    false
}

#[expect(clippy::print_stdout, reason = "a skipped test is named where people look")]
/// Names a test that is not run, on standard output and in the file that counts them.
pub(crate) fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Some(path) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}
