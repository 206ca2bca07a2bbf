//! `kubeconfig`: how `kubectl` and SDKs find the daemon.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use directories::UserDirs;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::client::Client;
use super::home::quoted;
use super::output;
use super::report::{Exit, Problem};
use crate::api::meta;
use crate::home::{Home, write_atomically};
use crate::kubeapi::tls;
use crate::manifest::yaml;

/// Print a kubeconfig for kubectl and SDKs, or merge it into yours.
///
/// It holds the API's token: keep it to yourself. Merging changes only the entries of this name; the current context
/// stays what it is, unless there is none.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// Merge into the first file of $KUBECONFIG, else ~/.kube/config, instead of printing
    #[arg(long)]
    pub merge: bool,
    /// Name of the cluster, user and context
    #[arg(long, value_name = "NAME", default_value = "kserve-local")]
    pub name: String,
    /// Namespace of the context
    #[arg(long, short, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
}

/// Runs the verb.
///
/// # Errors
/// No daemon runs on this home, or a file cannot be read or written.
pub fn run(home: &Utf8Path, args: &KubeconfigArgs) -> Result<Exit> {
    let own = own(home, args)?;
    if !args.merge {
        output::print(&yaml::to_yaml(&own))?;
        return Ok(Exit::Done);
    }
    let path = usual_file().context("there is no home folder to keep a kubeconfig in")?;
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => yaml::from_yaml::<Value>(&text).map_err(|error| {
            Problem::usage(format!("`{path}` is not a kubeconfig; nothing was changed: {}", error.message))
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error).with_context(|| format!("could not read `{path}`")),
    };
    let merged = merge(before, &own)
        .ok_or_else(|| Problem::usage(format!("`{path}` is not a kubeconfig; nothing was changed")))?;
    // A symlink stays one: what it points to is replaced.
    let target = path.canonicalize_utf8().unwrap_or_else(|_| path.clone());
    write_atomically(&target, yaml::to_yaml(&merged).as_bytes(), 0o600)
        .with_context(|| format!("could not write `{path}`"))?;
    output::line(&format!("context \"{}\" written to {path}", args.name))?;
    if merged["current-context"] != args.name.as_str() {
        output::note(&format!("use it with: kubectl config use-context {}", quoted(&args.name)));
    }
    Ok(Exit::Done)
}

/// Writes a kubeconfig of a home into that home, and returns its path.
///
/// # Errors
/// No daemon runs on this home, or the file cannot be written.
pub(super) fn write(home: &Utf8Path) -> Result<Utf8PathBuf> {
    let args =
        KubeconfigArgs { merge: false, name: "kserve-local".to_owned(), namespace: meta::DEFAULT_NAMESPACE.to_owned() };
    let path = home.join("kubeconfig");
    write_atomically(&path, yaml::to_yaml(&own(home, &args)?).as_bytes(), 0o600)?;
    Ok(path)
}

fn own(home: &Utf8Path, args: &KubeconfigArgs) -> Result<Value> {
    let client = Client::find(home)?;
    let path = Home::new(home).tls();
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read `{path}`"))?;
    let authority = tls::authority(&text).with_context(|| format!("`{path}` holds no certificate"))?;
    let authority = serde_json::to_value(ByteString(format!("{authority}\n").into_bytes()))?;
    let server = format!("https://{}", reachable(&client.addresses.api));
    let name = &args.name;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": client.token()}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": args.namespace}}],
        "current-context": name,
    }))
}

/// Returns an address that can be connected to: one that listens everywhere is reached on loopback.
fn reachable(address: &str) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(parsed) if parsed.ip().is_unspecified() => format!("127.0.0.1:{}", parsed.port()),
        _ => address.to_owned(),
    }
}

/// Returns the file kubectl writes to.
fn usual_file() -> Option<Utf8PathBuf> {
    let named = std::env::var("KUBECONFIG").unwrap_or_default();
    let first = named.split(':').find(|path| !path.is_empty()).map(Utf8PathBuf::from);
    first.or_else(|| Utf8PathBuf::from_path_buf(UserDirs::new()?.home_dir().join(".kube/config")).ok())
}

/// Puts our entries among those that are there; `None` when what is there is no kubeconfig.
fn merge(before: Value, own: &Value) -> Option<Value> {
    let mut merged = if before.is_null() { json!({"apiVersion": "v1", "kind": "Config"}) } else { before };
    let root = merged.as_object_mut()?;
    for section in ["clusters", "users", "contexts"] {
        let list = root.entry(section).or_insert(Value::Null);
        if list.is_null() {
            *list = json!([]);
        }
        let list = list.as_array_mut()?;
        for entry in own[section].as_array()? {
            match list.iter_mut().find(|known| known["name"] == entry["name"]) {
                Some(known) => known.clone_from(entry),
                None => list.push(entry.clone()),
            }
        }
    }
    let current = root.entry("current-context").or_insert(Value::Null);
    if current.as_str().unwrap_or_default().is_empty() {
        current.clone_from(&own["current-context"]);
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Value {
        json!({
            "clusters": [{"name": "k", "cluster": {"server": "new"}}],
            "users": [{"name": "k"}], "contexts": [{"name": "k"}], "current-context": "k",
        })
    }

    #[test]
    fn other_entries_and_the_current_context_stay() {
        let before = json!({
            "clusters": [{"name": "a"}, {"name": "k", "cluster": {"server": "old"}}],
            "users": null, "current-context": "a", "preferences": {"colors": true},
        });
        let merged = merge(before, &own()).unwrap();
        assert_eq!(merged["clusters"], json!([{"name": "a"}, {"name": "k", "cluster": {"server": "new"}}]));
        assert_eq!((&merged["users"], &merged["current-context"]), (&json!([{"name": "k"}]), &json!("a")));
        assert_eq!(merged["preferences"], json!({"colors": true}));
    }

    #[test]
    fn an_empty_file_becomes_a_kubeconfig_and_anything_else_is_left_alone() {
        assert_eq!(merge(Value::Null, &own()).unwrap()["current-context"], "k");
        assert_eq!(merge(json!([1]), &own()), None);
        assert_eq!(merge(json!({"users": "x"}), &own()), None);
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:8090"), "127.0.0.1:8090");
        assert_eq!(reachable("127.0.0.1:8090"), "127.0.0.1:8090");
    }
}
