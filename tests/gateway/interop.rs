//! Clients and servers that nobody here wrote, through the gateway: gRPC's interoperability cases, and WebSockets.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use kserve_local::gateway::GatewayConfig;
use kserve_local::plan::routes::Backend;
use kserve_local::tasks::Tasks;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{House, backend, open};

/// A Python with the packages; `tests/gateway/interop-venv` makes one.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/interop-venv/bin/python");
    let import = ["-c", "import grpc, websockets"];
    let usable = std::process::Command::new(&python).args(import).stderr(Stdio::null()).status();
    usable.is_ok_and(|status| status.success()).then_some(python)
}

#[expect(clippy::print_stdout, reason = "a skipped test is named where people look")]
pub(super) fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Ok(file) = std::env::var("KSERVE_LOCAL_TEST_SKIPS") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Runs a script that starts a server, prints its port, is told where the gateway is, and tells what became of each case.
async fn cases_pass(test: &str, script: &str, count: usize, replica: impl FnOnce(SocketAddr) -> Backend) {
    let Some(python) = python() else {
        return skip(test, "no Python with grpcio and websockets; run tests/gateway/interop-venv");
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gateway").join(script);
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut port = String::new();
    output.read_line(&mut port).await.unwrap();
    let tasks = Tasks::new();
    let server = format!("127.0.0.1:{}", port.trim()).parse().unwrap();
    let house = House::open(&tasks, open(vec![replica(server)]), GatewayConfig::default()).await;
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{}\n", house.address).as_bytes()).await.unwrap();
    let mut told = String::new();
    output.read_to_string(&mut told).await.unwrap();
    assert!(child.wait().await.unwrap().success(), "{told}");
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), count, "{told}");
    house.is_idle().await;
}

#[tokio::test]
async fn grpc_interoperability_cases_pass() {
    let replica = |server| Backend { grpc_address: Some(server), ..backend("127.0.0.1:9".parse().unwrap()) };
    cases_pass("grpc_interoperability_cases_pass", "grpc_interop.py", 19, replica).await;
}

#[tokio::test]
async fn websockets_of_a_library_pass() {
    cases_pass("websockets_of_a_library_pass", "websocket_interop.py", 11, backend).await;
}
