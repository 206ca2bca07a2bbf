//! gRPC's interoperability cases, with a client and a server that nobody here wrote.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use kserve_local::gateway::GatewayConfig;
use kserve_local::plan::routes::Backend;
use kserve_local::tasks::Tasks;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{House, backend, open};

/// A Python with grpcio; `tests/gateway/grpc-venv` makes one.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/grpc-venv/bin/python");
    let usable = std::process::Command::new(&python).args(["-c", "import grpc"]).stderr(Stdio::null()).status();
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

#[tokio::test]
async fn grpc_interoperability_cases_pass() {
    let Some(python) = python() else {
        return skip("grpc_interoperability_cases_pass", "no Python with grpcio; run tests/gateway/grpc-venv");
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/grpc_interop.py");
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
    let replica = Backend { grpc_address: Some(server), ..backend("127.0.0.1:9".parse().unwrap()) };
    let house = House::open(&tasks, open(vec![replica]), GatewayConfig::default()).await;
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{}\n", house.address).as_bytes()).await.unwrap();
    let mut told = String::new();
    output.read_to_string(&mut told).await.unwrap();
    println!("{told}");
    assert!(child.wait().await.unwrap().success(), "{told}");
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 19, "{told}");
    house.is_idle().await;
}
