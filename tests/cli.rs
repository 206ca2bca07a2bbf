//! The command line as a user meets it: help, output, exit codes; alone, over a folder, and against an API.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

#[path = "support/api.rs"]
#[expect(dead_code, reason = "shared with the tests of the API")]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::Arc;

use clap::CommandFactory;
use kserve_local::cli::Cli;
use kserve_local::config::effective::{OUTSIDE, effective};
use kserve_local::plan::pods::ContainerViewState;
use serde_json::{Value, json};
use support::{Api, isvc};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a run of the binary gave.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

/// Runs the binary over a home, with a text on stdin.
async fn run_with(home: &str, words: &[&str], stdin: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kserve-local"))
        .args(words)
        .env("KSERVE_LOCAL_HOME", home)
        .env("HOME", home)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A verb that reads no stdin may have ended before this.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output =
        tokio::time::timeout(support::DEADLINE, child.wait_with_output()).await.expect("an end in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

async fn run(home: &str, words: &str) -> Run {
    run_with(home, &words.split_whitespace().collect::<Vec<_>>(), "").await
}

/// Leaves in the home what a daemon leaves there.
fn announce(api: &Api) {
    let address = api.base.trim_start_matches("http://");
    let addresses = json!({"pid": 1, "data": address, "api": address, "instance": "test"});
    std::fs::write(api.home.addresses(), addresses.to_string()).unwrap();
    std::fs::write(api.home.token(), support::TOKEN).unwrap();
}

async fn api() -> (Api, String) {
    let api = Api::start().await;
    announce(&api);
    let home = api.home.root().to_string();
    (api, home)
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap().to_owned();
    (folder, home)
}

const BAD: &str = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: bad}\nspec:\n  predictor:\n    minReplica: 1\n    model:\n      modelFormat: {name: sklearn}\n      storageUri: gs://a/b\n";

// ── alone ──

#[test]
fn the_whole_command_line_is_documented() {
    let mut text = String::new();
    let mut command = Cli::command().term_width(100);
    command.build();
    help(&mut command, &mut text);
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    insta::assert_snapshot!(text);
}

fn help(command: &mut clap::Command, text: &mut String) {
    let bin = command.get_bin_name().unwrap_or("kserve-local").to_owned();
    writeln!(text, "════ {bin}\n{}", command.render_long_help()).unwrap();
    for sub in command.get_subcommands_mut() {
        help(sub, text);
    }
}

#[test]
fn the_arguments_agree_with_each_other() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn exit_codes_say_whose_problem_it_is() {
    let (_folder, home) = folder();
    let table = [
        ("--help", 0),
        ("--version", 0),
        ("version", 0),
        ("completion bash", 0),
        ("completion powershell", 0),
        ("config view", 0),
        ("config view --listen 0.0.0.0:1", 2),
        ("runtimes", 0),
        ("validate", 0),
        ("frobnicate", 2),
        ("get", 2),
        ("get isvc -o xml", 2),
        ("get nonsense", 2),
        ("apply", 2),
        ("apply -f /nowhere.yaml", 2),
        ("wait isvc/x --for=soon", 2),
        ("get isvc", 3),
        ("describe isvc x", 3),
        ("logs x", 3),
        ("events", 3),
        ("wait isvc/x", 3),
        ("predict x -d {}", 3),
        ("delete isvc nothing", 1),
    ];
    for (words, code) in table {
        let run = run(&home, words).await;
        assert_eq!(run.code, code, "{words}: {run:?}");
        assert!(!run.err.contains("panicked"), "{words}: {}", run.err);
        if code == 0 { assert!(!run.out.is_empty(), "{words}") } else { assert_eq!(run.out, "", "{words}") }
    }
}

#[tokio::test]
async fn a_missing_daemon_is_explained() {
    let (_folder, home) = folder();
    let other = format!("{home}/elsewhere");
    for words in [format!("--home {other} get isvc"), format!("get isvc --home {other}")] {
        let run = run(&home, &words).await;
        let said = run.err.replace(&home, "HOME").replace("~/", "HOME/");
        assert_eq!(
            said,
            "error: no daemon runs on HOME/elsewhere\nhint: start one with `kserve-local serve --home HOME/elsewhere`, or name another folder with --home\n"
        );
    }
    let state = format!("{home}/state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(format!("{state}/token"), "t").unwrap();
    std::fs::write(format!("{state}/addresses.json"), r#"{"pid":1,"data":"127.0.0.1:1","api":"127.0.0.1:1"}"#).unwrap();
    let run = run(&home, "get isvc").await;
    assert_eq!(run.code, 3);
    assert!(
        run.err.contains("does not answer at 127.0.0.1:1") && run.err.contains("hint: it was probably killed"),
        "{}",
        run.err
    );
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let (_folder, home) = folder();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kserve-local"))
        .args(["runtimes", "-o", "yaml"])
        .env("KSERVE_LOCAL_HOME", &home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[tokio::test]
async fn validate_shows_every_problem_where_it_is() {
    let (_folder, home) = folder();
    let unknown = isvc("unserved").to_string().replace("sklearn\"", "sklern\"");
    let text = format!("{BAD}---\n{unknown}\n---\n{}\n", isvc("good"));
    let checked = run_with(&home, &["validate", "-"], &text).await;
    assert_eq!((checked.code, checked.err.as_str()), (2, ""));
    insta::assert_snapshot!(checked.out);
    let good = run_with(&home, &["validate", "-", "-o", "json"], &isvc("good").to_string()).await;
    let document: Value = serde_json::from_str(&good.out).unwrap();
    assert_eq!((good.code, &document["files"][0]["valid"]), (0, &json!(true)));
}

#[tokio::test]
async fn services_that_would_share_a_host_are_told_before_they_are_applied() {
    let (_folder, home) = folder();
    let there = isvc("iris").to_string();
    assert_eq!(run_with(&home, &["apply", "-f", "-"], &there).await.code, 0);
    let checked = run_with(&home, &["validate", "-"], &isvc("iris-predictor").to_string()).await;
    assert_eq!(checked.code, 0, "{}", checked.out);
    let told = "its name is also the host `iris-predictor` of a component of `iris`";
    assert!(checked.out.contains("warning") && checked.out.contains(told), "{}", checked.out);
    let alone = run_with(&home, &["validate", "-"], &isvc("wine").to_string()).await;
    assert!(alone.out.ends_with("0 errors, 0 warnings\n"), "{}", alone.out);
}

#[tokio::test]
async fn runtimes_explain_why_each_other_one_lost() {
    let (_folder, home) = folder();
    let explained = run_with(&home, &["runtimes", "explain", "-f", "-"], &isvc("iris").to_string()).await;
    assert_eq!(explained.code, 0, "{explained:?}");
    insta::assert_snapshot!(explained.out);
    let unknown = isvc("iris").to_string().replace("sklearn\"", "sklern\"");
    let explained = run_with(&home, &["runtimes", "explain", "-f", "-"], &unknown).await;
    assert_eq!(explained.code, 1);
    assert!(explained.out.contains("no runtime: NoSupportingRuntime"), "{}", explained.out);
}

#[tokio::test]
async fn without_a_daemon_apply_and_delete_change_the_folder() {
    let (_folder, home) = folder();
    let manifest = isvc("iris").to_string();
    let file = format!("{home}/services/default/iris.yaml");
    let name = "inferenceservice.serving.kserve.io/iris";
    let apply = |more: &'static [&'static str]| {
        let (home, manifest) = (home.clone(), manifest.clone());
        async move { run_with(&home, &[&["apply", "-f", "-"], more].concat(), &manifest).await }
    };
    let tried = apply(&["--dry-run=client"]).await;
    assert_eq!((tried.code, tried.out), (0, format!("{name} created (dry run)\n")));
    assert!(!std::fs::exists(&file).unwrap());
    let first = apply(&[]).await;
    assert_eq!((first.code, first.out), (0, format!("{name} created\n")));
    assert!(first.err.starts_with("note: no daemon runs on "), "{}", first.err);
    assert!(std::fs::exists(&file).unwrap());
    assert_eq!(apply(&[]).await.out, format!("{name} unchanged\n"));
    let deleted = run(&home, "delete isvc iris").await;
    assert_eq!((deleted.code, deleted.out.as_str()), (0, "inferenceservice.serving.kserve.io \"iris\" deleted\n"));
    assert!(!std::fs::exists(&file).unwrap());
}

#[tokio::test]
async fn good_documents_are_applied_beside_bad_ones() {
    let (_folder, home) = folder();
    let applied = run_with(&home, &["apply", "-f", "-"], &format!("{BAD}---\n{}\n", isvc("good"))).await;
    assert_eq!((applied.code, applied.out.as_str()), (2, "inferenceservice.serving.kserve.io/good created\n"));
    assert!(applied.err.starts_with("stdin:6:5: error: unknown field `minReplica`"), "{}", applied.err);
}

// ── against an API ──

#[tokio::test]
async fn apply_says_what_became_of_each_object() {
    let (api, home) = api().await;
    let name = "inferenceservice.serving.kserve.io/iris";
    let mut body = isvc("iris");
    let apply = |body: &Value, more: &'static str| {
        let (home, body) = (home.clone(), body.to_string());
        async move {
            run_with(
                &home,
                &[&["apply", "-f", "-"], more.split_whitespace().collect::<Vec<_>>().as_slice()].concat(),
                &body,
            )
            .await
        }
    };
    assert_eq!(apply(&body, "--dry-run=server").await.out, format!("{name} created (server dry run)\n"));
    assert_eq!(apply(&body, "").await.out, format!("{name} created\n"));
    assert_eq!(apply(&body, "").await.out, format!("{name} unchanged\n"));
    body["spec"]["predictor"]["minReplicas"] = json!(0);
    assert_eq!(apply(&body, "--dry-run=server").await.out, format!("{name} configured (server dry run)\n"));
    let last = apply(&body, "").await;
    assert_eq!((last.code, last.out, last.err), (0, format!("{name} configured\n"), String::new()));
    let other = apply(&body, "-n team").await;
    assert_eq!(other.out, format!("{name} created\n"), "the manifest names no namespace");
    body["metadata"]["namespace"] = json!("default");
    let clash = apply(&body, "-n team").await;
    assert_eq!(clash.code, 2);
    assert!(clash.err.contains("does not match the namespace \"team\""), "{}", clash.err);
    assert_eq!(api.get(&format!("{}/iris", support::ISVC)).await.1["metadata"]["generation"], 2);
}

#[tokio::test]
async fn get_prints_what_kubectl_prints() {
    let (api, home) = api().await;
    api.post(support::ISVC, &isvc("iris")).await;
    api.namespace("team").await;
    api.post(&support::ISVC.replace("default", "team"), &isvc("mnist")).await;
    api.run_pod("iris").await;
    let mut shown = String::new();
    for words in [
        "get isvc",
        "get isvc iris",
        "get isvc -A",
        "get isvc,pods",
        "get pods -o wide --no-headers",
        "get isvc/iris pod/iris-predictor-00001-0 -o name",
        "get isvc -A -o jsonpath={range.items[*]}{.metadata.name},{end}",
        "get secrets",
        "get isvc irsi",
        "get isvc mnist",
    ] {
        // A blank within the template would end the word.
        let run = run_with(
            &home,
            &words
                .split(' ')
                .map(|word| word.replace("{range.", "{range ."))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            "",
        )
        .await;
        write!(shown, "$ kserve-local {words}\n{}", run.out).unwrap();
        if !run.err.is_empty() {
            write!(shown, "[stderr, exit code {}]\n{}", run.code, run.err).unwrap();
        }
        shown.push('\n');
    }
    insta::assert_snapshot!(shown);
    let json = run(&home, "get isvc iris -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap()["metadata"]["name"], "iris");
    let yaml = run(&home, "get isvc iris -o yaml").await;
    assert!(yaml.out.starts_with("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n"), "{}", yaml.out);
}

#[tokio::test]
async fn logs_are_found_by_service_or_by_pod() {
    let (api, home) = api().await;
    api.post(support::ISVC, &isvc("iris")).await;
    let none = run(&home, "logs iris").await;
    assert_eq!((none.code, none.err.lines().next()), (1, Some("error: `iris` has no containers now")));
    let described = |run: Run| run.out.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(none.err.lines().skip(1).collect::<Vec<_>>(), described(run(&home, "describe iris").await));
    let waits = ContainerViewState::Waiting { reason: "ImagePulling".to_owned(), message: String::new() };
    api.pods.send_replace(Arc::new(vec![support::pod("iris", waits, None)]));
    let silent = run(&home, "logs iris").await;
    assert_eq!((silent.code, silent.err.contains("is waiting to start: ImagePulling")), (1, true), "{}", silent.err);
    assert_eq!(silent.err.lines().skip(1).collect::<Vec<_>>(), described(run(&home, "describe iris").await));
    let pod = api.run_pod("iris").await;
    api.engine.say(&pod, "one");
    api.engine.say(&pod, "two");
    assert_eq!(run(&home, "logs iris").await.out, "one\ntwo\n");
    assert_eq!(run(&home, "logs isvc/iris --tail 1").await.out, "two\n");
    assert_eq!(run(&home, &format!("logs pod/{pod}")).await.out, "one\ntwo\n");
    let missing = run(&home, "logs irs").await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("did you mean `iris`?"), "{}", missing.err);
}

#[tokio::test]
async fn wait_ends_when_it_is_so_or_when_the_time_is_up() {
    let (api, home) = api().await;
    api.post(support::ISVC, &isvc("iris")).await;
    let late = run(&home, "wait isvc/iris --for=condition=Ready --timeout=1s").await;
    assert_eq!(late.code, 1);
    assert!(
        late.err.starts_with("error: timed out waiting for the condition on inferenceservice.serving.kserve.io/iris"),
        "{}",
        late.err
    );
    let has = run(&home, "wait isvc iris --for=jsonpath={.metadata.name}=iris").await;
    assert_eq!((has.code, has.out.as_str()), (0, "inferenceservice.serving.kserve.io/iris condition met\n"));
    let gone = run(&home, "wait isvc/iris --for=delete --timeout=8s");
    let delete = async {
        tokio::task::yield_now().await;
        run(&home, "delete isvc iris").await
    };
    let (gone, deleted) = tokio::join!(gone, delete);
    assert_eq!((gone.code, gone.out.as_str()), (0, "inferenceservice.serving.kserve.io/iris deleted\n"));
    assert_eq!(deleted.code, 0);
    assert_eq!(run(&home, "wait isvc/iris").await.code, 1);
}

#[tokio::test]
async fn describe_begins_with_the_reason_and_names_the_broken_file() {
    let (api, home) = api().await;
    api.post(support::ISVC, &isvc("iris")).await;
    let text = run(&home, "describe iris").await;
    let lines: Vec<&str> = text.out.lines().take(3).collect();
    assert_eq!(
        lines,
        [
            "InferenceService default/iris is not ready yet: it was not looked at yet",
            "  because: the daemon has it, and gets to it at its next pass",
            "  next:    wait; kserve-local events -w --for inferenceservice/iris",
        ]
    );
    let file = api.home.services().join("new.yaml");
    std::fs::write(&file, BAD).unwrap();
    api.loader.load().await;
    for words in ["describe isvc bad", "events --for isvc/bad"] {
        let missing = run(&home, words).await;
        let lines: Vec<&str> = missing.out.lines().take(3).collect();
        assert_eq!(lines[0], "InferenceService default/bad is not there: its manifest has an error", "{missing:?}");
        assert!(lines[1].starts_with(&format!("  because: {file}:6:5: unknown field `minReplica`")), "{missing:?}");
        assert!(lines[2].starts_with("  next:    correct the file and save it;"), "{missing:?}");
    }
    let waited = run(&home, "wait isvc/iris --timeout 1s").await;
    let wanted = "/iris\nInferenceService default/iris is not ready yet: it was not looked at yet\n  because: ";
    assert!(waited.code == 1 && waited.err.contains(wanted), "{waited:?}");
    let wide = run(&home, "get isvc -o wide").await;
    assert!(wide.out.contains("WHY") && wide.out.contains("it was not looked at yet"), "{wide:?}");
}

// ── documents ──

/// Holds a part of a document, between two comments, against what the code says. `INSTA_UPDATE=always` writes it.
fn hold_document(path: &str, part: &str, wanted: &str) {
    let path = format!("{}/docs/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {part}: written from the code -->\n"), format!("\n<!-- {part}: end -->"));
    let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{path} has no `{begin}`"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} has no `{end}`"));
    let whole = format!("{head}{begin}{}{end}{tail}", wanted.trim_end());
    if text != whole && std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, &whole).unwrap();
        return;
    }
    assert!(text == whole, "{path} is stale: run this test with INSTA_UPDATE=always");
}

/// The doc comments of a struct's fields, by the names the file has for them.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{}/src/{source}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let body = text.split_once(&format!("pub struct {name} {{")).unwrap().1;
    let (mut fields, mut about) = (Vec::new(), String::new());
    for line in body.split_once("\n}").unwrap().0.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            about.push_str(words);
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            let mut words = field.split('_');
            let mut key = words.next().unwrap().to_owned();
            for word in words {
                key.push_str(&word[..1].to_uppercase());
                key.push_str(&word[1..]);
            }
            fields.push((key, std::mem::take(&mut about).trim().to_owned()));
        }
    }
    fields
}

/// Every setting with its variable, flag, default and meaning, as the code has them.
#[test]
fn the_configuration_reference_is_what_the_code_says() {
    let (_folder, home) = folder();
    let flags = kserve_local::config::Flags::default();
    let settings =
        kserve_local::config::Settings::load(kserve_local::home::Home::new(home), &flags, BTreeMap::default()).unwrap();
    let structs = [
        ("config.rs", "FileConfig", ""),
        ("config.rs", "IngressConfig", "ingress."),
        ("config.rs", "DeployConfig", "deploy."),
        ("config.rs", "SandboxesConfig", "sandboxes."),
        ("config/cache.rs", "CacheConfig", "cache."),
        ("config/memory_keys.rs", "MemoryKeys", "memory."),
    ];
    let about: BTreeMap<String, String> = structs
        .into_iter()
        .flat_map(|(file, name, prefix)| {
            fields(file, name).into_iter().map(move |(key, text)| (format!("{prefix}{key}"), text))
        })
        .collect();
    let mut text = "| `config.yaml` | environment | flag | default | |\n|---|---|---|---|---|\n\
        | | `KSERVE_LOCAL_HOME` | `--home` | `~/.kserve-local` | Folder of manifests and state |\n"
        .to_owned();
    let quoted = |text: Option<String>| text.map(|text| format!("`{text}`")).unwrap_or_default();
    for setting in effective(&settings, &flags).unwrap().iter().filter(|setting| !setting.key.starts_with("gateway.")) {
        let outside = OUTSIDE.iter().find(|outside| outside.key == setting.key);
        let default = match (&setting.value, setting.key.as_str()) {
            (_, "cacheDir") => "the platform's (`~/.cache/kserve-local`)".to_owned(),
            (Value::Null, _) => "none".to_owned(),
            (Value::String(text), _) => format!("`{text}`"),
            (other, _) => format!("`{other}`"),
        };
        let about = about.get(&setting.key).cloned().unwrap_or_default();
        // The default has a column of its own.
        let about = about
            .rsplit_once("; ")
            .filter(|(_, end)| end.ends_with("by default."))
            .map_or(about.as_str(), |(about, _)| about);
        let variable = quoted(outside.map(|outside| format!("KSERVE_LOCAL_{}", outside.variable)));
        let flag = quoted(outside.and_then(|outside| outside.flag).map(str::to_owned));
        writeln!(text, "| `{}` | {variable} | {flag} | {default} | {} |", setting.key, about.trim_end_matches('.'))
            .unwrap();
    }
    text.push_str(
        "| `gateway.…` | | | | Limits and deadlines of the data plane: [each with its default](data-plane.md) |\n",
    );
    text.push_str("| | `KSERVE_LOCAL_LOG` | `--log` | `info` | Log filter, for example `warn,kserve_local=debug` |\n");
    text.push_str("| | | `--log-format` | `text` | How logs are written: `text` or `json` |\n");
    hold_document("configuration.md", "settings", &text);
}

#[test]
fn every_known_failure_is_in_the_documents() {
    let mut text = "| reason | what it means | what to do |\n|---|---|---|\n".to_owned();
    for cause in kserve_local::diagnosis::known() {
        let step = ["{isvc}", "{quoted}", "{namespace}", "{scope}", "{0}", "{1}"]
            .into_iter()
            .zip(["NAME", "IMAGE", "NAMESPACE", "", "…", "…"])
            .fold(cause.step.to_owned(), |step, (hole, word)| step.replace(hole, word));
        let what = cause.what.replace("{0}", "…");
        writeln!(text, "| `{}` | {what} | {step} |", cause.reasons[0]).unwrap();
    }
    hold_document("why-not-ready.md", "failures", &text);
}

#[tokio::test]
async fn a_refused_token_is_explained() {
    let (api, home) = api().await;
    std::fs::write(api.home.token(), "another").unwrap();
    let refused = run(&home, "get isvc").await;
    assert_eq!(refused.code, 3);
    assert!(refused.err.starts_with("error: the daemon refused the token in `"), "{}", refused.err);
}

#[tokio::test]
async fn predict_prints_a_curl_that_does_the_same() {
    let (api, home) = api().await;
    api.post(support::ISVC, &isvc("iris")).await;
    let curl = run_with(&home, &["predict", "iris", "-d", "{\"inputs\": []}", "--print-curl"], "").await;
    let port = api.base.rsplit_once(':').unwrap().1;
    assert_eq!(
        curl.out,
        format!(
            "curl -sS http://iris-default.localhost:{port}/v2/models/iris/infer -H 'Content-Type: application/json' -d '{{\"inputs\": []}}'\n"
        )
    );
    let nothing = run(&home, "predict iris").await;
    assert_eq!(nothing.code, 2);
}
