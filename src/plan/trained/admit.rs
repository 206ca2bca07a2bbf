//! Which of a service's TrainedModels are to be loaded, and why the others are not.

use std::sync::Arc;

use super::TrainedModel;
use crate::api::{ComponentKind, ServiceKey};
use crate::plan::said;
use crate::plan::world::World;
use crate::workload::{ModelServer, Workload};

/// What becomes of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be loaded.
    Admitted,
    /// There is no such service.
    NoService,
    /// What the service is cannot be told: its spec is wrong.
    Unresolved,
    /// The service loads its own model.
    NotMultiModel,
    /// Its server takes models of these frameworks only.
    Framework(Vec<String>),
    /// It does not fit beside the older ones.
    NoMemory(String),
    /// Its own spec is wrong.
    Invalid(String),
}

/// Returns how a service loads models while it runs, if it does.
pub(super) fn server<'w>(world: &'w World, service: &ServiceKey) -> Option<&'w ModelServer> {
    let parts = world.services.get(service)?.resolution.as_deref().ok()?;
    let predictor = parts.iter().find(|part| part.workload.component.component == ComponentKind::Predictor)?;
    predictor.workload.model_server.as_ref()
}

/// Decides about every TrainedModel of a service. The memory that its server may take is shared out by age: a model that
/// was let in is not sent out by a newer one.
pub(super) fn verdicts<'w>(world: &'w World, service: &ServiceKey) -> Vec<(&'w Arc<TrainedModel>, Verdict)> {
    let models = world.trained.get(service).map(Vec::as_slice).unwrap_or_default();
    let Some(desired) = world.services.get(service) else {
        return models.iter().map(|model| (model, Verdict::NoService)).collect();
    };
    let Some(server) = server(world, service) else {
        let verdict = if desired.resolution.is_err() { Verdict::Unresolved } else { Verdict::NotMultiModel };
        return models.iter().map(|model| (model, verdict.clone())).collect();
    };
    let mut taken = 0;
    let judge = |model: &'w Arc<TrainedModel>| {
        let verdict = judge(model, server, taken);
        if verdict == Verdict::Admitted {
            taken += model.memory;
        }
        (model, verdict)
    };
    models.iter().map(judge).collect()
}

fn judge(model: &TrainedModel, server: &ModelServer, taken: u64) -> Verdict {
    if let Err(error) = &model.model {
        return Verdict::Invalid(error.to_string());
    }
    let takes = |name: &String| name.eq_ignore_ascii_case(&model.framework);
    if !server.frameworks.is_empty() && !server.frameworks.iter().any(takes) {
        return Verdict::Framework(server.frameworks.clone());
    }
    match server.memory_limit {
        Some(limit) if taken.saturating_add(model.memory) > limit => {
            let [wants, left, limit] = [model.memory, limit.saturating_sub(taken), limit].map(said::bytes);
            Verdict::NoMemory(format!("it declares {wants}, and of the server's limit of {limit} {left} is left"))
        }
        _ => Verdict::Admitted,
    }
}

/// Memory that the models declare together which a workload's server is to load, in bytes.
pub(in crate::plan) fn declared(world: &World, workload: &Workload) -> u64 {
    if workload.model_server.is_none() {
        return 0;
    }
    let verdicts = verdicts(world, &workload.component.service).into_iter();
    verdicts.filter(|(_, verdict)| *verdict == Verdict::Admitted).map(|(model, _)| model.memory).sum()
}
