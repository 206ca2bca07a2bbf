//! The OpenAI protocol, under `/v1` and `/openai/v1`: the answer repeats the last message.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::model::Stub;
use crate::reply::{self, Reply};

pub fn answers(stub: &Stub, method: &Method, path: &str) -> bool {
    match path {
        "/v1/models" => stub.settings.openai_list && method == Method::GET,
        "/v1/completions" | "/v1/chat/completions" | "/v1/embeddings" => true,
        _ => path.starts_with("/openai/v1/"),
    }
}

pub fn answer(stub: &Arc<Stub>, method: &Method, path: &str, body: Bytes, faults: &Faults) -> Reply {
    let path = path.strip_prefix("/openai").unwrap_or(path);
    if (method, path) == (&Method::GET, "/v1/models") {
        return models(stub);
    }
    let request: Value = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {error}"));
        }
    };
    let model = request["model"].as_str().unwrap_or_default();
    if !stub.knows(model) {
        return refuse(StatusCode::NOT_FOUND, &format!("The model `{model}` does not exist."));
    }
    if !stub.model_is_ready(model) {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("The model `{model}` is not ready."));
    }
    match path {
        "/v1/chat/completions" => complete(Kind::Chat, &request, faults),
        "/v1/completions" => complete(Kind::Text, &request, faults),
        "/v1/embeddings" => embed(&request),
        _ => refuse(StatusCode::NOT_FOUND, "the stub has no such endpoint"),
    }
}

fn models(stub: &Stub) -> Reply {
    if !stub.is_ready() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the models are not ready");
    }
    let entry = |name: &String| json!({ "id": name, "object": "model", "created": 0, "owned_by": "stub" });
    let data: Vec<Value> = stub.settings.model_names.iter().map(entry).collect();
    reply::ok(&json!({ "object": "list", "data": data }))
}

fn refuse(status: StatusCode, message: &str) -> Reply {
    reply::json(
        status,
        &json!({
            "error": { "message": message, "type": "stub_error", "param": null, "code": status.as_u16() },
        }),
    )
}

#[derive(Clone, Copy)]
enum Kind {
    Chat,
    Text,
}

fn complete(kind: Kind, request: &Value, faults: &Faults) -> Reply {
    let prompt = match kind {
        Kind::Chat => request["messages"].as_array().and_then(|all| all.last()).map(|last| last["content"].clone()),
        Kind::Text => request.get("prompt").cloned(),
    };
    let prompt = prompt.unwrap_or_default();
    let prompt = prompt.as_str().map_or_else(|| prompt.to_string(), str::to_owned);
    let words = words(&prompt, request, faults);
    let usage = json!({
        "prompt_tokens": prompt.split_whitespace().count(),
        "completion_tokens": words.len(),
        "total_tokens": prompt.split_whitespace().count() + words.len(),
    });
    let answer = Answer { kind, model: request["model"].clone(), words, usage };
    if request["stream"].as_bool() == Some(true) {
        let with_usage = request["stream_options"]["include_usage"].as_bool() == Some(true);
        answer.stream(with_usage, faults)
    } else {
        reply::ok(&answer.whole())
    }
}

/// What is said: as many words as the header asks for, else the prompt, never more than `max_tokens`.
fn words(prompt: &str, request: &Value, faults: &Faults) -> Vec<String> {
    let limit = request.get("max_tokens").or_else(|| request.get("max_completion_tokens")).and_then(Value::as_u64);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    match faults.chunks {
        Some(count) => (0..count).map(|nth| format!("w{nth} ")).collect(),
        None => prompt.split_inclusive(' ').take(limit).map(str::to_owned).collect(),
    }
}

struct Answer {
    kind: Kind,
    model: Value,
    words: Vec<String>,
    usage: Value,
}

impl Answer {
    fn envelope(&self, object: &str, choice: Option<Value>) -> Value {
        json!({
            "id": "stub-1",
            "object": object,
            "created": 0,
            "model": self.model,
            "choices": choice.into_iter().collect::<Vec<_>>(),
        })
    }

    fn whole(&self) -> Value {
        let text = self.words.concat();
        let (object, choice) = match self.kind {
            Kind::Chat => (
                "chat.completion",
                json!({
                    "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop",
                }),
            ),
            Kind::Text => ("text_completion", json!({ "index": 0, "text": text, "finish_reason": "stop" })),
        };
        let mut whole = self.envelope(object, Some(choice));
        whole["usage"] = self.usage.clone();
        whole
    }

    fn chunk(&self, text: Option<&str>) -> Value {
        let finish = if text.is_none() { json!("stop") } else { Value::Null };
        match self.kind {
            Kind::Chat => {
                let delta = text.map_or_else(|| json!({}), |text| json!({ "role": "assistant", "content": text }));
                let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
                self.envelope("chat.completion.chunk", Some(choice))
            }
            Kind::Text => {
                let choice = json!({ "index": 0, "text": text.unwrap_or(""), "finish_reason": finish });
                self.envelope("text_completion", Some(choice))
            }
        }
    }

    fn stream(self, with_usage: bool, faults: &Faults) -> Reply {
        let (delay, cut_after) = (faults.chunk_delay, faults.cut_after);
        reply::stream("text/event-stream; charset=utf-8", move |mut sender| async move {
            let mut events: Vec<Value> = self.words.iter().map(|word| self.chunk(Some(word))).collect();
            events.push(self.chunk(None));
            if with_usage {
                let mut last = self.envelope("chat.completion.chunk", None);
                last["usage"] = self.usage.clone();
                events.push(last);
            }
            for (nth, event) in (0_u64..).zip(events) {
                if cut_after == Some(nth) {
                    reply::break_off(sender).await;
                    return;
                }
                if nth > 0 {
                    reply::pause(delay).await;
                }
                if sender.send_data(format!("data: {event}\n\n").into()).await.is_err() {
                    println!("stub-runtime: the reader of a stream left after {nth} events");
                    return;
                }
            }
            // Whoever has left by now has heard everything.
            let _ = sender.send_data("data: [DONE]\n\n".into()).await;
        })
    }
}

fn embed(request: &Value) -> Reply {
    let inputs = match &request["input"] {
        Value::Array(inputs) => inputs.clone(),
        one => vec![one.clone()],
    };
    let entry = |(index, input): (usize, &Value)| json!({ "object": "embedding", "index": index, "embedding": [input.to_string().len(), 0.5, -0.5] });
    let data: Vec<Value> = inputs.iter().enumerate().map(entry).collect();
    let usage = json!({ "prompt_tokens": inputs.len(), "total_tokens": inputs.len() });
    reply::ok(&json!({ "object": "list", "model": request["model"], "data": data, "usage": usage }))
}
