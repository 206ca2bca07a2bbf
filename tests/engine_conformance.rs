//! One suite for every container engine: run on the in-memory one always, on processes when there is a Python 3 (its own
//! library is enough), and on Docker when an engine answers and the stub image is there (`tests/images/build` makes it).
//! `KSERVE_LOCAL_TEST_DOCKER=0` leaves Docker alone, `=1` insists; `KSERVE_LOCAL_TEST_PYTHON` does the same for Python.
//!
//! Each test has an instance of its own, and leaves nothing behind, also when it fails.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kserve_local::engine::docker::{DockerConfig, DockerEngine};
use kserve_local::engine::memory::{Behaviour, Command, Fault, MemoryEngine, Verb};
use kserve_local::engine::process::{ProcessConfig, ProcessEngine};
use kserve_local::engine::{
    Bind, Container, ContainerEngine, ContainerId, ContainerState, CreateContainer, EngineError, LogOptions, Network,
    PullProgress, Reach,
};
use kserve_local::workload::names::{FINGERPRINT_LABEL, INSTANCE_LABEL};
use kserve_local::workload::{ContainerSpec, PortSetting, ProcessSpec, Program, Resources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const STUB: &str = "kserve-local/stub-runtime:test";
const GRACE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30);

/// What a test wants of a container.
#[derive(Clone, Copy, Debug)]
enum Role {
    Serves,
    Exits,
    Says,
    IgnoresTerm,
    OutgrowsMemory,
}

/// An engine under test.
struct Rig {
    engine: Arc<dyn ContainerEngine>,
    instance: String,
    kind: Kind,
}

enum Kind {
    Memory(MemoryEngine),
    Docker(DockerEngine),
    Process(ProcessEngine, Arc<tempfile::TempDir>),
}

impl Rig {
    fn memory() -> Self {
        let mut speaker = Behaviour::server(Duration::ZERO);
        speaker.says = ["one", "two", "three"].map(str::to_owned).to_vec();
        let mut server = Behaviour::server(Duration::ZERO);
        let fails = ["/stub-runtime", "exit", "7"].map(str::to_owned).to_vec();
        server.commands.insert(fails, Command { code: 7, ..Command::default() });
        let deaf = Behaviour { stop_takes: Duration::from_secs(3600), ..Behaviour::default() };
        let instance = "conformance".to_owned();
        let engine = MemoryEngine::new(&instance)
            .holding_networks()
            .with_behaviour(image(Role::Serves), server)
            .with_behaviour(image(Role::Exits), Behaviour::exits(Duration::from_millis(5), 7))
            .with_behaviour(image(Role::Says), speaker)
            .with_behaviour(image(Role::IgnoresTerm), deaf)
            .with_behaviour(image(Role::OutgrowsMemory), Behaviour::runs_out_of_memory(Duration::from_millis(5)));
        Self { engine: Arc::new(engine.clone()), instance, kind: Kind::Memory(engine) }
    }

    async fn docker(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let wish = std::env::var("KSERVE_LOCAL_TEST_DOCKER").unwrap_or_default();
        let instance = format!("conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let reason = if wish == "0" {
            "KSERVE_LOCAL_TEST_DOCKER is 0".to_owned()
        } else {
            let engine = docker_engine(&instance);
            match engine.image_present(STUB).await {
                Ok(true) => {
                    return Some(Self { engine: Arc::new(engine.clone()), instance, kind: Kind::Docker(engine) });
                }
                Ok(false) => format!("no image {STUB}; `tests/images/build` makes it"),
                Err(error) => error.to_string(),
            }
        };
        assert_ne!(wish, "1", "KSERVE_LOCAL_TEST_DOCKER is 1, but: {reason}");
        skip(&format!("engine_conformance::docker::{test}"), &reason);
        None
    }

    fn process(test: &str) -> Option<Self> {
        let wish = std::env::var("KSERVE_LOCAL_TEST_PYTHON").unwrap_or_default();
        let python = std::process::Command::new("python3").arg("--version").output();
        let reason = match python {
            _ if wish == "0" => "KSERVE_LOCAL_TEST_PYTHON is 0",
            Ok(output) if output.status.success() => {
                let root = Arc::new(tempfile::Builder::new().prefix("kl-processes-").tempdir().unwrap());
                let instance = "conformance".to_owned();
                let engine = process_engine(&instance, &root);
                if test == "running_out_of_memory_is_named" && !engine.enforces_limits() {
                    skip(&format!("engine_conformance::process::{test}"), "this user may not make control groups");
                    return None;
                }
                return Some(Self { engine: Arc::new(engine.clone()), instance, kind: Kind::Process(engine, root) });
            }
            _ => "there is no python3",
        };
        assert_ne!(wish, "1", "KSERVE_LOCAL_TEST_PYTHON is 1, but: {reason}");
        skip(&format!("engine_conformance::process::{test}"), reason);
        None
    }

    fn request(&self, name: &str, role: Role) -> CreateContainer {
        let mut env = vec![];
        let mut resources = Resources::default();
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        match role {
            Role::Serves => {}
            Role::Exits => set("STUB_EXIT_CODE", "7"),
            Role::Says => {
                set("STUB_SAY", "one\ntwo\nthree");
                set("STUB_NEVER_LISTEN", "1");
            }
            Role::IgnoresTerm => set("STUB_IGNORE_TERM", "1"),
            Role::OutgrowsMemory => {
                set("STUB_EAT_MIB", "256");
                resources.memory_limit = Some(32 << 20);
            }
        }
        let image = match &self.kind {
            Kind::Memory(_) => image(role),
            Kind::Docker(_) => STUB,
            Kind::Process(..) => PROCESS,
        };
        let process = matches!(self.kind, Kind::Process(..)).then(process_spec);
        let command = process.iter().flat_map(|_| process_stub()).collect();
        let request = CreateContainer {
            name: format!("kserve-local.{}.{name}", self.instance),
            labels: labels(&self.instance, "aaaa"),
            spec: ContainerSpec {
                name: "kserve-container".to_owned(),
                image: image.to_owned(),
                command,
                env,
                resources,
                process,
                ..ContainerSpec::default()
            },
            binds: vec![],
            network: Network::Own,
            publish: vec![8080],
            shm_size: None,
            host_aliases: vec![],
            gpus: Vec::new(),
            hostname: "replica-0".to_owned(),
            stop_timeout: GRACE,
        };
        self.engine.learn(&request.spec);
        request
    }

    /// Whether servers are programs that take their time.
    fn is_real(&self) -> bool {
        !matches!(self.kind, Kind::Memory(_))
    }

    /// A command that ends with a code.
    fn exit_command(&self, code: &str) -> Vec<String> {
        let stub = match &self.kind {
            Kind::Process(..) => process_stub(),
            _ => vec!["/stub-runtime".to_owned()],
        };
        stub.into_iter().chain(["exit", code].map(str::to_owned)).collect()
    }

    async fn create(&self, name: &str, role: Role) -> ContainerId {
        self.engine.create(&self.request(name, role)).await.unwrap()
    }

    async fn run(&self, name: &str, role: Role) -> ContainerId {
        let id = self.create(name, role).await;
        self.engine.start(&id).await.unwrap();
        id
    }

    async fn ended(&self, id: &ContainerId) -> Container {
        eventually("the container ends", || async {
            let container = self.engine.inspect(id).await.unwrap();
            matches!(container.state, ContainerState::Exited(_)).then_some(container)
        })
        .await
    }

    /// Waits until the container's server answers, and returns the whole answer.
    async fn get(&self, id: &ContainerId, path: &str) -> String {
        eventually("the server answers", || async {
            let address = self.engine.inspect(id).await.unwrap().reach.socket_address(8080)?;
            let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            (!answer.is_empty()).then_some(answer)
        })
        .await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let engines: Vec<Arc<dyn ContainerEngine>> = match &self.kind {
            Kind::Memory(_) => return,
            Kind::Docker(_) => Vec::new(),
            Kind::Process(engine, root) => {
                vec![Arc::new(engine.clone()), Arc::new(process_engine(&other(&self.instance), root))]
            }
        };
        let instance = self.instance.clone();
        // A runtime of its own, because this one may be unwinding.
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for engine in &engines {
                    for container in engine.list().await.unwrap() {
                        engine.remove(&container.id).await.unwrap();
                    }
                }
                if !engines.is_empty() {
                    return;
                }
                for instance in [instance.clone(), other(&instance)] {
                    clean(&docker_engine(&instance)).await;
                }
            });
        });
        // A panic in it has been printed; another one now would end the process.
        let _ = cleaner.join();
    }
}

async fn clean(engine: &DockerEngine) {
    for container in engine.list().await.unwrap() {
        engine.remove(&container.id).await.unwrap();
    }
    engine.remove_network().await.unwrap();
}

fn docker_engine(instance: &str) -> DockerEngine {
    let config =
        DockerConfig { instance: instance.to_owned(), env: std::env::vars().collect(), ..DockerConfig::default() };
    DockerEngine::connect(config).unwrap()
}

/// What stands in for the image of the process stub.
const PROCESS: &str = "process:stub@00000000";

fn process_engine(instance: &str, root: &tempfile::TempDir) -> ProcessEngine {
    let path = |name: &str| camino::Utf8PathBuf::from_path_buf(root.path().join(name)).unwrap();
    ProcessEngine::new(ProcessConfig {
        instance: instance.to_owned(),
        root: path("processes"),
        cache: path("cache"),
        environment: std::env::vars().collect(),
        supervisor: Some(env!("CARGO_BIN_EXE_kserve-local").into()),
        now,
    })
}

#[expect(clippy::disallowed_methods, reason = "engines are given their clock, and this is its edge")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn process_stub() -> Vec<String> {
    let stub = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/process_stub.py");
    vec!["python3".to_owned(), stub.to_owned()]
}

fn process_spec() -> ProcessSpec {
    ProcessSpec {
        recipe: "stub".to_owned(),
        program: Program::Executable { name: "python3".to_owned(), hint: String::new() },
        ports: vec![PortSetting { port: 8080, arg: Some("--http_port".to_owned()), env: None }],
    }
}

fn other(instance: &str) -> String {
    format!("{instance}-other")
}

fn labels(instance: &str, fingerprint: &str) -> BTreeMap<String, String> {
    let pairs = [(INSTANCE_LABEL, instance), (FINGERPRINT_LABEL, fingerprint)];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn image(role: Role) -> &'static str {
    match role {
        Role::Serves => "stub/serves",
        Role::Exits => "stub/exits",
        Role::Says => "stub/says",
        Role::IgnoresTerm => "stub/ignores-term",
        Role::OutgrowsMemory => "stub/outgrows-memory",
    }
}

fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Ok(file) = std::env::var("KSERVE_LOCAL_TEST_SKIPS") {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Asks again until the answer is there; containers and their servers take the time they take.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("in time: {what}"))
}

async fn lines(rig: &Rig, id: &ContainerId, options: LogOptions) -> Vec<String> {
    let stream = rig.engine.logs(id, options).await.unwrap();
    stream.map(|line| line.unwrap().text).collect().await
}

macro_rules! conformance {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Rig::memory()).await;
            })*
        }
        mod process {
            $(#[tokio::test]
            async fn $test() {
                if let Some(rig) = super::Rig::process(stringify!($test)) {
                    super::$test(rig).await;
                }
            })*
        }
        mod docker {
            $(#[tokio::test]
            async fn $test() {
                if let Some(rig) = super::Rig::docker(stringify!($test)).await {
                    super::$test(rig).await;
                }
            })*
        }
    };
}

conformance! {
    it_says_what_it_is
    a_container_goes_from_created_to_running_to_exited_to_gone
    creating_the_same_container_again_adopts_it
    a_name_taken_by_a_different_container_is_refused
    a_container_is_never_made_without_our_label
    starting_what_runs_is_harmless
    a_paused_container_says_so_answers_nobody_and_goes_on_where_it_was
    stopping_what_is_stopped_or_gone_is_harmless
    removing_what_is_gone_is_harmless_and_removing_what_runs_works
    an_ended_container_can_be_started_again
    only_our_own_containers_are_listed_and_strangers_are_never_touched
    an_exit_code_is_told_by_list_and_inspect
    running_out_of_memory_is_named
    what_ignores_the_stop_signal_is_killed_after_the_grace_period
    a_running_server_is_reachable_and_a_stopped_one_is_not
    a_sidecar_is_reached_through_the_container_it_joined
    a_network_is_held_while_servers_come_and_go_in_it
    a_sidecar_cannot_join_a_container_that_is_not_there
    logs_come_whole_by_tail_and_since
    followed_logs_end_with_the_container
    a_command_inside_tells_its_exit_code
    a_change_is_hinted_at
    an_absent_image_is_named
    root_is_refused_where_non_root_is_wanted
    something_that_is_not_there_is_named
}

async fn it_says_what_it_is(rig: Rig) {
    let info = rig.engine.info().await.unwrap();
    // Processes have what the machine has, and that is read elsewhere.
    assert!(info.memory_total > 0 || info.name == "process", "{info:?}");
    assert!(info.cpus > 0, "{info:?}");
    assert!(info.platform.starts_with("linux/"), "{info:?}");
}

async fn a_container_goes_from_created_to_running_to_exited_to_gone(rig: Rig) {
    let id = rig.create("iris", Role::Serves).await;
    let listed = rig.engine.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, &listed[0].state), (&id, &ContainerState::Created));
    assert_eq!(listed[0].name, rig.request("iris", Role::Serves).name);
    assert_eq!(listed[0].labels.get(FINGERPRINT_LABEL).map(String::as_str), Some("aaaa"));
    assert!(listed[0].created_at.is_some());

    rig.engine.start(&id).await.unwrap();
    assert_eq!(rig.engine.list().await.unwrap()[0].state, ContainerState::Running);
    let running = rig.engine.inspect(&id).await.unwrap();
    assert!(running.started_at.is_some() && running.finished_at.is_none());

    rig.engine.stop(&id, GRACE).await.unwrap();
    let stopped = rig.ended(&id).await;
    assert!(stopped.finished_at >= running.started_at);
    assert_eq!(rig.engine.list().await.unwrap()[0].state, stopped.state);

    rig.engine.remove(&id).await.unwrap();
    assert_eq!(rig.engine.list().await.unwrap(), []);
}

async fn creating_the_same_container_again_adopts_it(rig: Rig) {
    let first = rig.create("iris", Role::Serves).await;
    assert_eq!(rig.create("iris", Role::Serves).await, first);
    rig.engine.start(&first).await.unwrap();
    assert_eq!(rig.create("iris", Role::Serves).await, first, "running too");
    assert_eq!(rig.engine.list().await.unwrap().len(), 1);
}

async fn a_name_taken_by_a_different_container_is_refused(rig: Rig) {
    let id = rig.create("iris", Role::Serves).await;
    let mut request = rig.request("iris", Role::Serves);
    request.labels = labels(&rig.instance, "bbbb");
    let error = rig.engine.create(&request).await.unwrap_err();
    assert!(matches!(error, EngineError::NameTaken(_)), "{error}");
    assert_eq!(rig.engine.inspect(&id).await.unwrap().state, ContainerState::Created, "it is left alone");
}

async fn a_container_is_never_made_without_our_label(rig: Rig) {
    let mut request = rig.request("iris", Role::Serves);
    request.labels = labels("somebody-else", "aaaa");
    let error = rig.engine.create(&request).await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
    assert_eq!(rig.engine.list().await.unwrap(), []);
}

async fn starting_what_runs_is_harmless(rig: Rig) {
    let id = rig.run("iris", Role::Serves).await;
    let before = rig.engine.inspect(&id).await.unwrap();
    rig.engine.start(&id).await.unwrap();
    assert_eq!(rig.engine.inspect(&id).await.unwrap().started_at, before.started_at);
}

async fn a_paused_container_says_so_answers_nobody_and_goes_on_where_it_was(rig: Rig) {
    let id = rig.run("iris", Role::Serves).await;
    rig.get(&id, "/v1/models/model").await;
    let before = rig.engine.inspect(&id).await.unwrap();
    for _ in 0..2 {
        rig.engine.pause(&id).await.unwrap();
    }
    // A signal takes a moment to arrive.
    eventually("it is paused", || async {
        (rig.engine.list().await.unwrap()[0].state == ContainerState::Paused).then_some(())
    })
    .await;
    let silent = tokio::time::timeout(Duration::from_millis(200), rig.get(&id, "/v1/models/model")).await;
    assert!(silent.is_err(), "it answered while it was paused");
    for _ in 0..2 {
        rig.engine.unpause(&id).await.unwrap();
    }
    rig.get(&id, "/v1/models/model").await;
    let after = rig.engine.inspect(&id).await.unwrap();
    assert_eq!((after.state, after.started_at), (ContainerState::Running, before.started_at));
    rig.engine.pause(&id).await.unwrap();
    rig.engine.stop(&id, GRACE).await.unwrap();
    assert!(matches!(rig.ended(&id).await.state, ContainerState::Exited(_)));
    assert!(rig.engine.pause(&id).await.is_err(), "what has ended cannot be paused");
}

async fn stopping_what_is_stopped_or_gone_is_harmless(rig: Rig) {
    let id = rig.create("iris", Role::Serves).await;
    rig.engine.stop(&id, GRACE).await.unwrap();
    rig.engine.start(&id).await.unwrap();
    rig.engine.stop(&id, GRACE).await.unwrap();
    rig.engine.stop(&id, GRACE).await.unwrap();
    rig.engine.remove(&id).await.unwrap();
    rig.engine.stop(&id, GRACE).await.unwrap();
}

async fn removing_what_is_gone_is_harmless_and_removing_what_runs_works(rig: Rig) {
    let id = rig.run("iris", Role::Serves).await;
    rig.engine.remove(&id).await.unwrap();
    rig.engine.remove(&id).await.unwrap();
    assert_eq!(rig.engine.list().await.unwrap(), []);
    assert_ne!(rig.create("iris", Role::Serves).await, id, "the name is free again");
}

async fn an_ended_container_can_be_started_again(rig: Rig) {
    let id = rig.run("iris", Role::Exits).await;
    let first = rig.ended(&id).await;
    rig.engine.list().await.unwrap();
    rig.engine.start(&id).await.unwrap();
    eventually("the second end is listed with its own time", || async {
        let listed = rig.engine.list().await.unwrap().remove(0);
        let ended = matches!(listed.state, ContainerState::Exited(_));
        (ended && listed.finished_at > first.finished_at && listed.started_at > first.started_at).then_some(())
    })
    .await;
}

async fn only_our_own_containers_are_listed_and_strangers_are_never_touched(rig: Rig) {
    rig.create("iris", Role::Serves).await;
    let mut theirs = rig.request("theirs", Role::Serves);
    theirs.labels = labels(&other(&rig.instance), "aaaa");
    let stranger: Arc<dyn ContainerEngine> = match &rig.kind {
        Kind::Memory(engine) => Arc::new(engine.for_instance(&other(&rig.instance))),
        Kind::Docker(_) => Arc::new(docker_engine(&other(&rig.instance))),
        Kind::Process(_, root) => Arc::new(process_engine(&other(&rig.instance), root)),
    };
    stranger.learn(&theirs.spec);
    let id = stranger.create(&theirs).await.unwrap();
    stranger.start(&id).await.unwrap();

    assert_eq!(rig.engine.list().await.unwrap().len(), 1);
    let refused = [
        rig.engine.start(&id).await.err(),
        rig.engine.stop(&id, GRACE).await.err(),
        rig.engine.remove(&id).await.err(),
        rig.engine.inspect(&id).await.err(),
        rig.engine.exec(&id, &["true".to_owned()], GRACE).await.err(),
        rig.engine.logs(&id, LogOptions::default()).await.err(),
    ];
    for error in refused {
        assert!(matches!(error, Some(EngineError::Refused { .. })), "{error:?}");
    }
    let mut namesake = rig.request("theirs", Role::Serves);
    namesake.name = theirs.name.clone();
    let error = rig.engine.create(&namesake).await.unwrap_err();
    assert!(matches!(error, EngineError::NameTaken(_)), "{error}");
    let mut joiner = rig.request("joiner", Role::Serves);
    joiner.network = Network::Join(theirs.name.clone());
    let error = rig.engine.create(&joiner).await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
    assert_eq!(stranger.inspect(&id).await.unwrap().state, ContainerState::Running);
}

async fn an_exit_code_is_told_by_list_and_inspect(rig: Rig) {
    let id = rig.run("crash", Role::Exits).await;
    let ended = rig.ended(&id).await;
    let ContainerState::Exited(exit) = &ended.state else { panic!("{ended:?}") };
    assert_eq!((exit.code, exit.out_of_memory), (7, false));
    let listed = rig.engine.list().await.unwrap().remove(0);
    assert_eq!((&listed.state, listed.finished_at), (&ended.state, ended.finished_at));
}

async fn running_out_of_memory_is_named(rig: Rig) {
    let id = rig.run("big", Role::OutgrowsMemory).await;
    let ended = rig.ended(&id).await;
    let ContainerState::Exited(exit) = &ended.state else { panic!("{ended:?}") };
    assert!(exit.out_of_memory, "{exit:?}");
}

async fn what_ignores_the_stop_signal_is_killed_after_the_grace_period(rig: Rig) {
    let id = rig.run("deaf", Role::IgnoresTerm).await;
    if rig.is_real() {
        rig.get(&id, "/").await;
    }
    rig.engine.stop(&id, Duration::from_millis(900)).await.unwrap();
    let ended = rig.ended(&id).await;
    let ContainerState::Exited(exit) = ended.state else { panic!("{ended:?}") };
    assert_eq!(exit.code, 137);
}

async fn a_running_server_is_reachable_and_a_stopped_one_is_not(rig: Rig) {
    let id = rig.create("iris", Role::Serves).await;
    assert_eq!(rig.engine.list().await.unwrap()[0].reach, Reach::None);
    rig.engine.start(&id).await.unwrap();
    let answer = rig.get(&id, "/v1/models/model").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("model"), "{answer}");
    let listed = rig.engine.list().await.unwrap().remove(0);
    assert_eq!(listed.reach, rig.engine.inspect(&id).await.unwrap().reach);
    rig.engine.stop(&id, GRACE).await.unwrap();
    assert_eq!(rig.engine.list().await.unwrap()[0].reach, Reach::None);
}

async fn a_sidecar_is_reached_through_the_container_it_joined(rig: Rig) {
    let first = rig.run("iris", Role::Serves).await;
    let mut request = rig.request("iris.sidecar", Role::Serves);
    request.network = Network::Join(rig.request("iris", Role::Serves).name);
    request.publish = vec![];
    request.spec.args = vec!["--http_port=8081".to_owned()];
    request.spec.ports =
        vec![kserve_local::workload::Port { name: String::new(), port: 8081, protocol: "TCP".to_owned() }];
    let second = rig.engine.create(&request).await.unwrap();
    rig.engine.start(&second).await.unwrap();
    assert_eq!(rig.engine.inspect(&second).await.unwrap().reach, Reach::None);
    let reach = rig.engine.inspect(&first).await.unwrap().reach;
    let address = reach.socket_address(8081).expect("by address every port is reached");
    eventually("the sidecar listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
}

async fn a_network_is_held_while_servers_come_and_go_in_it(rig: Rig) {
    // An engine says so once it was reached.
    rig.engine.info().await.unwrap();
    if !rig.engine.holds_networks() {
        return;
    }
    let mut held = rig.request("iris._sandbox", Role::Serves);
    held.network = Network::Hold;
    held.spec = ContainerSpec { name: "_sandbox".to_owned(), ..ContainerSpec::default() };
    let sandbox = rig.engine.create(&held).await.unwrap();
    rig.engine.start(&sandbox).await.unwrap();
    let mut request = rig.request("iris", Role::Serves);
    request.network = Network::Join(sandbox.0.clone());
    request.publish = vec![];
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let server = rig.engine.create(&request).await.unwrap();
        rig.engine.start(&server).await.unwrap();
        let answer = rig.get(&sandbox, "/v1/models/model").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if let Reach::Address(address) = rig.engine.inspect(&sandbox).await.unwrap().reach {
            places.insert(address);
        }
        rig.engine.stop(&server, GRACE).await.unwrap();
        rig.engine.remove(&server).await.unwrap();
    }
    assert!(places.len() <= 1, "the address stays: {places:?}");
    assert_eq!(rig.engine.inspect(&sandbox).await.unwrap().state, ContainerState::Running);
    rig.engine.stop(&sandbox, GRACE).await.unwrap();
    rig.engine.remove(&sandbox).await.unwrap();
}

async fn a_sidecar_cannot_join_a_container_that_is_not_there(rig: Rig) {
    let mut request = rig.request("iris.sidecar", Role::Serves);
    request.network = Network::Join("kserve-local.nobody.home".to_owned());
    let error = rig.engine.create(&request).await.unwrap_err();
    assert!(matches!(error, EngineError::NoSuchContainer(_)), "{error}");
}

async fn logs_come_whole_by_tail_and_since(rig: Rig) {
    let id = rig.run("chatty", Role::Says).await;
    eventually("it has spoken", || async { (lines(&rig, &id, LogOptions::default()).await.len() >= 3).then_some(()) })
        .await;
    assert_eq!(lines(&rig, &id, LogOptions::default()).await, ["one", "two", "three"]);
    let tail = LogOptions { tail: Some(2), ..LogOptions::default() };
    assert_eq!(lines(&rig, &id, tail).await, ["two", "three"]);
    let started = rig.engine.inspect(&id).await.unwrap().started_at.unwrap();
    let hour = jiff::SignedDuration::from_hours(1);
    let since = |time| LogOptions { since: Some(time), ..LogOptions::default() };
    assert_eq!(lines(&rig, &id, since(started.checked_sub(hour).unwrap())).await.len(), 3);
    assert_eq!(lines(&rig, &id, since(started.checked_add(hour).unwrap())).await.len(), 0);
}

async fn followed_logs_end_with_the_container(rig: Rig) {
    let id = rig.run("chatty", Role::Says).await;
    let mut stream = rig.engine.logs(&id, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let next = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap();
    let first = next.unwrap().unwrap();
    assert_eq!(first.text, "one");
    assert!(first.at.is_some());
    rig.engine.stop(&id, GRACE).await.unwrap();
    tokio::time::timeout(DEADLINE, stream.for_each(|_| async {})).await.expect("the stream ends");
}

async fn a_command_inside_tells_its_exit_code(rig: Rig) {
    let id = rig.run("iris", Role::Serves).await;
    let command = |code: &str| rig.exit_command(code);
    assert_eq!(rig.engine.exec(&id, &command("0"), GRACE).await.unwrap().0, 0);
    assert_eq!(rig.engine.exec(&id, &command("7"), GRACE).await.unwrap().0, 7);
    rig.engine.stop(&id, GRACE).await.unwrap();
    let error = rig.engine.exec(&id, &command("0"), GRACE).await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
}

async fn a_change_is_hinted_at(rig: Rig) {
    let mut changes = rig.engine.changes();
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("a hint that the ear is open").unwrap();
    let id = rig.create("iris", Role::Exits).await;
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("a hint of the creation").unwrap();
    rig.engine.start(&id).await.unwrap();
    loop {
        tokio::time::timeout(DEADLINE, changes.next()).await.expect("a hint of the end").unwrap();
        // The list is what is read at a hint, and an engine may be late with it.
        let listed = rig.engine.list().await.unwrap();
        let one = listed.iter().find(|one| one.id == id).expect("it is listed");
        if matches!(one.state, ContainerState::Exited(_)) {
            break;
        }
    }
}

async fn an_absent_image_is_named(rig: Rig) {
    let mut request = rig.request("iris", Role::Serves);
    request.spec.image = "kserve-local/no-such-image:never".to_owned();
    assert!(!rig.engine.image_present(&request.spec.image).await.unwrap());
    let error = rig.engine.create(&request).await.unwrap_err();
    assert!(matches!(&error, EngineError::ImageAbsent(image) if *image == request.spec.image), "{error}");
    let image = &rig.request("iris", Role::Serves).spec.image;
    assert!(rig.engine.image_present(image).await.unwrap());
}

async fn root_is_refused_where_non_root_is_wanted(rig: Rig) {
    let mut request = rig.request("iris", Role::Serves);
    request.spec.security.run_as_non_root = true;
    request.spec.security.run_as_user = Some(0);
    let error = rig.engine.create(&request).await.unwrap_err();
    assert!(error.to_string().contains("container's runAsUser breaks non-root policy"), "{error}");
    request.spec.security.run_as_user = Some(1234);
    rig.engine.create(&request).await.unwrap();
}

async fn something_that_is_not_there_is_named(rig: Rig) {
    let id = ContainerId("0".repeat(64));
    let errors = [
        rig.engine.start(&id).await.err(),
        rig.engine.inspect(&id).await.err(),
        rig.engine.exec(&id, &["true".to_owned()], GRACE).await.err(),
        rig.engine.logs(&id, LogOptions::default()).await.err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(EngineError::NoSuchContainer(_))), "{error:?}");
    }
}

/// What only a real engine can show.
mod only_docker {
    use super::*;

    async fn stub(test: &str) -> Option<Rig> {
        Rig::docker(&format!("only:{test}")).await
    }

    #[tokio::test]
    async fn models_are_read_only_inside_and_a_missing_folder_is_never_made_up() {
        let Some(rig) = stub("models_are_read_only_inside").await else { return };
        let models = tempfile::tempdir().unwrap();
        std::fs::write(models.path().join("model.joblib"), "weights").unwrap();
        open_to_all(models.path());
        let mount = |source: &std::path::Path| Bind::Path {
            source: camino::Utf8PathBuf::from_path_buf(source.to_owned()).unwrap(),
            target: "/mnt/models".to_owned(),
            read_only: true,
        };
        let mut request = rig.request("iris", Role::Serves);
        request.binds = vec![mount(models.path()), Bind::Tmpfs { target: "/scratch".to_owned(), size: Some(1 << 20) }];
        let id = rig.engine.create(&request).await.unwrap();
        rig.engine.start(&id).await.unwrap();
        assert!(rig.get(&id, "/stub/read?path=model.joblib").await.contains("weights"));
        let refused = rig.get(&id, "/stub/write").await;
        assert!(refused.contains("\"written\":false") && refused.contains("ReadOnlyFilesystem"), "{refused}");
        let written = rig.get(&id, "/stub/write?dir=/scratch").await;
        assert!(written.contains("\"written\":true"), "{written}");

        let missing = models.path().join("missing");
        let mut request = rig.request("other", Role::Serves);
        request.binds = vec![mount(&missing)];
        let error = rig.engine.create(&request).await.unwrap_err();
        assert!(matches!(error, EngineError::Refused { .. }), "{error}");
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn a_container_has_no_capabilities_and_cannot_gain_any() {
        let Some(rig) = stub("a_container_has_no_capabilities").await else { return };
        let mut request = rig.request("iris", Role::Serves);
        request.spec.resources.memory_limit = Some(64 << 20);
        request.spec.resources.cpu_limit_milli = Some(64_000);
        request.spec.security.run_as_user = Some(0);
        let id = rig.engine.create(&request).await.unwrap();
        rig.engine.start(&id).await.unwrap();
        let answer = rig.get(&id, "/stub/env").await;
        let inside: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(inside["uid"], 0, "{inside}");
        assert_eq!(inside["capabilities"], "0000000000000000", "{inside}");
        assert_eq!(inside["no_new_privileges"], true, "{inside}");
        assert_eq!(inside["memory_limit"], 64 << 20, "{inside}");
        assert_eq!(inside["hostname"], "replica-0", "{inside}");
    }

    #[tokio::test]
    async fn containers_are_islands() {
        let Some(rig) = stub("containers_are_islands").await else { return };
        let one = rig.run("one", Role::Serves).await;
        let two = rig.run("two", Role::Serves).await;
        rig.get(&two, "/").await;
        let Reach::Address(address) = rig.engine.inspect(&two).await.unwrap().reach else {
            skip("engine_conformance::only_docker::containers_are_islands", "containers are not reached by address");
            return;
        };
        let tried = rig.get(&one, &format!("/stub/connect?to={address}:8080")).await;
        assert!(tried.contains("\"connected\":false"), "{tried}");
    }

    #[tokio::test]
    async fn a_container_starts_although_its_network_was_pruned() {
        let Some(rig) = stub("a_container_starts_although_its_network_was_pruned").await else { return };
        let id = rig.create("iris", Role::Serves).await;
        let Kind::Docker(engine) = &rig.kind else { return };
        engine.remove_network().await.unwrap();
        rig.engine.start(&id).await.unwrap();
        rig.get(&id, "/").await;
    }

    #[tokio::test]
    async fn creations_at_the_same_time_share_one_network() {
        let Some(rig) = stub("creations_at_the_same_time_share_one_network").await else { return };
        let names: Vec<String> = (0..4).map(|n| format!("iris-{n}")).collect();
        futures::future::join_all(names.iter().map(|name| rig.create(name, Role::Serves))).await;
        let Kind::Docker(engine) = &rig.kind else { return };
        clean(engine).await;
        assert_eq!(rig.engine.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_engine_that_comes_goes_and_comes_back_is_found_each_time() {
        let Some(rig) = stub("an_engine_that_comes_goes_and_comes_back").await else { return };
        let info = rig.engine.info().await.unwrap();
        let Some(socket) = info.endpoint.strip_prefix("unix://").and_then(|rest| rest.split(' ').next()) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("engine.sock");
        let config = DockerConfig {
            instance: rig.instance.clone(),
            endpoint: Some(format!("unix://{}", link.display())),
            ..DockerConfig::default()
        };
        let engine = DockerEngine::connect(config).unwrap();
        for _ in 0..2 {
            let error = engine.list().await.unwrap_err();
            assert!(matches!(error, EngineError::Unreachable { .. }), "{error}");
            std::os::unix::fs::symlink(socket, &link).unwrap();
            assert_eq!(engine.list().await.unwrap(), []);
            engine.info().await.unwrap();
            std::fs::remove_file(&link).unwrap();
        }
    }

    #[tokio::test]
    async fn a_pull_that_cannot_be_says_why() {
        let Some(rig) = stub("a_pull_that_cannot_be_says_why").await else { return };
        let progress = tokio::sync::watch::Sender::new(PullProgress::default());
        // Nothing listens there; the engine finds out at once.
        let error = rig.engine.pull_image("localhost:9/nobody/home:v1", &[], progress).await.unwrap_err();
        let EngineError::ImagePull { message, permanent, .. } = &error else { panic!("{error}") };
        assert!(!permanent, "{message}");
        assert!(message.contains("the registry `localhost:9` does not answer"), "{message}");
        assert!(message.contains("docker load"), "{message}");
    }

    #[tokio::test]
    async fn a_reply_that_is_lost_on_the_way_makes_no_second_container() {
        let Some(rig) = stub("a_reply_that_is_lost_on_the_way").await else { return };
        let info = rig.engine.info().await.unwrap();
        let Some(socket) = info.endpoint.strip_prefix("unix://").and_then(|rest| rest.split(' ').next()) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let between = folder.path().join("engine.sock");
        let tasks = kserve_local::tasks::Tasks::new();
        let listener = tokio::net::UnixListener::bind(&between).unwrap();
        tasks.spawn("cutter", cut_first_creation(listener, socket.to_owned()));
        let config = DockerConfig {
            instance: rig.instance.clone(),
            endpoint: Some(format!("unix://{}", between.display())),
            ..DockerConfig::default()
        };
        let engine = DockerEngine::connect(config).unwrap();
        let request = rig.request("iris", Role::Serves);
        let error = engine.create(&request).await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error}");
        let made = rig.engine.list().await.unwrap();
        assert_eq!(made.len(), 1, "it was made, only nobody heard");
        assert_eq!(engine.create(&request).await.unwrap(), made[0].id);
        assert_eq!(rig.engine.list().await.unwrap().len(), 1);
    }

    /// Stands between, and cuts the connection when the first container has been made.
    async fn cut_first_creation(listener: tokio::net::UnixListener, engine: String) {
        let mut cut = false;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut engine = tokio::net::UnixStream::connect(&engine).await.unwrap();
            let mut head = vec![0; 64 * 1024];
            let length = client.read(&mut head).await.unwrap();
            engine.write_all(&head[..length]).await.unwrap();
            let creation = String::from_utf8_lossy(&head[..length]).contains("/containers/create");
            if creation && !cut {
                cut = true;
                // Head and body may come apart; the reply, which nobody gets, only comes when both are there.
                let (reply, mut rest) = engine.into_split();
                tokio::select! {
                    _ = tokio::io::copy(&mut client, &mut rest) => {}
                    _ = reply.readable() => {}
                }
            } else {
                // One request per connection: when it is answered, the connection ends.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            }
        }
    }

    fn open_to_all(folder: &std::path::Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// What only the in-memory engine can be told to do.
mod only_memory {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_leaves_the_container_made_and_the_repetition_adopts_it() {
        let rig = Rig::memory();
        let Kind::Memory(engine) = &rig.kind else { return };
        engine.on_call(Verb::Create, 1, Fault::LoseReply);
        let request = rig.request("iris", Role::Exits);
        let error = rig.engine.create(&request).await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error}");
        let id = rig.engine.create(&request).await.unwrap();
        assert_eq!(rig.engine.list().await.unwrap()[0].id, id);
        assert_eq!(engine.calls(Verb::Create), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_nth_call_fails_and_the_next_does_not() {
        let rig = Rig::memory();
        let Kind::Memory(engine) = &rig.kind else { return };
        engine.on_call(Verb::List, 2, Fault::Fail(EngineError::ImageAbsent("x".to_owned())));
        assert!(rig.engine.list().await.is_ok());
        assert!(rig.engine.list().await.is_err());
        assert!(rig.engine.list().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_answers_nothing_while_containers_go_on() {
        let rig = Rig::memory();
        let Kind::Memory(engine) = &rig.kind else { return };
        let id = rig.run("crash", Role::Exits).await;
        engine.set_away(true);
        assert!(matches!(rig.engine.list().await.unwrap_err(), EngineError::Unreachable { .. }));
        tokio::time::advance(Duration::from_secs(1)).await;
        engine.set_away(false);
        assert!(matches!(rig.engine.inspect(&id).await.unwrap().state, ContainerState::Exited(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_list_is_the_previous_one() {
        let rig = Rig::memory();
        let Kind::Memory(engine) = &rig.kind else { return };
        let before = rig.engine.list().await.unwrap();
        rig.create("iris", Role::Exits).await;
        engine.on_call(Verb::List, 1, Fault::Stale);
        assert_eq!(rig.engine.list().await.unwrap(), before);
        assert_eq!(rig.engine.list().await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_takes_its_time_tells_progress_and_may_fail() {
        use kserve_local::engine::memory::Remote;
        let remote = Remote { bytes: 400, takes: Duration::from_secs(4), error: None };
        let refused = Remote { error: Some(("denied".to_owned(), true)), ..remote.clone() };
        let engine = MemoryEngine::new("pulls").with_remote("there", remote).with_remote("refused", refused);
        let progress = tokio::sync::watch::Sender::new(PullProgress::default());
        let mut seen = progress.subscribe();
        let pull = engine.pull_image("there", &[], progress.clone());
        let watch = async {
            seen.changed().await.unwrap();
            seen.borrow().clone()
        };
        let (pulled, first) = tokio::join!(pull, watch);
        pulled.unwrap();
        assert_eq!((first.done, first.total), (100, 400));
        assert!(engine.image_present("there").await.unwrap());
        for image in ["refused", "unknown"] {
            let error = engine.pull_image(image, &[], progress.clone()).await.unwrap_err();
            assert!(matches!(error, EngineError::ImagePull { permanent: true, .. }), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stop_takes_as_long_as_it_takes_up_to_the_grace_period() {
        let slow = Behaviour { stop_takes: Duration::from_secs(3), ..Behaviour::default() };
        let engine = MemoryEngine::new("conformance").with_behaviour("stub/serves", slow);
        let rig =
            Rig { engine: Arc::new(engine.clone()), instance: "conformance".to_owned(), kind: Kind::Memory(engine) };
        for (name, grace, took, code) in [("patient", 10, 3, 0), ("hasty", 1, 1, 137)] {
            let id = rig.run(name, Role::Serves).await;
            let before = tokio::time::Instant::now();
            rig.engine.stop(&id, Duration::from_secs(grace)).await.unwrap();
            assert_eq!(before.elapsed().as_secs(), took, "{name}");
            let ContainerState::Exited(exit) = rig.engine.inspect(&id).await.unwrap().state else { panic!("{name}") };
            assert_eq!(exit.code, code, "{name}");
        }
    }
}
