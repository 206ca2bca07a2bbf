//! Get and list, and which verb a method on a path is.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::document::Document;
use super::failure::Failure;
use super::feed::key_of;
use super::query::Query;
use super::resource::{Resource, Target};
use super::server::Api;
use super::table::{self, TableOptions};
use super::watch::Scope;
use super::{delete, discovery, logs, openapi, patch, port_forward, protobuf, reviews, status, watch, write};
use crate::manifest::yaml;

/// Largest body that is read.
const BODY_LIMIT: usize = 3 << 20;
/// Longest time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request to a Kubernetes path, taken apart.
pub struct Call {
    /// Method.
    pub method: Method,
    /// Query parameters.
    pub query: Query,
    /// `Accept`, empty when absent.
    pub accept: String,
    /// Name of the program that calls, from its `User-Agent`.
    pub agent: String,
    /// Media type of the body, without parameters.
    pub content_type: String,
    /// The body; read only for methods that have one.
    pub body: Bytes,
}

impl Call {
    /// Reads the body, in any of the forms that clients send objects in.
    ///
    /// # Errors
    /// The form is not known, or the body does not hold it.
    pub fn json(&self) -> Result<Value, Failure> {
        self.object().map(|body| body.value)
    }

    /// Reads the body as [`Call::json`] does, and notes the keys that stand twice.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub fn object(&self) -> Result<Document, Failure> {
        match self.content_type.as_str() {
            "" | "application/json" | "*/*" => Document::parse(&self.body)
                .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}"))),
            protobuf::MEDIA_TYPE => protobuf::to_json(&self.body).map(Document::from).map_err(|error| match error {
                protobuf::ProtobufError::UnknownKind(_) => {
                    Failure::unsupported_media_type(&error.to_string(), "application/json")
                }
                _ => Failure::bad_request(error.to_string()),
            }),
            "application/yaml" => self.parse_yaml(),
            other => Err(Failure::unsupported_media_type(other, "application/json, application/yaml")),
        }
    }

    /// Reads the body as JSON, whatever it says it is.
    ///
    /// # Errors
    /// It is not.
    pub fn parse(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
    }

    /// Reads the body as YAML, of which JSON is a part.
    ///
    /// # Errors
    /// It is not.
    pub fn parse_yaml(&self) -> Result<Document, Failure> {
        if let Ok(body) = Document::parse(&self.body) {
            return Ok(body);
        }
        let text = std::str::from_utf8(&self.body).map_err(|_| Failure::bad_request("the body is not UTF-8"))?;
        let (value, duplicates) =
            yaml::document(text).map_err(|message| Failure::bad_request(format!("the body is not YAML: {message}")))?;
        Ok(Document { value, duplicates })
    }
}

/// Answers every Kubernetes path.
pub async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let outcome = match Target::parse(&percent_decoded(&path)) {
        None => Err(Failure::no_such_path()),
        Some(Target::Item { resource: Resource::Pods, namespace, name, subresource: Some(part) })
            if part == "portforward" =>
        {
            port_forward::answer(&api, &namespace, &name, request).await
        }
        Some(target) => match read(request).await {
            Ok(call) if matches!(call.method, Method::GET | Method::HEAD) => dispatch(&api, target, call).await,
            Ok(call) => to_the_end(api, target, call).await,
            Err(failure) => Err(failure),
        },
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// Answers a write, which ends even when its client leaves: half of it goes on regardless on a thread of its own, and the
/// next write must not have its turn before.
async fn to_the_end(api: Arc<Api>, target: Target, call: Call) -> Result<Response, Failure> {
    let tasks = api.tasks.clone();
    let write = tasks.spawn("api-write", async move { dispatch(&api, target, call).await });
    write.await.unwrap_or_else(|error| Err(Failure::internal(format!("the write did not end: {error}"))))
}

fn percent_decoded(path: &str) -> String {
    // A path holds no `+` or `=` that a form would treat otherwise, once both are escaped.
    let escaped = path.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    url::form_urlencoded::parse(escaped.as_bytes()).map(|(key, _)| key.into_owned()).next().unwrap_or_default()
}

async fn read(request: Request) -> Result<Call, Failure> {
    let (parts, body) = request.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let accept = text(header::ACCEPT).unwrap_or_default().to_owned();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let body = match parts.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => read_body(body).await?,
    };
    let agent = text(header::USER_AGENT).unwrap_or_default().split(['/', ' ']).next().unwrap_or_default();
    let agent = if agent.is_empty() { "unknown" } else { agent }.to_owned();
    Ok(Call { method: parts.method, query, accept, agent, content_type, body })
}

async fn read_body(body: Body) -> Result<Bytes, Failure> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
    match collected.map_err(|_| Failure::timeout())? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::too_large(BODY_LIMIT)),
        Err(_) => Err(Failure::bad_request("the request body ended early")),
    }
}

async fn dispatch(api: &Arc<Api>, target: Target, call: Call) -> Result<Response, Failure> {
    match target {
        Target::Collection { resource, namespace } => collection(api, resource, namespace, call).await,
        Target::Item { resource, namespace, name, subresource } => match subresource.as_deref() {
            None => item(api, resource, &namespace, &name, call).await,
            Some("log") if resource == Resource::Pods => logs::answer(api, &namespace, &name, &call).await,
            Some("status") => match (&call.method, resource) {
                (&Method::GET, _) => get(api, resource, &namespace, &name, &call),
                (&Method::PUT | &Method::PATCH, Resource::Object(kind)) => {
                    status::write(api, &crate::api::ObjectKey { kind, namespace, name }, &call).await
                }
                _ => Err(cannot(&call.method, resource)),
            },
            Some(part) => Err(no_part(resource, part)),
        },
        Target::Review(review) if call.method == Method::POST => reviews::answer(review, &call),
        Target::OpenApi(rest) if call.method == Method::GET => openapi::answer(&rest, &call),
        discovery if call.method == Method::GET => {
            let version = discovery::aggregated_version(&call.accept);
            let document = version.and_then(|version| Some((version, discovery::aggregated(&discovery, version)?)));
            match document {
                Some((version, document)) => {
                    let media_type =
                        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
                    Ok(([(header::CONTENT_TYPE, media_type)], document.to_string()).into_response())
                }
                None => Ok(Json(discovery::classic(&discovery, api.state.gateway_address)?).into_response()),
            }
        }
        _ => Err(Failure::method_not_allowed("discovery can only be read")),
    }
}

async fn collection(
    api: &Arc<Api>,
    resource: Resource,
    namespace: Option<String>,
    call: Call,
) -> Result<Response, Failure> {
    match (&call.method, resource) {
        (&Method::GET, _) => {
            let scope = Scope::new(resource, namespace, &call.query)?;
            if call.query.flag("watch")? { watch::answer(api, scope, &call) } else { list(api, &scope, &call) }
        }
        (&Method::POST, Resource::Object(kind)) => write::create(api, kind, namespace, call).await,
        (&Method::DELETE, Resource::Object(kind)) => {
            delete::delete_collection(api, kind, &Scope::new(resource, namespace, &call.query)?, &call).await
        }
        _ => Err(cannot(&call.method, resource)),
    }
}

async fn item(
    api: &Arc<Api>,
    resource: Resource,
    namespace: &str,
    name: &str,
    call: Call,
) -> Result<Response, Failure> {
    let Resource::Object(kind) = resource else {
        return match call.method {
            Method::GET => get(api, resource, namespace, name, &call),
            _ => Err(cannot(&call.method, resource)),
        };
    };
    let key = crate::api::ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    match call.method {
        Method::GET => get(api, resource, namespace, name, &call),
        Method::PUT => write::replace(api, &key, call).await,
        Method::PATCH => patch::answer(api, &key, call).await,
        Method::DELETE => delete::delete(api, &key, call).await,
        _ => Err(cannot(&call.method, resource)),
    }
}

/// Refuses a part of an object that is not served, and says what to do instead where there is something.
fn no_part(resource: Resource, part: &str) -> Failure {
    match (resource, part) {
        (Resource::Pods, "exec" | "attach") => Failure::forbidden(format!(
            "{part} is not offered: kserve-local gives nobody a shell in a model's container; use the container engine's own {part}"
        )),
        (Resource::Pods | Resource::Services, "proxy") => Failure::forbidden(
            "proxy is not offered: models answer on this machine already, at the address `kserve-local get inferenceservices` shows",
        ),
        (Resource::Deployments | Resource::ReplicaSets, "scale") => Failure::forbidden(
            "deployments are not scaled here: set spec.predictor.minReplicas and maxReplicas of the InferenceService",
        ),
        _ => Failure::no_such_path(),
    }
}

/// Refuses a method, and says what to do instead where there is something.
fn cannot(method: &Method, resource: Resource) -> Failure {
    Failure::method_not_allowed(match resource {
        Resource::Pods => {
            "pods cannot be written: they follow from InferenceServices; change or delete those".to_owned()
        }
        Resource::Events => "events cannot be written".to_owned(),
        Resource::Nodes => "this machine cannot be written".to_owned(),
        Resource::Deployments | Resource::ReplicaSets | Resource::Services => format!(
            "{} cannot be written: they follow from InferenceServices; change those, for example spec.predictor.minReplicas",
            resource.plural()
        ),
        Resource::Object(_) => format!("the server does not allow {method} on {}", resource.qualified()),
    })
}

fn get(api: &Arc<Api>, resource: Resource, namespace: &str, name: &str, call: &Call) -> Result<Response, Failure> {
    let object = api.feed(resource).get(namespace, name).ok_or_else(|| Failure::not_found(resource, name))?;
    if table::is_wanted(&call.accept) {
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        return Ok(Json(table::table(resource, &[object], &version, table_options(api, call))).into_response());
    }
    Ok(Json(&*object).into_response())
}

fn list(api: &Arc<Api>, scope: &Scope, call: &Call) -> Result<Response, Failure> {
    let resource = scope.resource;
    let (version, mut objects) = api.feed(resource).list();
    objects.retain(|object| scope.matches(object));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(after) = call.query.get("continue") {
        let (namespace, name) =
            after.split_once('/').ok_or_else(|| Failure::expired("the continue token is not ours"))?;
        objects.retain(|object| key_of(object) > (namespace.to_owned(), name.to_owned()));
    }
    let limit = call.query.number("limit")?.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit > 0 && objects.len() > limit {
        let (namespace, name) = key_of(&objects[limit - 1]);
        metadata["continue"] = json!(format!("{namespace}/{name}"));
        metadata["remainingItemCount"] = json!(objects.len() - limit);
        objects.truncate(limit);
    }
    if table::is_wanted(&call.accept) {
        let mut table = table::table(resource, &objects, "", table_options(api, call));
        table["metadata"] = metadata;
        return Ok(Json(table).into_response());
    }
    let items: Vec<&Value> = objects.iter().map(AsRef::as_ref).collect();
    let list = json!({
        "kind": format!("{}List", resource.kind()),
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "items": items,
    });
    Ok(Json(list).into_response())
}

/// Returns how tables are made for this call.
pub fn table_options(api: &Api, call: &Call) -> TableOptions {
    TableOptions { include: call.query.include_object(), now: (api.state.clock)() }
}

/// Answers with an object that was written, and what there is to say about it.
pub fn written(code: StatusCode, object: &Value, warnings: &[String]) -> Response {
    let mut response = (code, Json(object)).into_response();
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(|c: char| c.is_control(), " ");
        if let Ok(value) = header::HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use camino::Utf8Path;
    use jiff::Timestamp;

    use super::*;
    use crate::home::Home;
    use crate::kubeapi::ApiState;
    use crate::plan::Now;
    use crate::source::Loader;
    use crate::store::{Ledger, Store};
    use crate::tasks::Tasks;
    use crate::telemetry::EventLog;

    /// Stops whoever reads the folder while it is shut.
    #[derive(Default)]
    struct Turnstile {
        shut: Mutex<bool>,
        opened: Condvar,
        came: AtomicUsize,
    }

    impl Turnstile {
        fn set(&self, shut: bool) {
            *self.shut.lock().unwrap() = shut;
            self.opened.notify_all();
        }

        fn pass(&self) {
            self.came.fetch_add(1, Ordering::AcqRel);
            drop(self.opened.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap());
        }
    }

    async fn api(home: &Home, turnstile: &Arc<Turnstile>) -> Arc<Api> {
        home.create().unwrap();
        let (store, events) = (Store::new(Ledger::default()), EventLog::default());
        let loader = Loader::new(home.clone(), store.clone(), events.clone(), {
            let turnstile = Arc::clone(turnstile);
            move || {
                turnstile.pass();
                Now { tick: Duration::ZERO, wall: Timestamp::UNIX_EPOCH }
            }
        });
        loader.load().await;
        let state = ApiState {
            store,
            events,
            loader,
            pods: tokio::sync::watch::channel(Arc::default()).1,
            questions: crate::reconcile::questions::Questions::channel().0,
            engine: Arc::new(crate::engine::memory::MemoryEngine::new("t")),
            token: "".into(),
            home: home.clone(),
            tls: None,
            metrics: Arc::new(|| Box::pin(async { String::new() })),
            ready: Arc::new(|| Ok(())),
            clock: Arc::new(|| Timestamp::UNIX_EPOCH),
            gateway_address: "127.0.0.1:1".parse().unwrap(),
            version: "0.0.0",
        };
        Api::new(state, Tasks::new(), tokio_util::sync::CancellationToken::new())
    }

    #[tokio::test]
    async fn a_write_whose_client_leaves_keeps_its_turn_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
        let turnstile = Arc::<Turnstile>::default();
        let api = api(&home, &turnstile).await;
        let path = "/api/v1/namespaces/default/configmaps";
        let write = |method: Method, path: String, version: &str, word: &str| {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"word": word},
                "metadata": {"name": "c", "resourceVersion": version}});
            let request = Request::builder().method(method).uri(path).body(Body::from(body.to_string()));
            answer(State(Arc::clone(&api)), request.unwrap())
        };
        let made = write(Method::POST, path.to_owned(), "", "first").await;
        assert_eq!(made.status(), StatusCode::CREATED);
        let made: Value = serde_json::from_slice(&made.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let version = made["metadata"]["resourceVersion"].as_str().unwrap();

        turnstile.set(true);
        let before = turnstile.came.load(Ordering::Acquire);
        let mut left = Box::pin(write(Method::PUT, format!("{path}/c"), version, "second"));
        while turnstile.came.load(Ordering::Acquire) == before {
            assert!(futures::poll!(&mut left).is_pending());
            tokio::task::yield_now().await;
        }
        drop(left);
        let mut next = Box::pin(write(Method::PUT, format!("{path}/c"), version, "third"));
        for _ in 0..100 {
            assert!(futures::poll!(&mut next).is_pending());
            tokio::task::yield_now().await;
        }
        turnstile.set(false);
        assert_eq!(next.await.status(), StatusCode::CONFLICT, "it was made from what is no longer there");
    }

    #[test]
    fn paths_are_percent_decoded() {
        assert_eq!(percent_decoded("/api/v1/namespaces/a%2Db/pods"), "/api/v1/namespaces/a-b/pods");
        assert_eq!(percent_decoded("/a+b=c&d"), "/a+b=c&d");
    }
}
