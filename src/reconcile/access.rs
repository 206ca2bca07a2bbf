//! Which credentials go along with a pull: those of the services that want it.

use std::collections::BTreeMap;

use super::trained;
use crate::api::StorageUri;
use crate::plan::World;
use crate::workload::{Access, Workload};

/// Returns what a model is fetched with: what the first service, or object that keeps it, gives that gives anything.
pub(super) fn of_model(world: &World, uri: &StorageUri) -> Access {
    let models =
        workloads(world).flat_map(|workload| &workload.models).chain(world.kept.iter().map(|kept| &kept.model));
    let models = models.chain(trained::references(world));
    let models = models.filter(|model| model.uri == *uri);
    models.map(|model| &model.access).find(|access| !access.is_empty()).cloned().unwrap_or_default()
}

/// Returns the logins for an image: those of every service that uses it.
pub(super) fn of_image(world: &World, image: &str) -> Vec<String> {
    let uses = |workload: &&Workload| {
        workload.containers.iter().chain(&workload.init_containers).any(|spec| spec.image == image)
    };
    let mut logins: Vec<String> =
        workloads(world).filter(uses).flat_map(|workload| workload.image_access.registries.clone()).collect();
    logins.dedup();
    logins
}

fn workloads(world: &World) -> impl Iterator<Item = &Workload> {
    let desired = world.services.values().flat_map(|service| service.workloads());
    let older = world.older.values().flat_map(BTreeMap::values);
    desired.chain(older).map(|resolved| resolved.workload.as_ref())
}
