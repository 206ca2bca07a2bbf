//! Rules of process containers that need no supervisor: folders are made by hand, and what runs is `sleep`.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;

use super::process::{ProcessConfig, ProcessEngine};
use super::process_folder::{Folder, Launch, Running, look};
use super::process_limits::Groups;
use super::process_table::Identity;
use super::{ContainerEngine, ContainerId, CreateContainer, Network};
use crate::workload::names::INSTANCE_LABEL;
use crate::workload::{ContainerSpec, ProcessSpec, Program};

const NAME: &str = "iris";

fn root(folder: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8Path::from_path(folder.path()).unwrap().join("processes")
}

fn engine(root: &Utf8Path) -> ProcessEngine {
    ProcessEngine::new(ProcessConfig {
        instance: "t".to_owned(),
        root: root.to_owned(),
        cache: root.join("cache"),
        environment: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap_or_default())]),
        supervisor: None,
        now: || Timestamp::UNIX_EPOCH,
    })
}

fn request() -> CreateContainer {
    let program = Program::Executable { name: "sleep".to_owned(), hint: String::new() };
    let process = ProcessSpec { recipe: "r".to_owned(), program, ports: Vec::new() };
    CreateContainer {
        name: NAME.to_owned(),
        labels: [(INSTANCE_LABEL.to_owned(), "t".to_owned())].into(),
        spec: ContainerSpec { image: "i".to_owned(), process: Some(process), ..ContainerSpec::default() },
        binds: Vec::new(),
        network: Network::Own,
        publish: Vec::new(),
        shm_size: None,
        host_aliases: Vec::new(),
        gpus: Vec::new(),
        hostname: String::new(),
        stop_timeout: Duration::ZERO,
    }
}

/// An engine with one container that was never started.
async fn created(root: &Utf8Path) -> (ProcessEngine, ContainerId) {
    let engine = engine(root);
    engine.learn(&request().spec);
    let id = engine.create(&request()).await.unwrap();
    (engine, id)
}

/// What a start leaves in a folder, with `sleep` as the server and this test as the supervisor.
struct Started {
    server: Child,
    lock: std::fs::File,
}

fn started(folder: &Folder, id: &ContainerId, environment: &[(String, String)]) -> Started {
    let server = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    let lock = folder.lock().unwrap().unwrap();
    let launch = Launch {
        run: "1".to_owned(),
        id: id.0.clone(),
        program: "sleep".into(),
        args: Vec::new(),
        env: environment.to_vec(),
        working_dir: "/".into(),
        temporary: folder.path().join("temporary"),
        groups: Groups::default(),
        hold: None,
        ports: BTreeMap::new(),
    };
    folder.write_launch(&launch).unwrap();
    let pid = i32::try_from(server.id()).unwrap();
    let running = Running {
        run: "1".to_owned(),
        supervisor: Identity::of(i32::try_from(std::process::id()).unwrap()),
        process: Identity::of(pid),
        started_at: Timestamp::UNIX_EPOCH,
    };
    folder.write_running(&running).unwrap();
    Started { server, lock }
}

#[tokio::test]
async fn a_stop_that_waited_for_a_start_ends_what_was_started() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    let (engine, id) = created(&root).await;
    let folder = Folder::new(root.join(NAME));
    // The start is under way: it holds the gate.
    let gate = engine.gate(NAME).await;
    let mut stop = Box::pin(engine.stop(&id, Duration::from_secs(5)));
    for _ in 0..20 {
        // It has looked, and waits.
        assert!(futures::poll!(&mut stop).is_pending());
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
    let Started { mut server, lock } = started(&folder, &id, &[]);
    drop(gate);
    // The supervisor's part: it sees its server end and lets go.
    let supervised = tokio::task::spawn_blocking(move || {
        let ended = server.wait();
        drop(lock);
        ended
    });
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, stop).await.unwrap().unwrap();
    let ended = tokio::time::timeout(patience, supervised).await.expect("the server was stopped").unwrap().unwrap();
    assert!(!ended.success());
}

#[tokio::test]
async fn a_folder_whose_record_was_lost_does_not_keep_its_name() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    let (engine, first) = created(&root).await;
    // As a loss of power leaves it.
    std::fs::write(root.join(NAME).join("container.json"), b"").unwrap();
    assert!(engine.list().await.unwrap().is_empty());
    let second = engine.create(&request()).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(engine.list().await.unwrap().len(), 1);
    assert!(engine.remains().is_empty(), "nothing of the first is left");
}

#[tokio::test]
async fn what_a_crash_left_half_made_or_half_removed_is_discarded() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    let (engine, id) = created(&root).await;
    let gone = root.join(".gone-0123");
    std::fs::create_dir_all(gone.join("home")).unwrap();
    std::fs::write(gone.join("launch.json"), b"{}").unwrap();
    std::fs::create_dir_all(root.join(".4567/home")).unwrap();
    let mut remains = engine.remains();
    remains.sort();
    assert_eq!(remains, [root.join(".4567"), gone]);
    engine.discard(remains);
    assert!(engine.remains().is_empty());
    assert_eq!(engine.list().await.unwrap()[0].id, id);
}

#[tokio::test]
async fn a_command_that_prints_much_ends_as_it_would() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    let (engine, id) = created(&root).await;
    let folder = Folder::new(root.join(NAME));
    let path = ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default());
    let Started { mut server, lock } = started(&folder, &id, &[path]);
    let much = ["head", "-c", "1000000", "/dev/zero"].map(str::to_owned);
    let ran = engine.exec(&id, &much, Duration::from_secs(20)).await;
    server.kill().unwrap();
    server.wait().unwrap();
    drop(lock);
    let (code, output) = ran.unwrap();
    assert_eq!((code, output.len()), (0, 64 * 1024));
}

#[test]
fn a_record_that_cannot_be_read_now_is_not_a_damaged_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::new(root(&temporary));
    assert!(!folder.is_damaged(), "it is not there");
    // Something that cannot be read as a file, whoever asks.
    std::fs::create_dir_all(folder.path().join("container.json")).unwrap();
    assert!(!folder.is_damaged());
    assert!(look(folder.clone(), Timestamp::UNIX_EPOCH).is_none());
    std::fs::remove_dir(folder.path().join("container.json")).unwrap();
    assert!(folder.is_damaged());
}
