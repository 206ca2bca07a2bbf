//! A container as a process of this machine, by the recipe of its runtime.
//!
//! Runs only when the engine runs processes. Selection is not touched by it: a runtime without a recipe is chosen as on a
//! cluster, and then refused with the runtimes that have one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use super::resolve::Scope;
use super::{ContainerSpec, PortSetting, ProcessSpec, Program, PullPolicy, PythonEnvironment, ResolveError, names};
use crate::api::meta::{KSERVE_CONTAINER, PROCESS_RECIPE};
use crate::api::{ComponentKind, ModelSpec};
use crate::runtimes::process::{self as recipes, Recipe};
use crate::runtimes::{Catalog, Runtime};

/// What becomes of a serving container that runs as a process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    spec: ProcessSpec,
    command: Option<Vec<String>>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

/// Returns how a runtime's serving container runs as a process.
pub(super) fn of(
    runtime: &Runtime,
    model: &ModelSpec,
    serving: &Container,
    scope: &Scope<'_>,
) -> Result<Process, ResolveError> {
    let recipe = recipes::recipe(runtime).map_err(|error| {
        ResolveError::invalid(
            format!("{} metadata.annotations[{PROCESS_RECIPE}]", runtime.describe()),
            error.to_string(),
        )
    })?;
    let format = &model.model_format.name;
    let recipe = recipe.ok_or_else(|| no_recipe(runtime, format, scope.catalog, &scope.key.namespace))?;
    let own = runtime.spec.containers.iter().find(|container| container.name == KSERVE_CONTAINER);
    let is_overridden = own.is_none_or(|own| own.command != serving.command);
    Ok(Process {
        spec: ProcessSpec {
            recipe: runtime.name.clone(),
            program: program(&recipe, format),
            ports: recipe.ports.iter().map(port).collect(),
        },
        // A command in the manifest is the user's word and stays.
        command: (!is_overridden).then(|| command(&recipe)).filter(|command| !command.is_empty()),
        args: recipe.args,
        env: recipe.env,
    })
}

/// Turns the serving container into a process; every other container needs a container engine.
pub(super) fn apply(
    process: Option<&Process>,
    kind: ComponentKind,
    containers: &mut [ContainerSpec],
    init_containers: &[ContainerSpec],
) -> Result<(), ResolveError> {
    let Some(process) = process else {
        let message = format!("the {kind} is a container of its own and needs a container engine");
        return Err(match kind {
            ComponentKind::Transformer => {
                ResolveError::NeedsContainerEngine { message, help: WITHOUT_IMAGE.to_owned() }
            }
            _ => needs_engine(message),
        });
    };
    if let Some(other) = init_containers.iter().chain(containers.iter().skip(1)).next() {
        return Err(needs_engine(format!(
            "container `{}` of the {kind} needs a container engine; without one only `{KSERVE_CONTAINER}` runs",
            other.name
        )));
    }
    if let Some(spec) = containers.first_mut() {
        process.put_on(spec);
    }
    Ok(())
}

impl Process {
    fn put_on(&self, spec: &mut ContainerSpec) {
        if let Some(command) = &self.command {
            spec.command.clone_from(command);
        }
        spec.args.splice(0..0, self.args.iter().cloned());
        for (name, value) in &self.env {
            if !spec.env.iter().any(|(own, _)| own == name) {
                spec.env.push((name.clone(), value.clone()));
            }
        }
        let essence = json!(self.spec).to_string();
        let digest = recipes::digest([essence.as_str()]);
        spec.image = format!("{}{}@{}", names::PROCESS_IMAGE_PREFIX, self.spec.recipe, &digest[..8]);
        spec.pull_policy = PullPolicy::IfNotPresent;
        spec.process = Some(self.spec.clone());
    }
}

fn program(recipe: &Recipe, format: &str) -> Program {
    match (&recipe.python, &recipe.executable) {
        (Some(python), _) => {
            let named = |name: &str, texts: Vec<&str>| (name.to_owned(), recipes::digest(texts));
            let lock = recipe.requirements_for(format);
            let module = recipe.module.as_deref().and_then(|name| Some((name, recipes::module(name)?)));
            Program::Python(PythonEnvironment {
                python: python.clone(),
                lock: lock.and_then(|name| Some(named(name, vec![recipes::lock(name)?]))),
                packages: recipe.packages.clone(),
                module: module
                    .map(|(name, files)| named(name, files.iter().flat_map(|(file, text)| [*file, *text]).collect())),
            })
        }
        (None, executable) => Program::Executable {
            name: executable.clone().unwrap_or_default(),
            hint: recipe.hint.clone().unwrap_or_default(),
        },
    }
}

fn command(recipe: &Recipe) -> Vec<String> {
    if recipe.command.is_empty() { recipe.executable.iter().cloned().collect() } else { recipe.command.clone() }
}

fn port(port: &recipes::RecipePort) -> PortSetting {
    PortSetting { port: port.port, arg: port.arg.clone(), env: port.env.clone() }
}

fn no_recipe(runtime: &Runtime, format: &str, catalog: &Catalog, namespace: &str) -> ResolveError {
    let able = recipes::runtimes_with_recipe(catalog, namespace, format);
    let others = if able.is_empty() {
        format!("no runtime for `{format}` runs without one")
    } else {
        format!("runtimes for `{format}` that run without one: {}", able.join(", "))
    };
    ResolveError::NeedsContainerEngine {
        message: format!(
            "runtime `{}` was chosen and needs a container engine, because it has no recipe for running as a process",
            runtime.name
        ),
        help: format!("{others}; or start Docker and use `--engine docker`"),
    }
}

/// What to do about a transformer where there are no containers.
const WITHOUT_IMAGE: &str = "start Docker and use `--engine docker`; or serve its program by a ServingRuntime with the annotation \
    `kserve-local/process`, before this one in an InferenceGraph";

fn needs_engine(message: String) -> ResolveError {
    ResolveError::NeedsContainerEngine { message, help: "start Docker and use `--engine docker`".to_owned() }
}
