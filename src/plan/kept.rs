//! How models stand that objects want fetched and kept, in KServe's words (§3.9). There is one node.

use super::world::{KeptModel, ModelState, World};
use crate::api::storage_kinds::{LocalModelCacheStatus, LocalModelCopies, NamespacedName};
use crate::api::{ObjectKey, StorageUri, meta};

/// Returns the status of every object that keeps a model.
pub(super) fn statuses(world: &World) -> Vec<(ObjectKey, LocalModelCacheStatus)> {
    world.kept.iter().map(|kept| (kept.key.clone(), status(world, kept))).collect()
}

fn status(world: &World, kept: &KeptModel) -> LocalModelCacheStatus {
    let (word, available, failed) = match world.models.get(&kept.model.uri) {
        Some(ModelState::Present { .. }) => ("NodeDownloaded", 1, 0),
        Some(ModelState::Pulling(_)) => ("NodeDownloading", 0, 0),
        Some(ModelState::Failed { .. }) => ("NodeDownloadError", 0, 1),
        Some(ModelState::Absent) | None => ("NodeDownloadPending", 0, 0),
    };
    LocalModelCacheStatus {
        node_status: [(meta::NODE.to_owned(), word.to_owned())].into(),
        copies: LocalModelCopies { available, total: 1, failed },
        inference_services: users(world, &kept.key, &kept.model.uri),
    }
}

/// Returns the services that use a kept model: those whose model it is, or something below it. An object of a namespace
/// serves that namespace alone.
fn users(world: &World, key: &ObjectKey, uri: &StorageUri) -> Vec<NamespacedName> {
    let reached = world.services.values().filter(|service| {
        (key.namespace.is_empty() || key.namespace == service.key.namespace)
            && service.meta.annotation(meta::DISABLE_LOCAL_MODEL).is_none()
    });
    let using = reached.filter(|service| {
        let resolved = service.resolution.as_deref().unwrap_or_default().iter();
        resolved.flat_map(|one| &one.workload.models).any(|model| model.uri.unversioned() == uri)
    });
    let name =
        |key: &crate::api::ServiceKey| NamespacedName { namespace: key.namespace.clone(), name: key.name.clone() };
    using.map(|service| name(&service.key)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::Kind;
    use crate::plan::world::PullNote;
    use crate::workload::ModelRef;

    #[test]
    fn a_kept_model_is_told_in_kserves_words() {
        let key = ObjectKey { kind: Kind::LocalModelCache, namespace: String::new(), name: "iris".to_owned() };
        let uri = StorageUri::parse("gs://bucket/iris").unwrap();
        let model = ModelRef { uri: uri.clone(), written: uri.to_string(), access: crate::workload::Access::default() };
        let failed = ModelState::Failed { message: String::new(), transient: true, failures: 1, at: Duration::ZERO };
        let table = [
            (None, "NodeDownloadPending", (0, 0)),
            (Some(ModelState::Absent), "NodeDownloadPending", (0, 0)),
            (Some(ModelState::Pulling(PullNote::default())), "NodeDownloading", (0, 0)),
            (Some(ModelState::Present { size: 5 }), "NodeDownloaded", (1, 0)),
            (Some(failed), "NodeDownloadError", (0, 1)),
        ];
        for (state, word, (available, failed)) in table {
            let mut world =
                World { kept: vec![KeptModel { key: key.clone(), model: model.clone() }], ..World::default() };
            world.models.extend(state.map(|state| (uri.clone(), state)));
            let (_, status) = statuses(&world).remove(0);
            assert_eq!(status.node_status.values().collect::<Vec<_>>(), [word]);
            assert_eq!(status.copies, LocalModelCopies { available, total: 1, failed });
        }
    }
}
