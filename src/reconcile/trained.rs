//! TrainedModels between the world and those who ask: which files they need, what changed, what is said of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use crate::api::{Kind, ServiceKey, StorageUri};
use crate::plan::trained::{Held, RepositoryOrder, RepositoryWork, TrainedModel};
use crate::plan::{Now, World};
use crate::telemetry::{EventLog, EventType};
use crate::workload::ModelRef;

/// Returns the files of every TrainedModel.
pub(in crate::reconcile) fn references(world: &World) -> impl Iterator<Item = &ModelRef> {
    world.trained.values().flatten().filter_map(|model| model.model.as_ref().ok())
}

/// Returns the files of those that are new or were changed.
pub(in crate::reconcile) fn changed(
    before: &BTreeMap<ServiceKey, Vec<Arc<TrainedModel>>>,
    after: &BTreeMap<ServiceKey, Vec<Arc<TrainedModel>>>,
) -> Vec<StorageUri> {
    let known = |model: &&Arc<TrainedModel>| !before.values().flatten().any(|other| other == *model);
    let models = after.values().flatten().filter(known);
    models.filter_map(|model| Some(model.model.as_ref().ok()?.uri.clone())).collect()
}

/// Logs what came of an order, and records it with the model.
pub(in crate::reconcile) fn say(
    events: &EventLog,
    world: &World,
    order: &RepositoryOrder,
    result: &Result<BTreeMap<String, Held>, String>,
    now: Now,
) {
    let (model, done, reason) = match &order.work {
        RepositoryWork::Look => return,
        RepositoryWork::Load { model, .. } => (model, "loaded", "ModelLoaded"),
        RepositoryWork::Unload { model } => (model, "unloaded", "ModelUnloaded"),
    };
    let container = &order.name;
    let namespace = world.containers.get(container).map(|fact| fact.component.service.namespace.clone());
    let Some(namespace) = namespace else { return };
    let object = ServiceKey::new(namespace, model).to_key_of(Kind::TrainedModel);
    match result {
        Ok(_) => {
            info!(model, container, "{done}");
            let message = format!("{done} in {}", order.replica);
            events.record(&object, EventType::Normal, reason, &message, now.wall);
        }
        Err(message) => {
            warn!(model, container, error = message, "could not be {done}");
            let failed = if reason == "ModelLoaded" { "ModelLoadFailed" } else { "ModelUnloadFailed" };
            events.record(&object, EventType::Warning, failed, message, now.wall);
        }
    }
}
