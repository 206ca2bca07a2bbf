//! `apply`: manifests to the daemon, or into the folder when none runs.

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::find::path_of;
use super::folder::{self, Folder, Place};
use super::format::{Format, qualified_name};
use super::input::{self, InputArgs};
use super::output;
use super::report::{Exit, Problem, exit_of};
use crate::api::{Kind, Object};
use crate::kubeapi::resource::Resource;

/// Create or change objects from manifests.
///
/// The objects become files in the folder, which is what the daemon serves. Without a daemon the files are written all
/// the same and served at its next start.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// Where the manifests come from.
    #[command(flatten)]
    pub input: InputArgs,
    /// Namespace of objects that name none; must agree with those that do
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Check and say what would be done, without doing it
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "client")]
    pub dry_run: DryRun,
    /// Print the objects as yaml, json or name
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Whether and where a write is only tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// It is real
    #[default]
    None,
    /// Checked here
    Client,
    /// Checked by the daemon
    Server,
}

impl DryRun {
    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }

    fn query(self) -> &'static str {
        match self {
            Self::Server => "?fieldValidation=Strict&dryRun=All",
            _ => "?fieldValidation=Strict",
        }
    }
}

/// What became of an object.
struct Applied {
    verb: &'static str,
    object: Value,
}

/// Runs the verb.
///
/// # Errors
/// Nothing could be applied at all; what goes wrong with single objects is said, and decides the exit code.
pub async fn run(home: &Utf8Path, args: ApplyArgs) -> Result<Exit> {
    if args.input.filename.is_empty() {
        return Err(Problem::usage("which manifests?").hint("name them with -f FILE, -f DIR, -f URL or -f -").into());
    }
    let sources = input::read(&args.input.filename, args.input.recursive).await?;
    let mut exit = if input::tell_problems(&sources) { Exit::Usage } else { Exit::Done };
    let objects = input::objects(&sources, args.namespace.as_deref())?;
    if objects.is_empty() && exit == Exit::Done {
        return Err(Problem::usage("no objects in what was given").into());
    }
    let place = folder::place(home).await?;
    for decoded in &objects {
        match apply(&place, &decoded.object, args.dry_run).await {
            Ok(applied) => tell(&applied, &args)?,
            Err(error) => {
                let name = qualified_name(&decoded.object.raw);
                output::note(&format!("error: {name}: {}", super::report::chain(error.as_ref())));
                exit = exit.max(exit_of(&error));
            }
        }
    }
    if matches!(place, Place::Folder(_)) && args.dry_run == DryRun::None && !objects.is_empty() {
        folder::tell_not_running(home);
    }
    Ok(exit)
}

fn tell(applied: &Applied, args: &ApplyArgs) -> Result<()> {
    if args.output.is_table() {
        let name = qualified_name(&applied.object);
        output::line(&format!("{name} {}{}", applied.verb, args.dry_run.suffix()))
    } else {
        output::print(&args.output.render(&applied.object)?)
    }
}

async fn apply(place: &Place, object: &Object, dry_run: DryRun) -> Result<Applied> {
    match place {
        Place::Daemon(client) => Ok(to_daemon(client, object, dry_run).await?),
        Place::Folder(folder) => to_folder(folder, object, dry_run).await,
    }
}

async fn to_daemon(client: &Client, object: &Object, dry_run: DryRun) -> Result<Applied, ClientError> {
    let resource = Resource::Object(object.key.kind);
    let path = path_of(resource, &object.key.namespace, &object.key.name);
    let before = match client.get(&path).await {
        Ok(before) => Some(before),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    if dry_run == DryRun::Client {
        let verb = if before.is_some() { "configured" } else { "created" };
        return Ok(Applied { verb, object: Value::clone(&object.raw) });
    }
    let Some(before) = before else {
        if dry_run == DryRun::None {
            ensure_namespace(client, object).await?;
        }
        let answer = client.apply(&format!("{path}{}", dry_run.query()), &object.raw).await?;
        return Ok(Applied { verb: "created", object: answer.value });
    };
    // What other writers added stays; what an earlier manifest asked for and this one does not goes.
    let answer = client.apply(&format!("{path}{}", dry_run.query()), &object.raw).await?;
    let verb = if is_same(&before, &answer.value) { "unchanged" } else { "configured" };
    Ok(Applied { verb, object: answer.value })
}

/// Makes the namespace of an object that is new, when it is not there: a folder needs none to be made first.
async fn ensure_namespace(client: &Client, object: &Object) -> Result<(), ClientError> {
    let namespace = &object.key.namespace;
    if !object.key.kind.is_namespaced() {
        return Ok(());
    }
    let path = path_of(Resource::Object(Kind::Namespace), "", namespace);
    match client.get(&path).await {
        Err(error) if error.is_not_found() => {}
        outcome => return outcome.map(drop),
    }
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    client.apply(&path, &made).await?;
    output::note(&format!("namespace/{namespace} created: it was not there"));
    Ok(())
}

/// Whether nothing changed but who says so.
fn is_same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        object
    };
    bare(before) == bare(after)
}

async fn to_folder(folder: &Folder, object: &Object, dry_run: DryRun) -> Result<Applied> {
    let before = folder.store.snapshot().get(&object.key).cloned();
    let same = before.as_ref().is_some_and(|stored| stored.object.raw == object.raw);
    let verb = match (&before, same) {
        (None, _) => "created",
        (Some(_), true) => "unchanged",
        (Some(_), false) => "configured",
    };
    if dry_run == DryRun::None && !same {
        let stored = folder.loader.put(&object.raw).await.map_err(folder::refused)?;
        return Ok(Applied { verb, object: stored.to_value() });
    }
    Ok(Applied { verb, object: Value::clone(&object.raw) })
}
