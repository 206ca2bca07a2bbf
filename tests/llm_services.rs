//! An LLMInferenceService in a real container, called by the official OpenAI client.

#![expect(clippy::disallowed_methods, reason = "other processes are looked at from outside, on the wall clock")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod daemon;

use std::path::Path;
use std::process::Command;

use daemon::{Daemon, condition, docker, docker_or_skip, eventually_or, skip, text};
use serde_json::{Value, json};

/// The stub answers OpenAI's protocol by repeating the last message; vLLM's own images are far too large for a test.
fn chat(replicas: u32, more: &[&str]) -> String {
    let args: Vec<&str> =
        ["--port=8000", "--served-model-name={{ .Spec.Model.Name }}"].iter().chain(more).copied().collect();
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService", "metadata": {"name": "chat"},
        "spec": {
            "model": {"uri": format!("file://{}/examples/models/iris", env!("CARGO_MANIFEST_DIR")), "name": "org/tiny"},
            "replicas": replicas, "router": {"route": {}},
            "baseRefs": [{"name": "stub"}],
            "template": {"containers": [{"name": "main", "args": args}]},
        },
    })
    .to_string()
}

fn config() -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceServiceConfig", "metadata": {"name": "stub"},
        "spec": {"template": {"containers": [{
            "name": "main", "image": "kserve-local/stub-runtime:test", "command": ["/stub-runtime"],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        }]}},
    })
    .to_string()
}

const CLIENT: &str = r#"
import sys
from openai import OpenAI, NotFoundError
base, model = sys.argv[1], "org/tiny"
hello = [{"role": "user", "content": "one two three"}]
for url in (base + "/default/chat/v1", base + "/v1", base + "/openai/v1"):
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=model, messages=hello)
    assert answer.choices[0].message.content == "one two three", answer
    events = client.chat.completions.create(model=model, messages=hello, stream=True)
    pieces = [event.choices[0].delta.content for event in events if event.choices]
    assert "".join(piece or "" for piece in pieces) == "one two three" and len(pieces) >= 3, pieces
    assert client.completions.create(model=model, prompt="a b").choices[0].text == "a b"
    assert model in [one.id for one in client.models.list().data]
try:
    OpenAI(base_url=base + "/v1", api_key="none", max_retries=0).completions.create(model="nobody", prompt="x")
    raise SystemExit("a model that is not there was found")
except NotFoundError:
    print("ok")
"#;

/// A Python with the official client; none when it cannot be had here.
fn client() -> Option<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/openai-venv");
    let made = Command::new(script).output().ok()?;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openai-venv/bin/python");
    (made.status.success() && python.exists()).then(|| python.display().to_string())
}

fn object(daemon: &Daemon) -> Option<Value> {
    serde_json::from_str(&text(&daemon.cli(&["get", "llmisvc", "chat", "-o", "json"]).stdout)).ok()
}

fn wait_condition(daemon: &Daemon, kind: &str, status: &str) -> Value {
    eventually_or(
        &format!("{kind} is {status}"),
        || format!("{:#}\n{}", object(daemon).unwrap_or_default(), daemon.log()),
        || {
            let object = object(daemon)?;
            let found = condition(&object, kind)?.clone();
            (found["status"] == status).then_some(found)
        },
    )
}

fn call(python: &str, daemon: &Daemon) {
    let base = daemon.url("");
    let output = Command::new(python).args(["-c", CLIENT, &base]).output().expect("python runs");
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_client_talks_to_an_llm_inference_service() {
    let name = "the_openai_client_talks_to_an_llm_inference_service";
    if !docker_or_skip(name) {
        return;
    }
    let Some(python) = client() else {
        skip(name, "the openai package could not be installed into target/openai-venv");
        return;
    };
    let mut daemon = Daemon::start();
    daemon.drop_file("chat.json", &chat(1, &[]));
    let missing = wait_condition(&daemon, "PresetsCombined", "False");
    assert!(missing["message"].as_str().unwrap_or_default().contains("`stub`"), "{missing}");
    daemon.drop_file("stub.json", &config());
    wait_condition(&daemon, "Ready", "True");
    call(&python, &daemon);

    let shown = object(&daemon).expect("an object");
    let url = shown["status"]["url"].as_str().expect("a URL");
    assert!(url.starts_with("http://localhost:") && url.ends_with("/default/chat"), "{url}");
    assert_eq!(shown["status"]["addresses"][0]["models"], json!(["org/tiny", "publishers/default/models/chat"]));
    for kind in ["PresetsCombined", "MainWorkloadReady", "WorkloadsReady", "RouterReady"] {
        assert_eq!(condition(&shown, kind).expect(kind)["status"], "True", "{kind}");
    }
    let table = daemon.cli_ok(&["get", "llmisvc"]);
    assert!(table.contains("REASON") && table.contains("/default/chat"), "{table}");

    // The server ends, and the daemon.
    let serving = |daemon: &Daemon| {
        let all = daemon.containers();
        let own = all.iter().filter(|one| one["Config"]["Labels"]["kserve-local/container"] == "main");
        own.filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect::<Vec<_>>()
    };
    docker(&["kill", &serving(&daemon)[0]]);
    wait_condition(&daemon, "Ready", "False");
    wait_condition(&daemon, "Ready", "True");
    let before = serving(&daemon);
    daemon.kill();
    daemon.restart();
    wait_condition(&daemon, "Ready", "True");
    call(&python, &daemon);
    assert_eq!(serving(&daemon), before);

    // Two, none, stopped, gone.
    daemon.drop_file("chat.json", &chat(2, &[]));
    eventually_or("there are two", || daemon.log(), || (serving(&daemon).len() == 2).then_some(()));
    daemon.drop_file("chat.json", &chat(1, &["--workers=1"]));
    eventually_or(
        "a new revision replaced them",
        || daemon.log(),
        || {
            let now = serving(&daemon);
            (now.len() == 1 && !before.contains(&now[0])).then_some(())
        },
    );
    wait_condition(&daemon, "Ready", "True");
    call(&python, &daemon);
    let mut stopped: Value = serde_json::from_str(&chat(1, &["--workers=1"])).expect("JSON");
    stopped["metadata"]["annotations"] = json!({"serving.kserve.io/stop": "true"});
    daemon.drop_file("chat.json", &stopped.to_string());
    eventually_or("it stops", || daemon.log(), || serving(&daemon).is_empty().then_some(()));
    wait_condition(&daemon, "Stopped", "True");
    daemon.cli_ok(&["delete", "llmisvc", "chat"]);
    assert!(object(&daemon).is_none());
}
