//! The API over a folder of its own, an in-memory engine, and pods put there by hand.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use futures::StreamExt;
use jiff::Timestamp;
use kserve_local::api::{ComponentKind, ServiceKey};
use kserve_local::engine::memory::{Behaviour, MemoryEngine};
use kserve_local::engine::{ContainerEngine, CreateContainer, Network};
use kserve_local::home::Home;
use kserve_local::kubeapi::{self, ApiState};
use kserve_local::plan::Now;
use kserve_local::plan::pods::{ContainerView, ContainerViewState, PodView};
use kserve_local::reconcile::questions::Questions;
use kserve_local::source::Loader;
use kserve_local::store::{Ledger, Store};
use kserve_local::tasks::Tasks;
use kserve_local::telemetry::EventLog;
use kserve_local::workload::names::INSTANCE_LABEL;
use kserve_local::workload::{ComponentKey, ContainerSpec};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) const TOKEN: &str = "the-token";
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const ISVC: &str = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";

/// When objects are born in these tests; the API's clock is 90 seconds later.
pub(crate) fn born() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) home: Home,
    pub(crate) events: EventLog,
    pub(crate) loader: Loader,
    pub(crate) engine: MemoryEngine,
    pub(crate) pods: watch::Sender<Arc<Vec<Arc<PodView>>>>,
    pub(crate) tasks: Tasks,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
        home.create().unwrap();
        let (store, events) = (Store::new(Ledger::default()), EventLog::default());
        let now = || Now { tick: Duration::ZERO, wall: born() };
        let loader = Loader::new(home.clone(), store.clone(), events.clone(), now);
        loader.load().await;
        let engine = MemoryEngine::new("test").with_behaviour("i", Behaviour::default());
        let (pods, pods_seen) = watch::channel(Arc::default());
        let state = ApiState {
            store,
            events: events.clone(),
            loader: loader.clone(),
            pods: pods_seen,
            questions: Questions::channel().0,
            engine: Arc::new(engine.clone()),
            token: TOKEN.into(),
            home: home.clone(),
            tls: Some(kubeapi::tls::load_or_make(&home.tls(), [127, 0, 0, 1].into()).unwrap()),
            metrics: Arc::new(|| Box::pin(async { "# EOF\n".to_owned() })),
            ready: Arc::new(|| Ok(())),
            clock: Arc::new(|| born() + jiff::SignedDuration::from_secs(90)),
            gateway_address: "127.0.0.1:8080".parse().unwrap(),
            version: "0.0.0",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        let end = tasks.token();
        tasks.spawn("api", {
            let tasks = tasks.clone();
            async move { kubeapi::serve(state, listener, &tasks, end).await }
        });
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
        Self { base, home, events, loader, engine, pods, tasks, http, _folder: folder }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(TOKEN)
    }

    pub(crate) fn anonymous(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Makes a namespace, so that objects can be created in it.
    pub(crate) async fn namespace(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        assert_eq!(self.post("/api/v1/namespaces", &body).await.0, 201, "{name}");
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.request(Method::PATCH, path).header("content-type", MERGE).body(body.to_string());
        self.send(request).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Returns the lines of a stream as they come.
    pub(crate) async fn lines(&self, path: &str) -> Lines {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Lines { bytes: response.bytes_stream().boxed(), buffer: Vec::new() }
    }

    /// Puts a replica there, with one container that runs in the engine.
    pub(crate) async fn run_pod(&self, service: &str) -> String {
        let name = format!("{service}-predictor-00001-0");
        let request = CreateContainer {
            name: name.clone(),
            labels: [(INSTANCE_LABEL.to_owned(), "test".to_owned())].into(),
            spec: ContainerSpec { name: "kserve-container".to_owned(), image: "i".to_owned(), ..Default::default() },
            binds: vec![],
            network: Network::Own,
            publish: vec![],
            shm_size: None,
            host_aliases: vec![],
            gpus: Vec::new(),
            hostname: "h".to_owned(),
            stop_timeout: DEADLINE,
        };
        let id = self.engine.create(&request).await.unwrap();
        self.engine.start(&id).await.unwrap();
        let state = ContainerViewState::Running { started_at: Some(born()) };
        self.pods.send_replace(Arc::new(vec![pod(service, state, Some(id.0))]));
        name
    }
}

pub(crate) fn pod(service: &str, state: ContainerViewState, id: Option<String>) -> Arc<PodView> {
    let ready = matches!(state, ContainerViewState::Running { .. });
    Arc::new(PodView {
        name: format!("{service}-predictor-00001-0"),
        component: ComponentKey { service: ServiceKey::new("default", service), component: ComponentKind::Predictor },
        service_name: format!("{service}-predictor"),
        revision: 1,
        phase: if ready { "Running" } else { "Pending" }.to_owned(),
        status: if ready { "Running" } else { "ImagePullBackOff" }.to_owned(),
        ready,
        containers: vec![ContainerView {
            name: "kserve-container".to_owned(),
            image: "kserve/sklearnserver:v0.15.0".to_owned(),
            id,
            state,
            restarts: 2,
            ready,
            init: false,
        }],
        address: ready.then(|| "10.0.0.7".to_owned()),
        created_at: Some(born()),
    })
}

pub(crate) fn isvc(name: &str) -> Value {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": {
            "modelFormat": {"name": "sklearn"}, "storageUri": "gs://kfserving-examples/models/sklearn/1.0/model",
        }}},
    })
}

/// A stream, line by line.
pub(crate) struct Lines {
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl Lines {
    /// Returns the next line; none at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let chunk = tokio::time::timeout(DEADLINE, self.bytes.next()).await.expect("a line in time");
            self.buffer.extend_from_slice(&chunk?.unwrap());
        }
    }

    /// Returns the next watch event: its type, and the object's name and resource version.
    pub(crate) async fn event(&mut self) -> (String, String, u64) {
        let line = self.next().await.expect("another event");
        let event: Value = serde_json::from_str(&line).unwrap();
        let metadata = &event["object"]["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"]).parse().unwrap_or_default())
    }
}
