//! Answers about all services at once, on the bare address: lists in the forms of KServe V1, V2 and OpenAI.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::plan::routes::{RouteState, RouteTable, ServiceRoute};

use super::refusal::{graphs, services};
use super::route::OwnAnswer;

/// Makes the body of one of our own answers.
pub(crate) fn own_answer(which: OwnAnswer, table: &RouteTable) -> Value {
    match which {
        OwnAnswer::Root => json!({
            "status": "alive",
            "services": services(table),
            "graphs": graphs(table),
            "hint": "call a model by name: /v1/models/<model>:predict, /v2/models/<model>/infer, \
                     /openai/v1/chat/completions; or a service: /serving/<namespace>/<name>/",
        }),
        OwnAnswer::V1Models => json!({ "models": models(table), "object": "list", "data": open_ai(table) }),
        OwnAnswer::V2Models => json!({ "models": models(table) }),
        OwnAnswer::RepositoryIndex => Value::Array(repository(table)),
        OwnAnswer::OpenAiModels => json!({ "object": "list", "data": open_ai(table) }),
        OwnAnswer::Server => json!({ "name": NAME, "version": VERSION, "extensions": EXTENSIONS }),
        OwnAnswer::Live => json!({ "live": true }),
        OwnAnswer::Ready => json!({ "ready": true }),
        OwnAnswer::GrpcHealth => json!({ "status": "SERVING" }),
    }
}

/// What `ServerMetadata` says of all models behind the one address.
const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Passed through to the models, so only what every V2 server must know can be promised.
const EXTENSIONS: [&str; 0] = [];

/// Makes the gRPC message of one of our own answers, with its five-byte prefix.
pub(crate) fn own_message(which: OwnAnswer) -> Vec<u8> {
    let message = match which {
        // `bool live = 1`, `bool ready = 1`, `ServingStatus status = 1` (SERVING).
        OwnAnswer::Live | OwnAnswer::Ready | OwnAnswer::GrpcHealth => vec![0x08, 0x01],
        // `string name = 1; string version = 2`.
        OwnAnswer::Server => [string_field(1, NAME), string_field(2, VERSION)].concat(),
        OwnAnswer::Root | OwnAnswer::V1Models | OwnAnswer::V2Models => Vec::new(),
        OwnAnswer::OpenAiModels | OwnAnswer::RepositoryIndex => Vec::new(),
    };
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    framed.extend(message);
    framed
}

/// A protobuf string of fewer than 128 bytes.
fn string_field(number: u8, text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap_or_default();
    [&[number << 3 | 2, len], text.as_bytes()].concat()
}

/// Services that may be called from outside.
fn public(table: &RouteTable) -> impl Iterator<Item = &ServiceRoute> {
    table.services.values().map(Arc::as_ref).filter(|service| !service.cluster_local)
}

/// Model names of every service, asleep and failing ones included, each once.
fn models(table: &RouteTable) -> Vec<&str> {
    let mut names: Vec<&str> =
        public(table).flat_map(|service| service.model_names.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Every model, and whether it answers, in the form of the repository extension. A server of several stands for the models
/// it loads and is none itself.
fn repository(table: &RouteTable) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for service in public(table) {
        let loads = !service.trained.is_empty();
        for name in service.model_names.iter().filter(|name| !loads || service.trained.contains_key(*name)) {
            let states = service.components.keys().filter_map(|kind| service.state(*kind, Some(name)));
            let (state, reason) =
                states.map(repository_state).find(|(state, _)| *state != READY).unwrap_or((READY, ""));
            items.push(json!({ "name": name, "state": state, "reason": reason }));
        }
    }
    items
}

const READY: &str = "READY";

fn repository_state(state: &RouteState) -> (&'static str, &str) {
    match state {
        RouteState::Open(_) => (READY, ""),
        RouteState::Held(hold) => ("UNAVAILABLE", &hold.reason),
        RouteState::NotReady { reason, .. } => ("UNAVAILABLE", reason),
    }
}

fn open_ai(table: &RouteTable) -> Vec<Value> {
    let model = |id: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": "kserve-local" });
    models(table).into_iter().map(model).collect()
}
