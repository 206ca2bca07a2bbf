//! `runtimes`: what can serve models, and which runtime serves a given one.
//!
//! All of it works without a daemon: the built-in runtimes are in the binary, the user's are in the folder.

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::find::{self, SERVICE};
use super::format::Format;
use super::input::{self, InputArgs};
use super::manifests::folder_objects;
use super::output::{self, Grid};
use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use crate::api::{InferenceServiceSpec, Object};
use crate::manifest;
use crate::runtimes::select::Nodes;
use crate::runtimes::{Catalog, Runtime, Verdict, process, select};

/// List serving runtimes, or explain which one serves a model.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RuntimesArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub command: Option<RuntimesCommand>,
    /// wide, yaml, json or name
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// What to do with runtimes.
#[derive(Clone, Debug, Subcommand)]
#[expect(missing_docs, reason = "the help of a verb is the documentation of its arguments")]
pub enum RuntimesCommand {
    List(ListArgs),
    Explain(ExplainArgs),
}

/// List the runtimes there are.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// wide, yaml, json or name
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Explain which runtime serves a model, and why each other one lost.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Name of a deployed InferenceService
    pub name: Option<String>,
    /// Manifests that need not be deployed.
    #[command(flatten)]
    pub input: InputArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Runs the verb.
///
/// # Errors
/// The folder or a manifest cannot be read, or there is no such service.
pub async fn run(home: &Utf8Path, args: RuntimesArgs) -> Result<Exit> {
    match args.command {
        None => list(home, &args.output),
        Some(RuntimesCommand::List(list_args)) => list(home, &list_args.output),
        Some(RuntimesCommand::Explain(args)) => explain(home, &args).await,
    }
}

fn list(home: &Utf8Path, format: &Format) -> Result<Exit> {
    let objects = folder_objects(home)?;
    let mut catalog = Catalog::new(&objects);
    catalog.runtimes.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let text = if format.is_table() {
        let mut grid = Grid::new(heads(*format == Format::Wide));
        catalog.runtimes.iter().for_each(|runtime| grid.row(cells(runtime, *format == Format::Wide)));
        grid.take_text()
    } else {
        let items: Vec<Value> = catalog.runtimes.iter().map(document).collect();
        format.render(&super::format::list_of(items))?
    };
    output::print(&text)?;
    Ok(Exit::Done)
}

fn heads(wide: bool) -> Vec<&'static str> {
    let mut heads = vec!["Name", "Scope", "Disabled", "Formats", "Protocols", "From"];
    if wide {
        heads.push("Image");
    }
    heads
}

fn cells(runtime: &Runtime, wide: bool) -> Vec<String> {
    let mut formats: Vec<&str> =
        runtime.spec.supported_model_formats.iter().map(|format| format.name.as_str()).collect();
    formats.dedup();
    let mut cells = vec![
        runtime.name.clone(),
        runtime.namespace.clone().unwrap_or_else(|| "cluster".to_owned()),
        runtime.spec.is_disabled().to_string(),
        formats.join(","),
        runtime.spec.protocol_versions.join(","),
        if runtime.built_in { "built-in" } else { "folder" }.to_owned(),
    ];
    if wide {
        let image = runtime.spec.containers.first().and_then(|container| container.image.clone());
        cells.push(image.unwrap_or_default());
    }
    cells
}

fn document(runtime: &Runtime) -> Value {
    let kind = if runtime.namespace.is_some() { "ServingRuntime" } else { "ClusterServingRuntime" };
    let mut metadata = json!({"name": runtime.name, "annotations": runtime.annotations});
    if let Some(namespace) = &runtime.namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": *runtime.spec,
    })
}

async fn explain(home: &Utf8Path, args: &ExplainArgs) -> Result<Exit> {
    let (services, others, mut exit) = services(home, args).await?;
    let mut objects = folder_objects(home)?;
    objects.extend(others);
    let catalog = Catalog::new(&objects);
    let explanations: Vec<Explanation> = services.iter().map(|service| explanation(service, &catalog)).collect();
    if explanations.iter().any(|explanation| explanation.error.is_some()) {
        exit = exit.max(Exit::NotSo);
    }
    if args.output.is_table() {
        let texts: Vec<String> = explanations.iter().map(Explanation::text).collect();
        output::print(&texts.join("\n"))?;
    } else {
        let items: Vec<Value> = explanations.iter().map(Explanation::document).collect();
        output::print(&args.output.render(&json!({ "items": items }))?)?;
    }
    Ok(exit)
}

/// Returns the services to explain, and the other objects that came with them.
async fn services(home: &Utf8Path, args: &ExplainArgs) -> Result<(Vec<Object>, Vec<Object>, Exit)> {
    let is_service = |object: &Object| object.as_inference_service().is_some();
    if args.input.filename.is_empty() {
        let Some(name) = &args.name else {
            return Err(Problem::usage("which service?").hint("name a deployed one, or a manifest with -f").into());
        };
        let client = Client::find(home)?;
        let object = find::get(&client, SERVICE, &args.namespace.namespace, name).await?;
        let services = manifest::decode_value(&object).objects.into_iter().map(|found| found.object);
        return Ok((services.collect(), Vec::new(), Exit::Done));
    }
    let sources = input::read(&args.input.filename, args.input.recursive).await?;
    let exit = if input::tell_problems(&sources) { Exit::Usage } else { Exit::Done };
    let objects = input::objects(&sources, None)?.into_iter().map(|found| found.object);
    let (services, others): (Vec<_>, Vec<_>) = objects.partition(is_service);
    if services.is_empty() && exit == Exit::Done {
        return Err(Problem::usage("no InferenceService in what was given").into());
    }
    Ok((services, others, exit))
}

/// What was found out about one service.
struct Explanation {
    service: String,
    model: String,
    winner: Option<String>,
    verdicts: Vec<Verdict>,
    error: Option<String>,
    help: Option<String>,
    /// What happens without a container engine.
    process: Option<String>,
}

/// Says what becomes of a chosen runtime without a container engine.
fn without_engine(runtime: &Runtime, format: &str, namespace: &str, catalog: &Catalog) -> String {
    let name = &runtime.name;
    match process::recipe(runtime) {
        Ok(Some(_)) => format!("{name} runs as a process where there is no container engine"),
        Err(error) => format!("{name} needs a container engine: {error}"),
        Ok(None) => match process::runtimes_with_recipe(catalog, namespace, format).as_slice() {
            [] => format!("{name} needs a container engine"),
            others => format!("{name} needs a container engine; without one name another: {}", others.join(", ")),
        },
    }
}

fn explanation(service: &Object, catalog: &Catalog) -> Explanation {
    let name = format!("{}/{}", service.key.namespace, service.key.name);
    let spec = service.as_inference_service();
    let Some(model) = spec.and_then(|spec| spec.predictor.model.as_deref()) else {
        let why = "a custom container: no runtime is chosen".to_owned();
        let process = Some("it needs a container engine".to_owned());
        return Explanation {
            service: name,
            model: why,
            winner: None,
            verdicts: vec![],
            error: None,
            help: None,
            process,
        };
    };
    let protocol = model.protocol_version.as_deref().unwrap_or("v1");
    let runtime = model.runtime.as_deref().map(|name| format!(", runtime {name}")).unwrap_or_default();
    let asked = format!("format {}, protocol {protocol}{runtime}", model.model_format);
    match select(model, &service.key.namespace, nodes(spec), catalog) {
        Ok(choice) => Explanation {
            service: name,
            model: asked,
            winner: Some(choice.runtime.name.clone()),
            process: Some(without_engine(choice.runtime, &model.model_format.name, &service.key.namespace, catalog)),
            verdicts: choice.verdicts,
            error: None,
            help: None,
        },
        Err(failure) => Explanation {
            service: name,
            model: asked,
            winner: None,
            verdicts: failure.verdicts,
            error: Some(format!("{}: {}", failure.reason.as_str(), failure.error)),
            help: Some(failure.help),
            process: None,
        },
    }
}

fn nodes(spec: Option<&InferenceServiceSpec>) -> Nodes {
    match spec.and_then(|spec| spec.predictor.worker_spec.as_ref()) {
        Some(_) => Nodes::Multi,
        None => Nodes::Single,
    }
}

impl Explanation {
    fn text(&self) -> String {
        let mut lines = vec![format!("{}: {}", self.service, self.model)];
        lines.extend(self.error.as_ref().map(|error| format!("no runtime: {error}")));
        lines.extend(self.help.as_ref().filter(|help| !help.is_empty()).map(|help| format!("hint: {help}")));
        let mut grid = Grid::new(["Runtime", "Scope", "Verdict"]);
        if let Some(winner) = &self.winner
            && !self.verdicts.iter().any(|verdict| verdict.why_not.is_none())
        {
            grid.row([winner.clone(), String::new(), "chosen".to_owned()]);
        }
        for verdict in &self.verdicts {
            let scope = verdict.namespace.clone().unwrap_or_else(|| "cluster".to_owned());
            let why = verdict.why_not.clone().unwrap_or_else(|| "chosen".to_owned());
            grid.row([verdict.runtime.clone(), scope, why]);
        }
        let process = self.process.as_ref().map(|words| format!("{words}\n")).unwrap_or_default();
        lines.join("\n") + "\n" + &grid.take_text() + &process
    }

    fn document(&self) -> Value {
        let verdict = |verdict: &Verdict| {
            json!({
                "runtime": verdict.runtime, "namespace": verdict.namespace,
                "chosen": verdict.why_not.is_none(), "reason": verdict.why_not,
            })
        };
        json!({
            "service": self.service, "model": self.model, "runtime": self.winner, "error": self.error,
            "help": self.help, "withoutContainerEngine": self.process, "candidates": self.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        })
    }
}
