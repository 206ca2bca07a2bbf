//! Completions that know what there is: services, namespaces, runtimes and pods, from the daemon that runs, else from the
//! folder. The shell asks this program at every Tab (`KSERVE_LOCAL_COMPLETE`), so an answer must not take long.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use camino::Utf8PathBuf;
use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::CompleteEnv;
use serde_json::Value;

use super::client::Client;
use super::find::{SERVICE, items};
use super::verbs::Cli;
use super::wanted;
use super::{home, manifests};
use crate::api::{Kind, Object, meta};
use crate::kubeapi::resource::Resource;
use crate::runtimes::Catalog;

/// Variable by which the shell's script asks for completions.
pub(super) const VARIABLE: &str = "KSERVE_LOCAL_COMPLETE";
/// Longest wait for the daemon.
const PATIENCE: Duration = Duration::from_millis(700);
/// Kinds that are offered, as people type them.
const KINDS: [&str; 9] = [
    "isvc",
    "runtimes",
    "servingruntimes",
    "clusterservingruntimes",
    "inferencegraphs",
    "pods",
    "events",
    "secrets",
    "configmaps",
];

/// Answers and ends when it is the shell that asks.
pub(super) fn answer_if_asked() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin("kserve-local").completer("kserve-local").complete();
}

/// What was typed before the word that is completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Typed {
    home: Option<String>,
    namespace: Option<String>,
    /// Words that are no flags, without the verb.
    words: Vec<String>,
}

impl Typed {
    /// Reads the shell's words: those after the first `--` of our own command line, without the program.
    fn read(arguments: impl IntoIterator<Item = String>, current: &str) -> Self {
        let mut words = arguments.into_iter().skip_while(|word| word != "--").skip(2);
        let mut typed = Self::default();
        while let Some(word) = words.next() {
            let (flag, joined) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (word.clone(), None),
            };
            match flag.as_str() {
                "--home" => typed.home = joined.or_else(|| words.next()),
                "-n" | "--namespace" => typed.namespace = joined.or_else(|| words.next()),
                flag if flag.starts_with('-') => {}
                _ => typed.words.push(word),
            }
        }
        if typed.words.last().is_some_and(|last| last == current) {
            typed.words.pop();
        }
        if !typed.words.is_empty() {
            typed.words.remove(0);
        }
        typed
    }

    fn now(current: &OsStr) -> Self {
        Self::read(std::env::args_os().map(|word| word.to_string_lossy().into_owned()), &current.to_string_lossy())
    }

    fn home(&self) -> Utf8PathBuf {
        home::home(self.home.as_ref().map(PathBuf::from))
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(meta::DEFAULT_NAMESPACE)
    }
}

fn candidates(names: impl IntoIterator<Item = String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let mut names: Vec<String> = names.into_iter().filter(|name| name.starts_with(current.as_ref())).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Names of InferenceServices.
pub(super) fn service(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = Typed::now(current);
    candidates(names(&typed, SERVICE), current)
}

/// Namespaces there are.
pub(super) fn namespace(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = Typed::now(current);
    candidates(names(&typed, Resource::Object(Kind::Namespace)), current)
}

/// `KIND`, then names of that kind; or `KIND/NAME`.
pub(super) fn object(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = Typed::now(current);
    candidates(objects(&typed, &current.to_string_lossy(), |resource| names(&typed, resource)), current)
}

/// As [`object`], and names of InferenceServices at once.
pub(super) fn described(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = Typed::now(current);
    let mut all = objects(&typed, &current.to_string_lossy(), |resource| names(&typed, resource));
    if typed.words.is_empty() && !current.to_string_lossy().contains('/') {
        all.extend(names(&typed, SERVICE));
    }
    candidates(all, current)
}

/// `KIND/NAME` of what events may be about.
pub(super) fn about(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = Typed { words: Vec::new(), ..Typed::now(current) };
    let text = current.to_string_lossy();
    let all = match text.contains('/') {
        true => objects(&typed, &text, |resource| names(&typed, resource)),
        false => names(&typed, SERVICE).into_iter().map(|name| format!("isvc/{name}")).collect(),
    };
    candidates(all, current)
}

fn objects(typed: &Typed, current: &str, names: impl Fn(Resource) -> Vec<String>) -> Vec<String> {
    let of = |word: &str| wanted::kinds(word).unwrap_or_default().into_iter().flat_map(&names).collect::<Vec<_>>();
    match (typed.words.split_first(), current.split_once('/')) {
        (_, Some((kind, _))) => of(kind).into_iter().map(|name| format!("{kind}/{name}")).collect(),
        (None, None) => KINDS.map(str::to_owned).to_vec(),
        (Some((first, _)), None) if first.contains('/') => {
            let kind = first.split('/').next().unwrap_or_default();
            of(kind).into_iter().map(|name| format!("{kind}/{name}")).collect()
        }
        (Some((first, rest)), None) => {
            let all = first.split(',').flat_map(of);
            all.filter(|name| !rest.contains(name)).collect()
        }
    }
}

/// Asks the daemon, else the folder.
fn names(typed: &Typed, resource: Resource) -> Vec<String> {
    asked(typed, resource).unwrap_or_else(|| in_folder(typed, resource))
}

fn asked(typed: &Typed, resource: Resource) -> Option<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let client = Client::find(&typed.home()).ok()?;
    let path = resource.path(resource.is_namespaced().then_some(typed.namespace()));
    let list = runtime.block_on(async { tokio::time::timeout(PATIENCE, client.get(&path)).await.ok()?.ok() })?;
    let name = |item: &&Value| item["metadata"]["name"].as_str().map(str::to_owned);
    Some(items(&list).iter().filter_map(name).collect())
}

fn in_folder(typed: &Typed, resource: Resource) -> Vec<String> {
    let objects: Vec<Object> = manifests::folder_objects(&typed.home()).unwrap_or_default();
    let own = |object: &&Object| object.key.namespace.is_empty() || object.key.namespace == typed.namespace();
    match resource {
        Resource::Object(Kind::Namespace) => {
            let all = objects.iter().map(|object| object.key.namespace.clone()).filter(|name| !name.is_empty());
            all.chain([meta::DEFAULT_NAMESPACE.to_owned()]).collect()
        }
        Resource::Object(Kind::ClusterServingRuntime) => {
            let catalog = Catalog::new(&objects);
            let all = catalog.runtimes.iter().filter(|runtime| runtime.namespace.is_none());
            all.map(|runtime| runtime.name.clone()).collect()
        }
        Resource::Object(kind) => objects
            .iter()
            .filter(own)
            .filter(|object| object.key.kind == kind)
            .map(|object| object.key.name.clone())
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str, current: &str) -> Typed {
        let words = ["kserve-local", "--"].into_iter().chain(line.split_whitespace()).map(str::to_owned);
        Typed::read(words, current)
    }

    #[test]
    fn what_was_typed_before_is_known() {
        let read = typed("kserve-local --home /h get -n team isvc ir", "ir");
        let wanted =
            Typed { home: Some("/h".to_owned()), namespace: Some("team".to_owned()), words: vec!["isvc".to_owned()] };
        assert_eq!(read, wanted);
        assert_eq!(
            typed("kserve-local get --namespace=team", ""),
            Typed { namespace: Some("team".to_owned()), ..Typed::default() }
        );
    }

    #[test]
    fn kinds_come_first_and_then_names_of_that_kind() {
        let names = |resource: Resource| match resource {
            SERVICE => vec!["iris".to_owned(), "llama".to_owned()],
            _ => vec!["other".to_owned()],
        };
        let complete = |line: &str, current: &str| objects(&typed(line, current), current, names);
        assert!(complete("kserve-local get", "").contains(&"isvc".to_owned()));
        assert_eq!(complete("kserve-local get isvc", ""), ["iris", "llama"]);
        assert_eq!(complete("kserve-local get isvc iris", ""), ["llama"], "not twice");
        assert_eq!(complete("kserve-local describe isvc/ir", "isvc/ir"), ["isvc/iris", "isvc/llama"]);
        assert_eq!(complete("kserve-local get nonsense", ""), [""; 0]);
    }
}
