//! KServe V1: a prediction is the sum of an instance.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::model::Stub;
use crate::reply::{self, Reply};

pub fn answer(stub: &Stub, method: &Method, path: &str, body: &[u8]) -> Reply {
    let rest = path.strip_prefix("/v1/models").unwrap_or(path).trim_start_matches('/');
    if rest.is_empty() {
        return reply::ok(&json!({ "models": stub.settings.model_names }));
    }
    let (model, verb) = rest.rsplit_once(':').unwrap_or((rest, ""));
    if !stub.knows(model) {
        return reply::error(StatusCode::NOT_FOUND, format!("Model with name {model} does not exist."));
    }
    let ready = stub.model_is_ready(model);
    match (method, verb) {
        (&Method::GET, "") if ready => reply::ok(&json!({ "name": model, "ready": true })),
        (&Method::GET, "") => {
            reply::error(StatusCode::SERVICE_UNAVAILABLE, format!("Model with name {model} is not ready."))
        }
        (&Method::POST, "predict" | "explain") if !ready => {
            reply::error(StatusCode::SERVICE_UNAVAILABLE, format!("Model with name {model} is not ready."))
        }
        (&Method::POST, "predict") => each_instance("predictions", body),
        (&Method::POST, "explain") => each_instance("explanations", body),
        (_, "" | "predict" | "explain") => reply::error(StatusCode::METHOD_NOT_ALLOWED, "use another method"),
        _ => reply::error(StatusCode::NOT_FOUND, format!("the stub has no verb `{verb}`")),
    }
}

fn each_instance(key: &str, body: &[u8]) -> Reply {
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => {
            return reply::error(StatusCode::BAD_REQUEST, format!("Unrecognized request format: {error}"));
        }
    };
    let Some(instances) = request.get("instances").or_else(|| request.get("inputs")).and_then(Value::as_array) else {
        return reply::error(StatusCode::BAD_REQUEST, "Expected \"instances\" to be a list");
    };
    reply::ok(&json!({ key: instances.iter().map(sum).collect::<Vec<_>>() }))
}

/// Returns the sum of all numbers inside, or the instance itself when there are none.
fn sum(instance: &Value) -> Value {
    fn numbers(value: &Value, found: &mut Vec<f64>) {
        match value {
            Value::Number(number) => found.extend(number.as_f64()),
            Value::Array(items) => items.iter().for_each(|item| numbers(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| numbers(field, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    numbers(instance, &mut found);
    if found.is_empty() { instance.clone() } else { json!(found.iter().sum::<f64>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_summed_at_any_depth_and_text_is_returned_as_it_is() {
        assert_eq!(sum(&json!([1, [2.5, { "x": 3 }]])), json!(6.5));
        assert_eq!(sum(&json!("hello")), json!("hello"));
    }
}
