//! Requests to a service that sleeps or loads: they wait, are counted while they do, and all end.

use std::sync::Arc;
use std::time::Duration;

use kserve_local::gateway::GatewayConfig;
use kserve_local::plan::routes::{Hold, RouteState};
use kserve_local::tasks::Tasks;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::endings::hear;
use super::upstream::{Upstream, mirror};
use super::{House, backend, iris, open};

const POST: &str = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
const PROBE: &str = "GET /v2/models/iris/ready HTTP/1.1\r\nHost: iris-default.localhost\r\n\r\n";

fn held(reason: &str, message: &str, patience: u64) -> RouteState {
    RouteState::Held(Hold {
        reason: reason.into(),
        message: message.into(),
        retry_after: Duration::from_secs(7),
        patience: Duration::from_millis(patience),
    })
}

async fn asleep(tasks: &Tasks, patience: u64, config: GatewayConfig) -> House {
    House::open(tasks, iris(held("Asleep", "asleep", patience), None), config).await
}

impl House {
    fn publish(&self, table: kserve_local::plan::routes::RouteTable) {
        self.routes.store(Arc::new(table));
        self.board.announce_table();
    }

    async fn waiters(&self, count: u64) {
        let all = async {
            while self.board.waiting().values().sum::<u64>() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), all).await.expect("so many wait");
    }
}

#[tokio::test]
async fn a_body_that_breaks_while_its_request_waits_never_reaches_a_backend() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let head = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let house = asleep(&tasks, 60_000, GatewayConfig::default()).await;
    let (mut broken, mut cut) = (house.client().await, house.client().await);
    for client in [&mut broken, &mut cut] {
        client.send(&format!("{head}5\r\nhello\r\n")).await;
    }
    house.waiters(2).await;
    broken.send("no chunk\r\n").await;
    let answer = broken.answer().await.unwrap();
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some("BrokenBody")), "{answer:?}");
    assert!(broken.is_closed().await);
    drop(cut);
    house.waiters(0).await;
    house.publish(open(vec![backend(upstream.address)]));
    assert_eq!(house.client().await.ask(POST).await.status, 200);
    assert_eq!(upstream.requests(), 1, "only the whole one");
}

#[tokio::test]
async fn a_client_that_leaves_behind_a_long_body_or_another_request_waits_no_longer_and_starts_nothing() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = asleep(&tasks, 60_000, GatewayConfig { read_ahead: 1000, ..GatewayConfig::default() }).await;
    let long = "x".repeat(20_000);
    let head = "POST /v1/models/iris:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n";
    let (mut whole, mut two, mut stays) = (house.client().await, house.client().await, house.client().await);
    for client in [&mut whole, &mut stays] {
        client.send(format!("{head}{long}")).await;
    }
    two.send(POST.repeat(2)).await;
    house.waiters(3).await;
    drop((whole, two));
    house.waiters(1).await;
    house.publish(open(vec![backend(upstream.address)]));
    let answer = stays.answer().await.unwrap();
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some(long.as_str())));
    assert_eq!(upstream.requests(), 1, "nothing is started for a client that has gone");
}

#[tokio::test]
async fn connections_to_what_no_route_names_any_more_are_closed_at_once() {
    let tasks = Tasks::new();
    let (heard, answers, closed) =
        (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(0)));
    let gates = (Arc::clone(&heard), Arc::clone(&answers), Arc::clone(&closed));
    let upstream = Upstream::raw(&tasks, move |mut socket| {
        let (heard, answers, closed) = gates.clone();
        async move {
            while !hear(&mut socket).await.is_empty() {
                heard.add_permits(1);
                answers.acquire().await.unwrap().forget();
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
            }
            closed.add_permits(1);
        }
    })
    .await;
    let passes = async |gate: &Semaphore| {
        let passed = tokio::time::timeout(Duration::from_secs(5), gate.acquire()).await;
        passed.expect("in time").unwrap().forget();
    };
    let rests = || iris(held("Asleep", "asleep", 60_000), None);
    let house = House::before(&tasks, &upstream).await;
    let mut client = house.client().await;
    assert_eq!(client.ask(POST).await.status, 200);
    passes(&heard).await;
    assert_eq!(closed.available_permits(), 0, "it is kept");
    house.publish(rests());
    passes(&closed).await;
    // What is under way ends before its connection does.
    house.publish(open(vec![backend(upstream.address)]));
    client.send(POST).await;
    passes(&heard).await;
    house.publish(rests());
    answers.add_permits(1);
    assert_eq!(client.answer().await.unwrap().status, 200);
    passes(&closed).await;
}

#[tokio::test]
async fn a_request_to_a_sleeping_service_rings_waits_and_is_answered() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = asleep(&tasks, 5_000, GatewayConfig::default()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = house.client().await;
        client.send(POST).await;
        clients.push(client);
    }
    tokio::time::timeout(Duration::from_secs(5), house.board.bell()).await.expect("the bell");
    house.waiters(20).await;
    // Progress is no answer yet.
    house.publish(iris(held("ModelLoading", "loading", 5_000), None));
    house.waiters(20).await;
    assert_eq!(upstream.requests(), 0);
    house.publish(open(vec![backend(upstream.address)]));
    for client in &mut clients {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["body"], "{}", "the body came through whole");
        assert!(answer.head.contains("x-kserve-local-phase: asleep"), "{answer:?}");
    }
    house.waiters(0).await;
    let answer = clients[0].ask(POST).await;
    assert!(!answer.head.contains("x-kserve-local-phase"), "it did not wait: {answer:?}");
    house.is_idle().await;
}

#[tokio::test]
async fn all_who_wait_are_told_at_once_when_it_fails() {
    let tasks = Tasks::new();
    let house = asleep(&tasks, 60_000, GatewayConfig::default()).await;
    let (mut one, mut other) = (house.client().await, house.client().await);
    one.send(POST).await;
    other.send(POST).await;
    house.waiters(2).await;
    let state = RouteState::NotReady {
        reason: "OOMKilled".into(),
        message: "it needs more memory".into(),
        retry_after: Duration::from_secs(10),
    };
    house.publish(iris(state, None));
    for client in [&mut one, &mut other] {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json(), serde_json::json!({"error": "it needs more memory", "reason": "OOMKilled"}));
        assert!(answer.head.contains("x-kserve-local-phase: oomkilled"), "{answer:?}");
        assert!(answer.head.contains("retry-after: 10"), "{answer:?}");
    }
    house.waiters(0).await;
}

#[tokio::test]
async fn patience_ends_when_nothing_moves_and_begins_anew_when_something_does() {
    let tasks = Tasks::new();
    let house = asleep(&tasks, 1_500, GatewayConfig::default()).await;
    let mut client = house.client().await;
    client.send(POST).await;
    for step in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        house.publish(iris(held("ModelPulling", &format!("{step} of 4 GB"), 1_500), None));
    }
    house.waiters(1).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason"], "ModelPulling");
    assert!(answer.head.contains("retry-after: 7"), "{answer:?}");
    house.waiters(0).await;
}

#[tokio::test]
async fn no_more_wait_than_may_and_who_leaves_waits_no_longer() {
    let tasks = Tasks::new();
    let house = asleep(&tasks, 5_000, GatewayConfig { max_held: 2, ..GatewayConfig::default() }).await;
    let (mut one, mut two, mut three) = (house.client().await, house.client().await, house.client().await);
    one.send(POST).await;
    two.send(POST).await;
    house.waiters(2).await;
    let answer = three.ask(POST).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("Asleep")), "{answer:?}");
    drop(one);
    house.waiters(1).await;
    drop((two, three));
    house.waiters(0).await;
}

#[tokio::test]
async fn health_checks_are_told_and_wake_nothing() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = asleep(&tasks, 60_000, GatewayConfig::default()).await;
    let mut client = house.client().await;
    let answer = client.ask(PROBE).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("Asleep")), "{answer:?}");
    assert!(answer.head.contains("x-kserve-local-phase: asleep"), "{answer:?}");
    assert!(house.board.waiting().is_empty());
    let ring = tokio::time::timeout(Duration::from_millis(50), house.board.bell()).await;
    assert!(ring.is_err(), "nobody rang");
    // Nor do they keep a service awake that is awake.
    house.publish(open(vec![backend(upstream.address)]));
    assert_eq!(client.ask(PROBE).await.status, 200);
    house.is_idle().await;
    assert_eq!(house.board.of(super::REPLICA).idle_for, None);
    assert_eq!(client.ask(POST).await.status, 200);
    house.is_idle().await;
    assert!(house.board.of(super::REPLICA).idle_for.is_some());
}

#[tokio::test]
async fn a_burst_of_those_who_waited_is_shaped_by_the_concurrency_limit_and_none_is_refused() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let config = GatewayConfig { max_waiting: 1, ..GatewayConfig::default() };
    let house = asleep(&tasks, 5_000, config).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = house.client().await;
        client.send(POST).await;
        clients.push(client);
    }
    house.waiters(30).await;
    let mut one = backend(upstream.address);
    one.concurrency = Some(1);
    house.publish(open(vec![one]));
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_client_that_would_rather_not_wait_is_told_where_to_look_and_the_service_wakes() {
    let tasks = Tasks::new();
    let upstream = Upstream::http1(&tasks, mirror).await;
    let house = asleep(&tasks, 5_000, GatewayConfig::default()).await;
    let mut client = house.client().await;
    let post = POST.replace("Host", "Prefer: respond-async\r\nHost");
    let answer = client.ask(&post).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    for header in [
        "location: /kserve-local/status/default/iris",
        "preference-applied: respond-async",
        "retry-after: 7",
        "x-kserve-local-phase: asleep",
    ] {
        assert!(answer.head.contains(header), "{header}: {answer:?}");
    }
    tokio::time::timeout(Duration::from_secs(5), house.board.bell()).await.expect("the bell");
    house.waiters(1).await;
    // Asking how it is wakes nothing and waits for nothing, on any host.
    let look = "GET /kserve-local/status/default/iris HTTP/1.1\r\nHost: iris-default.localhost\r\n\r\n";
    let told = client.ask(look).await;
    assert_eq!((told.status, told.json()["ready"].as_bool()), (200, Some(false)));
    assert_eq!(told.json()["components"]["predictor"]["phase"], "Asleep");
    house.waiters(1).await;
    house.publish(open(vec![backend(upstream.address)]));
    house.waiters(0).await;
    assert_eq!(client.ask(look).await.json()["ready"], true);
    assert_eq!(client.ask(&post).await.status, 200, "awake, the preference has nothing to say");
    let nobody = look.replace("default/iris", "default/nobody");
    assert_eq!(client.ask(nobody).await.status, 404);
}
