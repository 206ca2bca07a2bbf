//! `delete`: by manifest or by name.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use reqwest::Method;

use super::client::Client;
use super::complete;
use super::find::{escaped, items, not_found, path_of};
use super::folder::{self, Folder, Place};
use super::input::{self, InputArgs};
use super::output;
use super::report::{Exit, Problem, exit_of};
use super::wanted::Wanted;
use crate::api::{ObjectKey, meta};
use crate::kubeapi::resource::Resource;

/// Delete objects.
///
/// Their documents leave the folder; requests under way are finished, then the containers are removed.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// KIND NAME…, or KIND/NAME…
    #[arg(value_name = "KIND", add = ArgValueCompleter::new(complete::object))]
    pub objects: Vec<String>,
    /// What to delete, as manifests.
    #[command(flatten)]
    pub input: InputArgs,
    /// Namespace
    #[arg(short, long, value_name = "NAME", add = ArgValueCompleter::new(complete::namespace))]
    pub namespace: Option<String>,
    /// Every object of the kind in the namespace
    #[arg(long)]
    pub all: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Not finding an object is no failure
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// Runs the verb.
///
/// # Errors
/// Nothing could be deleted at all; what goes wrong with single objects is said, and decides the exit code.
pub async fn run(home: &Utf8Path, args: DeleteArgs) -> Result<Exit> {
    let named = named(&args).await?;
    let place = folder::place(home).await?;
    let keys = match named {
        Some(keys) => keys,
        None => everything(&place, &args).await?,
    };
    if keys.is_empty() {
        output::note("No resources found");
    }
    let mut exit = Exit::Done;
    for key in &keys {
        match delete(&place, key).await {
            Ok(()) => {
                let kind = Resource::Object(key.kind).qualified_singular();
                output::line(&format!("{kind} \"{}\" deleted", key.name))?;
            }
            Err(error) if args.ignore_not_found && exit_of(&error) == Exit::NotSo => {}
            Err(error) => {
                exit = exit.max(exit_of(&error));
                super::report::report(&error);
            }
        }
    }
    if matches!(place, Place::Folder(_)) && !keys.is_empty() {
        folder::tell_not_running(home);
    }
    Ok(exit)
}

/// Returns the objects that are named one by one; none when a kind stands for all of its objects.
async fn named(args: &DeleteArgs) -> Result<Option<Vec<ObjectKey>>> {
    if !args.input.filename.is_empty() {
        let sources = input::read(&args.input.filename, args.input.recursive).await?;
        input::tell_problems(&sources);
        let objects = input::objects(&sources, args.namespace.as_deref())?;
        // What refers to others goes first.
        return Ok(Some(objects.into_iter().rev().map(|decoded| decoded.object.key).collect()));
    }
    match Wanted::parse(&args.objects)? {
        Wanted::Named(objects) => {
            let keys: Result<Vec<_>> = objects.iter().map(|(resource, name)| key(*resource, name, args)).collect();
            keys.map(Some)
        }
        Wanted::All(_) if args.all || args.selector.is_some() => Ok(None),
        Wanted::All(_) => Err(Problem::usage("which objects?")
            .hint("name them, or say --all for every one in the namespace, or -l for those with a label")
            .into()),
    }
}

fn key(resource: Resource, name: &str, args: &DeleteArgs) -> Result<ObjectKey> {
    let Resource::Object(kind) = resource else {
        return Err(Problem::usage(format!("{} cannot be deleted", resource.plural()))
            .hint("pods follow from InferenceServices; delete or change those")
            .into());
    };
    let namespace = args.namespace.as_deref().unwrap_or(meta::DEFAULT_NAMESPACE);
    let namespace = if kind.is_namespaced() { namespace.to_owned() } else { String::new() };
    Ok(ObjectKey { kind, namespace, name: name.to_owned() })
}

async fn everything(place: &Place, args: &DeleteArgs) -> Result<Vec<ObjectKey>> {
    let Place::Daemon(client) = place else {
        return Err(Problem::machine("--all and -l need a running daemon").hint("name the objects one by one").into());
    };
    let Wanted::All(resources) = Wanted::parse(&args.objects)? else { return Ok(Vec::new()) };
    let namespace = args.namespace.as_deref().unwrap_or(meta::DEFAULT_NAMESPACE);
    let mut keys = Vec::new();
    for resource in resources {
        let mut path = resource.path(Some(namespace));
        if let Some(selector) = &args.selector {
            path = format!("{path}?labelSelector={}", escaped(selector));
        }
        let list = client.get(&path).await?;
        for item in items(&list) {
            keys.push(key(resource, item["metadata"]["name"].as_str().unwrap_or_default(), args)?);
        }
    }
    Ok(keys)
}

async fn delete(place: &Place, key: &ObjectKey) -> Result<()> {
    match place {
        Place::Daemon(client) => from_daemon(client, key).await,
        Place::Folder(folder) => from_folder(folder, key).await,
    }
}

async fn from_daemon(client: &Client, key: &ObjectKey) -> Result<()> {
    let resource = Resource::Object(key.kind);
    match client.call(Method::DELETE, &path_of(resource, &key.namespace, &key.name), None).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            Err(not_found(client, resource, &key.namespace, &key.name, error).await.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn from_folder(folder: &Folder, key: &ObjectKey) -> Result<()> {
    folder.loader.delete(key).await.map(drop).map_err(|error| folder::refused(error).into())
}
