//! kserve-local under a service manager: sockets it keeps open, what it is told, and the verbs that install it.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![expect(clippy::disallowed_methods, reason = "another process is looked at from outside, on the wall clock")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kserve-local");
/// Nothing here takes longer, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Plays the service manager: holds the sockets, hears what is said.
struct Manager {
    home: TempDir,
    data: TcpListener,
    api: TcpListener,
    heard: mpsc::Receiver<String>,
}

impl Manager {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (data, api) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let config = format!("listen: {}\napiListen: {}\n", data.local_addr().unwrap(), api.local_addr().unwrap());
        fs::write(home.path().join("config.yaml"), config).unwrap();
        let socket = UnixDatagram::bind(home.path().join("notify")).unwrap();
        let (sender, heard) = mpsc::channel();
        // Read at once, as a manager does: whoever speaks to a full socket waits.
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { home, data, api, heard }
    }

    /// Starts the daemon with both sockets, as file descriptors 0 and 1.
    fn start(&self) -> Child {
        let pass = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let mut command = Command::new(PROGRAM);
        command.arg("--home").arg(self.home.path()).args(["serve", "--engine", "memory", "--log", "warn"]);
        command.stdin(pass(&self.data)).stdout(pass(&self.api));
        command.env("LISTEN_FDS", "2").env("LISTEN_FDS_FIRST_FD", "0");
        command.env("NOTIFY_SOCKET", self.home.path().join("notify")).env("WATCHDOG_USEC", "2000000");
        command.spawn().unwrap()
    }

    /// Waits until something was said.
    fn hear(&self, wanted: &str) {
        let until = Instant::now() + DEADLINE;
        let mut heard = String::new();
        while !heard.contains(wanted) {
            let left = until.saturating_duration_since(Instant::now());
            let next = self.heard.recv_timeout(left);
            heard = next.unwrap_or_else(|error| panic!("`{wanted}` was not said: {error}; last was {heard}"));
        }
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn end(child: &mut Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_request_made_while_the_daemon_restarts_is_answered_by_the_next_one() {
    let manager = Manager::new();
    let (data, api) = (manager.data.local_addr().unwrap(), manager.api.local_addr().unwrap());
    let mut daemon = manager.start();
    manager.hear("READY=1");
    assert!(get(api, "/healthz").starts_with("HTTP/1.1 200"));
    end(&mut daemon, rustix::process::Signal::TERM);
    manager.hear("STOPPING=1");
    // Nobody is there; the socket is.
    let waiting = std::thread::spawn(move || get(data, "/v2/health/live"));
    let mut daemon = manager.start();
    let answer = waiting.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    end(&mut daemon, rustix::process::Signal::TERM);
}

#[test]
fn a_request_made_before_the_folder_is_read_waits_until_it_is_known_what_is_served() {
    let manager = Manager::new();
    let data = manager.data.local_addr().unwrap();
    let services = manager.home.path().join("services");
    fs::create_dir(&services).unwrap();
    let service = |number| {
        format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris-{number}\n  annotations:\n    \
             serving.kserve.io/stop: \"true\"\nspec:\n  predictor:\n    containers:\n    - name: kserve-container\n      image: server:1\n"
        )
    };
    for number in 0..200 {
        fs::write(services.join(format!("{number}.yaml")), service(number)).unwrap();
    }
    let waiting = std::thread::spawn(move || get(data, "/v1/models/iris-199:predict"));
    let mut daemon = manager.start();
    let answer = waiting.join().unwrap();
    end(&mut daemon, rustix::process::Signal::TERM);
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains(r#""reason":"Stopped""#),
        "known, and stopped: {answer}"
    );
}

#[test]
fn the_manager_hears_that_we_live_and_that_settings_were_read_again() {
    let manager = Manager::new();
    let mut daemon = manager.start();
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    manager.hear("RELOADING=1");
    manager.hear("READY=1");
    end(&mut daemon, rustix::process::Signal::TERM);
}

#[test]
fn a_socket_that_the_settings_do_not_name_is_refused_with_both_places() {
    let manager = Manager::new();
    fs::write(manager.home.path().join("config.yaml"), "listen: 127.0.0.1:0\napiListen: 127.0.0.1:0\n").unwrap();
    let pass = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    let mut command = Command::new(PROGRAM);
    command.arg("--home").arg(manager.home.path()).args(["serve", "--engine", "memory"]);
    command.stdin(pass(&manager.data)).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the service manager listens on") && said.contains("ListenStream="), "{said}");
}

/// A folder with programs that write down how they were called.
fn recorders(folder: &Path, names: &[&str]) {
    for name in names {
        let script = format!("#!/bin/sh\necho \"{name} $*\" >> {}/calls\n", folder.display());
        fs::write(folder.join(name), script).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn install_writes_enables_and_starts_the_units_and_uninstall_takes_them_away_whatever_the_settings_say() {
    let user = tempfile::tempdir().unwrap();
    recorders(user.path(), &["systemctl"]);
    let home = user.path().join(".kserve-local");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("config.yaml"), "listen: 127.0.0.1:9080\n").unwrap();
    let run = |words: &[&str]| {
        let path = format!("{}:{}", user.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(PROGRAM);
        command.args(words).env("HOME", user.path()).env("PATH", path).env_remove("KSERVE_LOCAL_HOME");
        command.output().unwrap()
    };
    let installed = run(&["service", "install"]);
    assert!(installed.status.success(), "{installed:?}");
    let units = user.path().join(".config/systemd/user");
    let service = fs::read_to_string(units.join("kserve-local.service")).unwrap();
    assert!(service.contains(&format!("ExecStart={PROGRAM} serve")), "{service}");
    assert!(fs::read_to_string(units.join("kserve-local.socket")).unwrap().contains("ListenStream=127.0.0.1:9080\n"));
    let calls = fs::read_to_string(user.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(
        calls[1..],
        [
            "systemctl --user daemon-reload",
            "systemctl --user enable kserve-local.socket kserve-local.service",
            "systemctl --user start kserve-local.socket",
            "systemctl --user restart kserve-local.service",
        ]
    );
    fs::write(home.join("config.yaml"), "listen: nowhere\n").unwrap();
    let removed = run(&["service", "uninstall"]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(!units.join("kserve-local.service").exists() && !units.join("kserve-local.socket").exists());
    let again = run(&["service", "uninstall"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("not installed"), "{again:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_service_manager_install_says_so_and_writes_nothing() {
    let user = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["service", "install"]).env("HOME", user.path()).env("PATH", user.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no systemd on this machine"), "{output:?}");
    assert!(!user.path().join(".config").exists());
}
