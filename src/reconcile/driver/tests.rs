use camino::Utf8Path;
use tokio::sync::{Notify, watch};

use super::*;
use crate::api::{ComponentKind, ServiceKey};
use crate::engine::memory::{Fault, MemoryEngine, Verb};
use crate::engine::{ContainerEngine, EngineError};
use crate::home::Home;
use crate::plan::action::{ProbeKind, ProbeOrder, ProbeWhat};
use crate::plan::admission::Grant;
use crate::plan::world::{EngineState, FactReach, ImageState, ModelState};
use crate::plan::{Action, ActionKey};
use crate::probe::Outcome;
use crate::reconcile::Clock;
use crate::reconcile::downloads::Downloads;
use crate::reconcile::execute::Executor;
use crate::reconcile::measure::Meter;
use crate::reconcile::mounts::Mounts;
use crate::reconcile::questions::Questions;
use crate::storage::{Cache, PullConfig, Puller};
use crate::tasks::Tasks;
use crate::workload::{Check, ComponentKey, Fingerprint, Probe};

/// A driver that does not run, on an in-memory engine and a folder of its own.
fn driver(engine: &MemoryEngine, folder: &Utf8Path) -> Driver {
    let engine: Arc<dyn ContainerEngine> = Arc::new(engine.clone());
    let (home, cache, tasks) = (Home::new(folder), Cache::open(folder.join("cache")).unwrap(), Tasks::new());
    let mounts = Mounts { home: home.clone(), cache: cache.clone() };
    let executor = Executor {
        puller: Puller::new(cache.clone(), PullConfig::default(), Arc::default()),
        downloads: Downloads::new(Arc::clone(&engine), mounts.clone(), "test".to_owned(), tasks.clone()),
        mounts,
        instance: "test".to_owned(),
        offline: false,
        engine: Arc::clone(&engine),
    };
    let parts = DriverParts {
        store: crate::store::Store::new(crate::store::Ledger::default()),
        executor,
        meter: Meter::new(engine, None),
        cache,
        board: crate::traffic::TrafficBoard::default(),
        routes: Arc::default(),
        pods: watch::channel(Arc::default()).0,
        questions: Questions::channel().1,
        pulls: watch::channel(Vec::new()).0,
        passes: Arc::default(),
        events: crate::telemetry::EventLog::default(),
        refused: Arc::new(Notify::new()),
        tasks,
        clock: Clock::start(),
        home,
        reloads: watch::channel(DriverConfig::default()).1,
    };
    Driver::new(parts, DriverConfig::default(), Ledger::default())
}

/// Does an action on a new driver and takes what comes of it.
async fn done(engine: &MemoryEngine, action: Action) -> Driver {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = driver(engine, Utf8Path::from_path(folder.path()).unwrap());
    driver.dispatch(action);
    let fact = driver.facts.recv().await.unwrap();
    driver.take(fact);
    driver
}

fn look(image: &str) -> Action {
    Action::CheckImage { image: image.to_owned() }
}

#[tokio::test]
async fn an_image_that_cannot_be_looked_for_is_a_failure_and_not_unknown() {
    let engine = MemoryEngine::new("test");
    let (verb, name) = ("look for image", "x:1".to_owned());
    let refused = EngineError::Refused {
        verb,
        name,
        message: "layer is damaged".to_owned(),
        blame: crate::engine::Blame::Machine,
    };
    engine.on_call(Verb::ImagePresent, 1, Fault::Fail(refused));
    let driver = done(&engine, look("x:1")).await;
    let Some(ImageState::Unseen { message, transient: true, failures: 1, .. }) = driver.world.images.get("x:1") else {
        panic!("{:?}", driver.world.images);
    };
    assert!(message.contains("layer is damaged"), "{message}");
}

#[tokio::test]
async fn an_engine_that_is_away_says_nothing_of_an_image() {
    let engine = MemoryEngine::new("test");
    engine.set_away(true);
    let driver = done(&engine, look("x:1")).await;
    assert!(driver.world.images.is_empty() && driver.world.in_flight.is_empty() && driver.list_again);
}

#[tokio::test]
async fn an_effect_that_panics_leaves_its_key_free_and_says_so() {
    let engine = MemoryEngine::new("test");
    engine.on_call(Verb::ImagePresent, 1, Fault::Panic);
    let driver = done(&engine, look("x:1")).await;
    assert!(driver.world.in_flight.is_empty());
    let Some(ImageState::Unseen { message, .. }) = driver.world.images.get("x:1") else { panic!() };
    assert_eq!(message, "an error of kserve-local's own: as ordered");
}

#[tokio::test]
async fn a_list_that_panics_is_asked_for_again() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    engine.on_call(Verb::List, 1, Fault::Panic);
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    driver.ask_for_list();
    let fact = driver.facts.recv().await.unwrap();
    driver.take(fact);
    assert!(!driver.listing && matches!(driver.world.engine, EngineState::Down { .. }));
}

/// Room granted to a replica, so many seconds after the start.
fn grant(at: u64) -> Grant {
    let service = crate::api::ServiceKey::new("default", "iris");
    Grant {
        component: ComponentKey { service, component: crate::api::ComponentKind::Predictor },
        revision: 1,
        memory: 1 << 30,
        basis: crate::plan::ledger::Basis::Declared,
        gpus: Vec::new(),
        need: crate::plan::gpus::GpuNeed::default(),
        at: Duration::from_secs(at),
    }
}

#[tokio::test]
async fn room_that_comes_free_in_a_pass_is_given_away_in_the_next_one_at_once() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    driver.asked_at = Duration::from_secs(1);
    driver.take_list(0, Ok(Vec::new()));
    driver.ask_for_measure();
    driver.world.desired_known = true;
    driver.world.memory.granted.insert("iris-predictor-00001-0.default".into(), grant(0));
    let next = driver.pass();
    assert!(driver.world.memory.granted.is_empty() && next <= driver.parts.clock.now().tick, "{next:?}");
    let next = driver.pass();
    assert!(next > driver.parts.clock.now().tick, "{next:?}");
}

#[tokio::test]
async fn a_list_that_tells_what_became_of_granted_room_is_news_although_it_shows_nothing_new() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    let list = |driver: &mut Driver, at: u64| {
        driver.asked_at = Duration::from_secs(at);
        driver.take_list(0, Ok(Vec::new()))
    };
    assert_eq!((list(&mut driver, 1), list(&mut driver, 2)), (Urgency::Now, Urgency::Never));
    driver.world.memory.granted.insert("iris-predictor-00001-0.default".into(), grant(3));
    assert_eq!(list(&mut driver, 3), Urgency::Never, "what was asked before cannot show it");
    assert_eq!((list(&mut driver, 4), list(&mut driver, 5)), (Urgency::Now, Urgency::Never));
}

#[tokio::test]
async fn folders_of_the_users_that_hang_keep_no_other_model_waiting() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    // As many looks as there may be hang.
    let hung = Arc::clone(&driver.looks).acquire_many_owned(u32::try_from(look_up::LOOKS_AT_ONCE).unwrap());
    let hung = hung.await.unwrap();
    let own = StorageUri::Local(folder.path().to_str().unwrap().to_owned());
    let cached = StorageUri::parse("s3://bucket/model").unwrap();
    assert_eq!(driver.look_for([own.clone(), cached.clone()].into_iter()), Urgency::Soon);
    let fact = driver.facts.recv().await.unwrap();
    driver.take(fact);
    assert_eq!(driver.world.models.get(&cached), Some(&ModelState::Absent));
    // It is neither looked for again nor pulled meanwhile.
    assert!(driver.world.in_flight.contains(&ActionKey::Model(own.clone())));
    assert_eq!(driver.look_for([own.clone()].into_iter()), Urgency::Now);
    drop(hung);
    let fact = driver.facts.recv().await.unwrap();
    driver.take(fact);
    assert!(matches!(driver.world.models.get(&own), Some(ModelState::Present { .. })));
    assert!(driver.world.in_flight.is_empty());
}

#[tokio::test]
async fn what_people_ask_is_answered_from_the_world_as_it_is() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    let key = ServiceKey::new("default", "iris");
    let component = ComponentKey { service: key.clone(), component: ComponentKind::Predictor };
    let now = driver.parts.clock.now();
    driver.world.memory.want(&component, &Fingerprint("aa".to_owned()), now);
    let (questions, mut asked) = Questions::channel();
    let answers = async { driver.answer(asked.recv().await.unwrap()) };
    let (past, urgency) = tokio::join!(questions.past(key), answers);
    assert_eq!(past.unwrap().revisions.iter().map(|line| line.revision).collect::<Vec<_>>(), [1]);
    assert_eq!(urgency, Urgency::Never, "the world is as it was");
    let answers = async { driver.answer(asked.recv().await.unwrap()) };
    assert_eq!(tokio::join!(questions.room(), answers).0.unwrap().rows, []);
    drop(asked);
    assert!(questions.room().await.is_none(), "a loop that has ended answers nobody");
}

/// Has a driver take up what came of checks of one container, and returns how soon a pass must follow each.
fn urgencies(driver: &mut Driver, outcomes: &[Outcome]) -> Vec<Urgency> {
    let now = driver.parts.clock.now();
    driver.world.memory.note_running("a", now);
    let probe = Probe {
        check: Check::Tcp { port: 1 },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace: None,
    };
    let order = ProbeOrder {
        id: "1".to_owned(),
        name: "a".to_owned(),
        kind: ProbeKind::Readiness,
        what: ProbeWhat::Check(probe.check.clone()),
        reach: FactReach::None,
        timeout: probe.timeout,
        probe,
        run: driver.world.memory.containers["a"].started,
        at: now.tick,
    };
    outcomes.iter().map(|outcome| driver.take_probe(&order, outcome.clone())).collect()
}

#[tokio::test]
async fn a_check_that_says_what_it_said_before_causes_no_pass_before_the_next_one_is_due() {
    let (engine, folder) = (MemoryEngine::new("test"), tempfile::tempdir().unwrap());
    let mut driver = driver(&engine, Utf8Path::from_path(folder.path()).unwrap());
    let (well, ill) = (Outcome::Success, Outcome::Failure("refused".to_owned()));
    let loading = urgencies(&mut driver, &[ill.clone(), ill.clone()]);
    assert_eq!(loading, [Urgency::Soon, Urgency::Never], "its words are news once");
    let soon = driver.check_at.take().unwrap();
    assert!(soon < Duration::from_secs(1), "it is looked at again in a moment: {soon:?}");
    let serving = urgencies(&mut driver, &[well.clone(), well, ill.clone(), ill]);
    assert_eq!(serving, [Urgency::Now, Urgency::Never, Urgency::Soon, Urgency::Never]);
    assert!(driver.check_at.unwrap() >= Duration::from_secs(10));
}
