//! What is wanted: services resolved anew when they change, the revisions before them, and the models they need.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::info;

use super::{Driver, Urgency};
use crate::api::{ComponentKind, ServiceKey};
use crate::plan::Now;
use crate::plan::hosts::Hosts;
use crate::plan::world::{ImageState, ModelState, ResolvedWorkload};
use crate::reconcile::desired::Resolver;
use crate::reconcile::{graphs, trained};
use crate::store::Snapshot;
use crate::telemetry::EventType;
use crate::workload::{ComponentKey, names};

/// Containers may still read a model this long after the time requests have to drain.
const LINGER: Duration = Duration::from_secs(60);

impl Driver {
    /// Resolves what is desired when it changed.
    pub(super) fn take_desired(&mut self, snapshot: &Snapshot) -> Urgency {
        if self.desired_version == Some(snapshot.desired_version) || snapshot.desired_version == 0 {
            return Urgency::Never;
        }
        self.desired_version = Some(snapshot.desired_version);
        let now = self.parts.clock.now();
        let (services, anew) = self.resolver.resolve(snapshot);
        self.world.services = services;
        self.world.graphs = graphs::desired(snapshot, &self.world.graphs);
        self.world.shadowed = Resolver::shadowed(snapshot);
        self.take_trained(snapshot);
        self.world.desired_known = true;
        self.untidy = true;
        for key in &anew {
            self.forgive(key);
            self.warn_about(key, now);
        }
        self.warn_of_hosts(&anew, now);
        for service in self.world.services.values() {
            let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
            self.world.memory.release_canaries(&component, &service.canaries);
            let written = snapshot.objects.get(&service.object_key()).map(|stored| &stored.object.raw);
            let written = self.resolver.written(&service.key).or(written);
            for resolved in service.resolution.as_deref().unwrap_or_default() {
                let component = &resolved.workload.component;
                self.world.memory.want(component, &resolved.fingerprint, now);
                if written.is_some_and(|written| self.world.memory.note_source(component, written)) {
                    self.book.note_source(component);
                }
            }
            self.world.memory.want_canaries(&component, &service.canaries, now);
            let containers = service.workloads().flat_map(|resolved| &resolved.workload.containers);
            containers.for_each(|spec| self.parts.executor.engine.learn(spec));
        }
        let (kept, wrong) = self.resolver.kept();
        self.world.kept = kept;
        for (key, problem) in wrong {
            self.parts.events.record(&key, EventType::Warning, "ModelNotFetched", &problem, now.wall);
        }
        self.revive_older();
        self.look_up_models()
    }

    /// Resolves the revisions again that had all traffic once and may have to be made again.
    pub(super) fn revive_older(&mut self) {
        let Self { world, resolver, .. } = self;
        let mut older: BTreeMap<ComponentKey, BTreeMap<u32, ResolvedWorkload>> = BTreeMap::new();
        for (component, history) in &world.memory.revisions {
            let Some(sources) = world.memory.sources.get(component) else { continue };
            let kept = [history.rolled_out, history.previous].into_iter().flatten();
            for revision in kept.filter(|revision| *revision != history.target) {
                let wanted = history.known.get(&revision).map(|note| note.fingerprint.as_str());
                let revived = sources.get(&revision).and_then(|source| resolver.revive(component, revision, source));
                // What it would be now must be what it was: a runtime or a Secret may have changed since.
                if let Some(revived) = revived.filter(|revived| Some(revived.fingerprint.0.as_str()) == wanted) {
                    older.entry(component.clone()).or_default().insert(revision, revived);
                }
            }
        }
        world.older = older;
    }

    /// Says what in a changed service means nothing here, or something else than its author may think.
    pub(super) fn warn_about(&self, key: &ServiceKey, now: Now) {
        let Some(service) = self.world.services.get(key) else { return };
        for resolved in service.workloads() {
            for warning in &resolved.workload.warnings {
                let object = service.object_key();
                if self.parts.events.record(&object, EventType::Warning, "ManifestWarning", warning, now.wall) {
                    info!(service = %key, "{warning}");
                }
            }
        }
    }

    /// Says which hosts of changed services others have, too.
    fn warn_of_hosts(&self, changed: &[ServiceKey], now: Now) {
        if changed.is_empty() {
            return;
        }
        let hosts = Hosts::of(self.world.services.values().map(|service| (&service.key, service.parts())));
        for service in changed.iter().filter_map(|key| self.world.services.get(key)) {
            for clash in hosts.clashes(&service.key, service.parts()) {
                if self.parts.events.record(&service.object_key(), EventType::Warning, "HostTaken", &clash, now.wall) {
                    info!(service = %service.key, "{clash}");
                }
            }
        }
    }

    /// A changed service gets a fresh try at once.
    pub(super) fn forgive(&mut self, key: &ServiceKey) {
        let Some(service) = self.world.services.get(key) else { return };
        for resolved in service.workloads() {
            for model in &resolved.workload.models {
                if let Some(state @ ModelState::Failed { .. }) = self.world.models.get_mut(&model.uri) {
                    *state = ModelState::Absent;
                }
                self.model_failures.remove(&model.uri);
            }
            for spec in resolved.workload.containers.iter().chain(&resolved.workload.init_containers) {
                if matches!(
                    self.world.images.get(&spec.image),
                    Some(ImageState::Failed { .. } | ImageState::Unseen { .. } | ImageState::Absent { .. })
                ) {
                    self.world.images.remove(&spec.image);
                }
                self.image_failures.remove(&spec.image);
            }
        }
        let instance = &self.world.instance;
        let own = |name: &str| {
            service
                .workloads()
                .any(|resolved| names::is_container_of(name, instance, &key.namespace, &resolved.workload.service_name))
        };
        self.world.memory.refusals.retain(|name, _| !own(name));
    }

    /// Looks up the models that are wanted, and forgets those that are not.
    pub(super) fn look_up_models(&mut self) -> Urgency {
        let mut wanted = BTreeSet::new();
        for service in self.world.services.values() {
            for resolved in service.workloads() {
                wanted.extend(resolved.workload.models.iter().map(|model| model.uri.clone()));
            }
        }
        let older = self.world.older.values().flat_map(BTreeMap::values);
        wanted.extend(older.flat_map(|resolved| resolved.workload.models.iter().map(|model| model.uri.clone())));
        wanted.extend(self.world.kept.iter().map(|kept| kept.model.uri.clone()));
        wanted.extend(trained::references(&self.world).map(|model| model.uri.clone()));
        self.world.models.retain(|uri, _| wanted.contains(uri));
        self.resolver.versions().note_wanted(&mut self.world, wanted.iter());
        let (tick, linger) = (self.parts.clock.now().tick, self.world.config.drain_deadline + LINGER);
        self.claims.want(wanted.clone(), tick, linger);
        self.look_for(wanted.into_iter())
    }
}
