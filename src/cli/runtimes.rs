//! `runtimes`: what can serve models, and which runtime serves a given one.
//!
//! All of it works without a daemon: the built-in runtimes are in the binary, the user's are in the folder.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::find::{self, SERVICE};
use super::format::Format;
use super::input::{self, InputArgs, Source};
use super::output::{self, Grid};
use super::report::{Exit, Problem};
use super::serve;
use super::wanted::NamespaceArgs;
use crate::api::{InferenceServiceSpec, Object, ObjectKey};
use crate::config::{Flags, Settings};
use crate::home::Home;
use crate::manifest::{self, DecodedObject, Diagnostic, DiagnosticCode, FieldPath, Position, Severity};
use crate::runtimes::select::Nodes;
use crate::runtimes::{Catalog, Runtime, Verdict, builtin, process, select};
use crate::source::scan::{self, FoundFile};
use crate::workload::{self, CA_BUNDLE, Companions, Patterns, ResolveError, Workload, WorkloadConfig};

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

/// Returns the manifest files of a home; a folder that is not there holds none.
///
/// # Errors
/// A folder cannot be read.
pub fn folder_files(home: &Utf8Path) -> Result<Vec<FoundFile>> {
    let folders: Vec<Utf8PathBuf> =
        ["runtimes", "services"].iter().map(|name| home.join(name)).filter(|folder| folder.is_dir()).collect();
    Ok(scan::scan(&folders).map_err(|error| Problem::machine(error.to_string()).because(error.source))?)
}

/// Returns the manifests that were named, or else those of the home.
///
/// # Errors
/// A folder of the home cannot be read.
pub fn named_or_folder<'n>(home: &Utf8Path, named: impl IntoIterator<Item = &'n String>) -> Result<Vec<String>> {
    let named: Vec<String> = named.into_iter().cloned().collect();
    if !named.is_empty() {
        return Ok(named);
    }
    Ok(folder_files(home)?.into_iter().map(|file| file.path.into_string()).collect())
}

/// Returns the user's objects that can be read from the folder.
pub(super) fn folder_objects(home: &Utf8Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in folder_files(home)? {
        match scan::read(&file.path) {
            Ok(text) => {
                let decoded = manifest::decode(file.path.as_str(), &text);
                objects.extend(decoded.objects.into_iter().map(|found| found.object));
            }
            Err(error) => output::note(&format!("warning: could not read `{}`: {error}", file.path)),
        }
    }
    Ok(objects)
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

/// Adds to each source what can only be told with the runtimes and companions at hand: models that none serves,
/// references that lead nowhere, what one machine cannot do.
///
/// # Errors
/// The folder cannot be read.
pub fn resolve_all(home: &Utf8Path, sources: &mut [Source]) -> Result<()> {
    // What is validated stands for itself before what the folder holds of the same name.
    let given = sources.iter().flat_map(|source| source.decoded.objects.iter().map(|found| found.object.clone()));
    let mut objects: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for object in folder_objects(home)?.into_iter().chain(given) {
        objects.insert(object.key.clone(), object);
    }
    tell_rivals(&objects, sources);
    let catalog = Catalog::new(objects.values());
    let companions = Companions::new(objects.values());
    let settings =
        Settings::load(Home::new(home), &Flags::default(), serve::environment()).map_err(serve::bad_setting)?;
    let patterns = Patterns::of(|name| settings.environment.get(name).map(String::as_str));
    let config = WorkloadConfig {
        patterns,
        ca_bundle: settings.environment.get(CA_BUNDLE).filter(|name| !name.is_empty()).cloned(),
        allowed_host_paths: settings.allowed_host_paths,
        ..WorkloadConfig::default()
    };
    for source in sources {
        let mut found_out = Vec::new();
        for found in source.decoded.objects.iter().filter(|found| found.object.as_inference_service().is_some()) {
            let resolved = workload::resolve(&found.object, &catalog, &companions, &config);
            match resolved {
                Ok(workloads) => {
                    let warnings = workloads.into_iter().flat_map(|workload| workload.warnings);
                    found_out.extend(warnings.map(|text| warning(source, found, text)));
                }
                Err(error) => found_out.push(diagnostic(source, found, error)),
            }
            for canary in workload::resolve_canaries(&found.object, &catalog, &companions, &config) {
                match canary.workload {
                    Ok(workload) => {
                        found_out.extend(workload.warnings.into_iter().map(|text| warning(source, found, text)));
                    }
                    Err(error) => found_out.push(diagnostic(source, found, error)),
                }
            }
        }
        source.decoded.diagnostics.extend(found_out);
    }
    Ok(())
}

/// Says which of the given runtimes would be chosen as well as another: one of the folder's, built in, or given before.
fn tell_rivals(objects: &BTreeMap<ObjectKey, Object>, sources: &mut [Source]) {
    let given: BTreeSet<ObjectKey> =
        sources.iter().flat_map(|source| source.decoded.objects.iter().map(|found| found.object.key.clone())).collect();
    let built_in = builtin::FILES.iter().flat_map(|(name, text)| manifest::decode(name, text).objects);
    let built_in = built_in.map(|found| found.object).filter(|object| !objects.contains_key(&object.key));
    let folder = objects.values().filter(|object| !given.contains(&object.key)).cloned();
    let mut before: Vec<Object> = built_in.chain(folder).collect();
    for source in sources {
        let mut found_out = Vec::new();
        for found in source.decoded.objects.iter().filter(|found| found.object.as_serving_runtime().is_some()) {
            for rival in manifest::validate::rivals(&found.object, before.iter()) {
                let position = place(source, found, rival.field.as_deref());
                found_out.push(Diagnostic { file: source.name.clone(), position, ..rival });
            }
            before.push(found.object.clone());
        }
        source.decoded.diagnostics.extend(found_out);
    }
}

/// Returns what the services among some objects need pulled: `image NAME` and `model URI`, sorted.
///
/// # Errors
/// A service cannot be resolved.
pub fn pulls(home: &Utf8Path, given: &[DecodedObject]) -> Result<Vec<String>> {
    let mut pulls = BTreeSet::new();
    for workload in workloads(home, given)? {
        let containers = workload.init_containers.iter().chain(&workload.containers);
        pulls.extend(containers.map(|container| format!("image {}", container.image)));
        pulls.extend(workload.models.iter().map(|model| format!("model {}", model.uri)));
    }
    Ok(pulls.into_iter().collect())
}

/// Returns the names of the built-in runtimes that serve some of the objects.
///
/// # Errors
/// A service cannot be resolved.
pub fn built_in_used(home: &Utf8Path, given: &[DecodedObject]) -> Result<BTreeSet<String>> {
    let own: BTreeSet<&str> = given.iter().map(|found| found.object.key.name.as_str()).collect();
    let chosen = workloads(home, given)?.into_iter().filter_map(|workload| workload.runtime);
    Ok(chosen
        .filter(|chosen| chosen.cluster && !own.contains(chosen.name.as_str()))
        .map(|chosen| chosen.name)
        .collect())
}

/// Resolves the services among some objects, with the runtimes of the home beside theirs.
fn workloads(home: &Utf8Path, given: &[DecodedObject]) -> Result<Vec<Workload>> {
    let objects: Vec<Object> =
        folder_objects(home)?.into_iter().chain(given.iter().map(|d| d.object.clone())).collect();
    let (catalog, companions) = (Catalog::new(&objects), Companions::new(&objects));
    let mut workloads = Vec::new();
    for found in given.iter().filter(|found| found.object.as_inference_service().is_some()) {
        let key = &found.object.key;
        let resolved = workload::resolve(&found.object, &catalog, &companions, &WorkloadConfig::default());
        workloads.extend(resolved.map_err(|error| {
            Problem::usage(format!("{}/{} cannot be served", key.namespace, key.name)).because(error)
        })?);
        let canaries =
            workload::resolve_canaries(&found.object, &catalog, &companions, &WorkloadConfig::default()).into_iter();
        let canaries = canaries.map(|canary| {
            canary.workload.map_err(|error| {
                let what = format!("canary `{}` of {}/{}", canary.name, key.namespace, key.name);
                Problem::usage(format!("{what} cannot be served")).because(error)
            })
        });
        workloads.extend(canaries.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(workloads)
}

/// Returns where a field stands; the document's first line when it cannot be told.
fn place(source: &Source, found: &DecodedObject, field: Option<&str>) -> Option<Position> {
    let exact = field.and_then(|field| manifest::locate(&source.text, found.position, field));
    Some(exact.unwrap_or(found.position))
}

/// Something that is taken and means nothing here; its text begins with the field's path.
fn warning(source: &Source, found: &DecodedObject, text: String) -> Diagnostic {
    let (field, message) = match text.split_once(": ") {
        Some((field, message)) if !field.contains(' ') => (Some(path_of(found, field)), message.to_owned()),
        _ => (None, text),
    };
    Diagnostic {
        severity: Severity::Warning,
        code: DiagnosticCode::Ignored,
        file: source.name.clone(),
        position: place(source, found, field.as_deref()),
        field,
        object: Some(found.object.key.clone()),
        message,
        help: None,
    }
}

/// Returns the path of a field; an annotation is told by its name alone.
fn path_of(found: &DecodedObject, field: &str) -> String {
    let is_annotation = field.contains('/') && !field.contains('[');
    let places = ["metadata", "spec.predictor", "spec.transformer", "spec.explainer"];
    let paths = places.map(|place| FieldPath::parse(place).key("annotations").key(field));
    let written = paths.iter().find(|path| is_annotation && path.find(&found.object.raw).is_some());
    written.map_or_else(|| field.to_owned(), FieldPath::to_string)
}

fn diagnostic(source: &Source, found: &DecodedObject, error: ResolveError) -> Diagnostic {
    let (field, message, help) = match error {
        ResolveError::Runtime(failure) => {
            ("spec.predictor.model".to_owned(), failure.error, Some(failure.help).filter(|help| !help.is_empty()))
        }
        ResolveError::Invalid { field, message, help } => (field, message, help),
        ResolveError::NeedsContainerEngine { message, help } => ("spec".to_owned(), message, Some(help)),
    };
    Diagnostic {
        severity: Severity::Error,
        code: DiagnosticCode::Invalid,
        file: source.name.clone(),
        position: place(source, found, Some(&field)),
        field: Some(field),
        object: Some(found.object.key.clone()),
        message,
        help,
    }
}
