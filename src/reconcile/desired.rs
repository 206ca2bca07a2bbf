//! Desired objects to desired services: resolved once per change, remembered until something they depend on changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::refresh::Versions;
use crate::api::{InferenceServiceStatus, Kind, ObjectKey, ServiceKey, StorageUri, Typed, meta, quantity};
use crate::manifest;
use crate::plan::trained::TrainedModel;
use crate::plan::world::{DesiredCanary, DesiredService, KeptModel, ResolvedWorkload};
use crate::runtimes::Catalog;
use crate::store::{Origin, Snapshot, Stored};
use crate::workload::{
    Companions, ComponentKey, Workload, WorkloadConfig, fingerprint, local_model, mark, resolve, resolve_canaries,
    trained_model,
};

/// Resolutions that still hold.
#[derive(Debug, Default)]
pub struct Resolver {
    config: WorkloadConfig,
    companions: Vec<Arc<Stored>>,
    services: BTreeMap<ServiceKey, Arc<DesiredService>>,
    /// What each was resolved from.
    sources: BTreeMap<ServiceKey, Arc<serde_json::Value>>,
    /// What services of which a model has a version are made from.
    written: BTreeMap<ServiceKey, Arc<serde_json::Value>>,
    /// Versions of models in use.
    versions: Versions,
    /// Earlier revisions, as long as what they refer to is the same.
    revived: HashMap<(ComponentKey, u32), Option<ResolvedWorkload>>,
}

impl Resolver {
    /// Makes a resolver.
    pub(super) fn new(config: WorkloadConfig, versions: Versions) -> Self {
        Self { config, versions, ..Self::default() }
    }

    /// Resolves by other settings from now on.
    pub fn reconfigure(&mut self, config: WorkloadConfig) {
        *self = Self::new(config, std::mem::take(&mut self.versions));
    }

    /// Returns the versions of models. When another one is in use, [`Resolver::forget`] what was resolved.
    pub(super) fn versions(&mut self) -> &mut Versions {
        &mut self.versions
    }

    /// Resolves services with a model anew the next time.
    pub(super) fn forget(&mut self, model: &StorageUri) {
        let has = |resolved: &ResolvedWorkload| {
            resolved.workload.models.iter().any(|one| one.uri.unversioned() == model.unversioned())
        };
        self.services.retain(|_, service| !service.resolution.as_deref().unwrap_or_default().iter().any(has));
    }

    /// Returns what a service was made from, when that is not what the user wrote alone.
    pub(super) fn written(&self, key: &ServiceKey) -> Option<&Arc<serde_json::Value>> {
        self.written.get(key)
    }

    /// Resolves every InferenceService of a snapshot. Returns them and the keys of those that were resolved anew.
    pub fn resolve(&mut self, snapshot: &Snapshot) -> (BTreeMap<ServiceKey, Arc<DesiredService>>, Vec<ServiceKey>) {
        let companions: Vec<Arc<Stored>> = snapshot
            .objects
            .values()
            .filter(|stored| {
                let kind = stored.object.key.kind;
                !matches!(
                    kind,
                    Kind::InferenceService
                        | Kind::LlmInferenceService
                        | Kind::InferenceGraph
                        | Kind::TrainedModel
                        | Kind::Namespace
                )
            })
            .cloned()
            .collect();
        let same = companions.len() == self.companions.len()
            && companions
                .iter()
                .zip(&self.companions)
                .all(|(new, old)| Arc::ptr_eq(new, old) || new.object == old.object);
        if !same {
            let runtimes_only = only_runtimes_differ(&companions, &self.companions);
            self.services.retain(|key, _| runtimes_only && is_left_alone(snapshot, key));
            self.revived.clear();
        }
        self.companions = companions;
        let (catalog, references) = surroundings(&self.companions);
        let mut services = BTreeMap::new();
        let mut anew = Vec::new();
        let kinds = [Kind::InferenceService, Kind::LlmInferenceService];
        for stored in kinds.into_iter().flat_map(|kind| snapshot.list(kind, None)) {
            let object = &stored.object;
            let key = object.key.to_service_key();
            if services.contains_key(&key) {
                // An InferenceService has the name; both would have one address.
                continue;
            }
            let same = |known: &&Arc<DesiredService>| known.kind == object.key.kind && known.meta == object.meta;
            let known = self.services.get(&key).filter(same);
            if let Some(known) = known.filter(|_| self.sources.get(&key) == Some(&object.raw)) {
                services.insert(key, Arc::clone(known));
                continue;
            }
            let mut resolved = resolve(object, &catalog, &references, &self.config);
            let versioned = resolved.as_deref().ok().and_then(|all| self.versions.written_into(object, all));
            self.written.remove(&key);
            if let Some(versioned) = &versioned {
                resolved = resolve(versioned, &catalog, &references, &self.config);
                self.written.insert(key.clone(), Arc::clone(&versioned.raw));
            }
            let resolution = resolved.map(with_fingerprints);
            let canaries = resolve_canaries(versioned.as_ref().unwrap_or(object), &catalog, &references, &self.config);
            let canaries = canaries.into_iter().map(|canary| DesiredCanary {
                resolution: canary.workload.map(with_fingerprint),
                name: canary.name,
                percent: canary.percent,
            });
            let canaries = canaries.collect();
            let (kind, meta) = (object.key.kind, object.meta.clone());
            let service = DesiredService { key: key.clone(), kind, meta, resolution, canaries };
            self.sources.insert(key.clone(), Arc::clone(&object.raw));
            anew.push(key.clone());
            services.insert(key, Arc::new(service));
        }
        self.sources.retain(|key, _| services.contains_key(key));
        self.written.retain(|key, _| services.contains_key(key));
        self.revived.retain(|(component, _), _| services.contains_key(&component.service));
        self.services.clone_from(&services);
        (services, anew)
    }

    /// Resolves the models that objects want kept, and what is wrong with the others. Call it after [`Resolver::resolve`].
    pub fn kept(&self) -> (Vec<KeptModel>, Vec<(ObjectKey, String)>) {
        let (_, references) = surroundings(&self.companions);
        let (mut kept, mut wrong) = (Vec::new(), Vec::new());
        for stored in &self.companions {
            match local_model(&stored.object, &references, &self.config) {
                Ok(model) => kept.extend(model.map(|model| KeptModel { key: stored.object.key.clone(), model })),
                Err(error) => wrong.push((stored.object.key.clone(), error.to_string())),
            }
        }
        (kept, wrong)
    }

    /// Returns the LLMInferenceServices whose name an InferenceService has, and the generation of each.
    pub fn shadowed(snapshot: &Snapshot) -> Vec<(ServiceKey, i64)> {
        let all = snapshot.list(Kind::LlmInferenceService, None).map(|stored| {
            let object = &stored.object;
            (object.key.to_service_key(), object.meta.generation)
        });
        all.filter(|(key, _)| snapshot.objects.contains_key(&key.to_object_key())).collect()
    }

    /// Resolves the TrainedModels of a snapshot, by the InferenceService they name, the oldest first. Call it after
    /// [`Resolver::resolve`].
    pub fn trained(&self, snapshot: &Snapshot) -> BTreeMap<ServiceKey, Vec<Arc<TrainedModel>>> {
        let (_, references) = surroundings(&self.companions);
        let mut all: BTreeMap<ServiceKey, Vec<Arc<TrainedModel>>> = BTreeMap::new();
        for stored in snapshot.list(Kind::TrainedModel, None) {
            let Typed::TrainedModel(spec) = &stored.object.typed else { continue };
            let key = ServiceKey::new(&stored.object.key.namespace, &stored.object.key.name);
            let service = ServiceKey::new(&key.namespace, &spec.inference_service);
            let server = snapshot.objects.get(&service.to_object_key());
            let server = server.and_then(|stored| stored.object.as_inference_service());
            let model = trained_model(&stored.object, spec, server, &references, &self.config);
            let trained = TrainedModel {
                key,
                meta: stored.object.meta.clone(),
                service: service.clone(),
                framework: spec.model.framework.clone(),
                memory: quantity::parse_whole(&spec.model.memory.0).unwrap_or_default(),
                mark: model.as_ref().map(|model| mark(model, &spec.model.framework)).unwrap_or_default(),
                model,
            };
            all.entry(service).or_default().push(Arc::new(trained));
        }
        for models in all.values_mut() {
            models.sort_by(|a, b| (a.meta.creation_timestamp, &a.key).cmp(&(b.meta.creation_timestamp, &b.key)));
        }
        all
    }

    /// Resolves a revision of a component as it was written once; none when that means nothing any more.
    pub fn revive(
        &mut self,
        component: &ComponentKey,
        revision: u32,
        source: &serde_json::Value,
    ) -> Option<ResolvedWorkload> {
        let key = (component.clone(), revision);
        if let Some(known) = self.revived.get(&key) {
            return known.clone();
        }
        let revived = self.resolve_once(source, component);
        self.revived.insert(key, revived.clone());
        revived
    }

    fn resolve_once(&self, source: &serde_json::Value, component: &ComponentKey) -> Option<ResolvedWorkload> {
        let object = manifest::decode_value(source).objects.into_iter().next()?.object;
        let (catalog, references) = surroundings(&self.companions);
        let workloads = resolve(&object, &catalog, &references, &self.config).ok()?;
        workloads.into_iter().find(|workload| workload.component == *component).map(with_fingerprint)
    }
}

/// Whether what services are resolved with is the same, but for runtimes.
fn only_runtimes_differ(new: &[Arc<Stored>], old: &[Arc<Stored>]) -> bool {
    let others = |all: &[Arc<Stored>]| {
        let runtime = |stored: &&Arc<Stored>| stored.object.as_serving_runtime().is_some();
        all.iter().filter(|stored| !runtime(stored)).map(|stored| Arc::clone(&stored.object)).collect::<Vec<_>>()
    };
    others(new) == others(old)
}

/// Whether a service stays as it is when only its runtime changes: it asks for that, and is ready. What is not ready may
/// be mended by the change.
fn is_left_alone(snapshot: &Snapshot, key: &ServiceKey) -> bool {
    snapshot.objects.get(&key.to_object_key()).is_some_and(|stored| {
        stored.object.meta.annotation(meta::DISABLE_AUTO_UPDATE) == Some("true")
            && stored.status.as_ref().is_some_and(InferenceServiceStatus::is_ready)
    })
}

/// What services are resolved with.
fn surroundings(companions: &[Arc<Stored>]) -> (Catalog, Companions<'_>) {
    // The catalogue brings the built-in runtimes itself.
    let users = companions.iter().filter(|stored| stored.origin != Origin::BuiltIn);
    let catalog = Catalog::new(users.map(|stored| stored.object.as_ref()));
    (catalog, Companions::new(companions.iter().map(|stored| stored.object.as_ref())))
}

fn with_fingerprint(workload: Workload) -> ResolvedWorkload {
    let fingerprint = fingerprint(&workload);
    ResolvedWorkload { workload: Arc::new(workload), fingerprint }
}

/// The same for a list, in no more room than it takes: what is collected from workloads keeps the room of those.
fn with_fingerprints(workloads: Vec<Workload>) -> Vec<ResolvedWorkload> {
    let mut resolved: Vec<ResolvedWorkload> = workloads.into_iter().map(with_fingerprint).collect();
    resolved.shrink_to_fit();
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Condition, ConditionStatus};
    use crate::store::{Ledger, Store};

    /// Makes a service and its runtime the desired state.
    fn write(store: &Store, image: &str, annotations: &str) {
        let text = format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nmetadata: {{name: mine}}\nspec:\n  \
             supportedModelFormats: [{{name: f}}]\n  containers: [{{name: kserve-container, image: {image}}}]\n---\n\
             apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n\
             metadata: {{name: iris, annotations: {{{annotations}}}}}\nspec:\n  predictor:\n    \
             model: {{modelFormat: {{name: f}}, runtime: mine, storageUri: s3://b/m}}\n"
        );
        let decoded = manifest::decode("a.yaml", &text);
        assert_eq!(decoded.objects.len(), 2, "{:?}", decoded.diagnostics);
        let objects = decoded.objects.into_iter().map(|found| (found.object, Origin::Implied)).collect();
        store.replace(objects, "2026-01-01T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn what_a_service_resolves_to_takes_no_more_room_than_it_needs() {
        let (store, mut resolver) = (Store::new(Ledger::default()), Resolver::default());
        write(&store, "one", "a: b");
        let (services, _) = resolver.resolve(&store.snapshot());
        let resolution = services[&ServiceKey::new("default", "iris")].resolution.as_ref().unwrap();
        assert_eq!((resolution.len(), resolution.capacity()), (1, 1));
    }

    /// Returns how many services a change of the runtime's image resolves anew, and then one of the service itself.
    fn resolved_anew(annotations: &str, ready: ConditionStatus) -> [usize; 2] {
        let (store, mut resolver) = (Store::new(Ledger::default()), Resolver::default());
        write(&store, "one", annotations);
        assert_eq!(resolver.resolve(&store.snapshot()).1.len(), 1);
        let conditions = vec![Condition::new("Ready", ready, "", "")];
        let status = InferenceServiceStatus { conditions, ..InferenceServiceStatus::default() };
        let key = ServiceKey::new("default", "iris").to_object_key();
        store.set_status(&key, status, "2026-01-01T00:00:00Z".parse().unwrap());
        write(&store, "two", annotations);
        let runtime = resolver.resolve(&store.snapshot()).1.len();
        write(&store, "two", &format!("{annotations}, a: b"));
        [runtime, resolver.resolve(&store.snapshot()).1.len()]
    }

    #[test]
    fn a_ready_service_may_ask_not_to_follow_its_runtime() {
        let asks = "serving.kserve.io/disable-auto-update: \"true\"";
        assert_eq!(resolved_anew(asks, ConditionStatus::True), [0, 1]);
        assert_eq!(resolved_anew(asks, ConditionStatus::False), [1, 1]);
        assert_eq!(resolved_anew("serving.kserve.io/disable-auto-update: \"false\"", ConditionStatus::True), [1, 1]);
        assert_eq!(resolved_anew("c: d", ConditionStatus::True), [1, 1]);
    }
}
