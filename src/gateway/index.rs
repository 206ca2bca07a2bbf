//! Answers about all services at once, on the bare address: lists in the forms of KServe V1, V2 and OpenAI.

use serde_json::{Value, json};

use crate::plan::routes::RouteTable;

use super::refusal::services;
use super::route::OwnAnswer;

/// Makes the body of one of our own answers.
pub(crate) fn own_answer(which: OwnAnswer, table: &RouteTable) -> Value {
    match which {
        OwnAnswer::Root => json!({
            "status": "alive",
            "services": services(table),
            "hint": "call a model by name: /v1/models/<model>:predict, /v2/models/<model>/infer, \
                     /openai/v1/chat/completions; or a service: /serving/<namespace>/<name>/",
        }),
        OwnAnswer::V1Models => json!({ "models": models(table), "object": "list", "data": open_ai(table) }),
        OwnAnswer::V2Models => json!({ "models": models(table) }),
        OwnAnswer::OpenAiModels => json!({ "object": "list", "data": open_ai(table) }),
        OwnAnswer::Live => json!({ "live": true }),
        OwnAnswer::Ready => json!({ "ready": true }),
    }
}

/// Model names of every service, asleep and failing ones included, each once.
fn models(table: &RouteTable) -> Vec<&str> {
    let mut names: Vec<&str> =
        table.services.values().flat_map(|service| service.model_names.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn open_ai(table: &RouteTable) -> Vec<Value> {
    let model = |id: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": "kserve-local" });
    models(table).into_iter().map(model).collect()
}
