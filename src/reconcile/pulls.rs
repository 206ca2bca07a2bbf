//! Pulls under way: how far they are and how fast, for statuses and metrics.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::api::StorageUri;
use crate::engine::PullProgress;
use crate::plan::World;
use crate::plan::pace::Pace;
use crate::plan::world::{ImageState, ModelState, PullNote};
use crate::storage::Progress;
use crate::telemetry::metrics::PullSample;

/// Models and images that are being fetched.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    models: HashMap<StorageUri, (watch::Receiver<Progress>, Pace)>,
    images: HashMap<String, (watch::Receiver<PullProgress>, Pace)>,
}

impl Pulls {
    /// Notes a model's pull, and returns what it is to tell.
    pub(super) fn model(&mut self, uri: &StorageUri) -> watch::Sender<Progress> {
        let (progress, receiver) = watch::channel(Progress::default());
        self.models.insert(uri.clone(), (receiver, Pace::default()));
        progress
    }

    /// Notes an image's pull, and returns what it is to tell.
    pub(super) fn image(&mut self, image: &str) -> watch::Sender<PullProgress> {
        let (progress, receiver) = watch::channel(PullProgress::default());
        self.images.insert(image.to_owned(), (receiver, Pace::default()));
        progress
    }

    /// Forgets a model's pull, which has ended.
    pub(super) fn model_ended(&mut self, uri: &StorageUri) {
        self.models.remove(uri);
    }

    /// Forgets an image's pull, which has ended.
    pub(super) fn image_ended(&mut self, image: &str) {
        self.images.remove(image);
    }

    /// Whether nothing is fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.models.is_empty() && self.images.is_empty()
    }

    /// Writes into the world how far every pull is. A try after a failure shows the failure until there is something better
    /// to show.
    pub(super) fn note(&mut self, world: &mut World, now: Duration) {
        for (uri, (progress, pace)) in &mut self.models {
            let Progress { done, total, phase, .. } = progress.borrow().clone();
            if done == 0 && matches!(world.models.get(uri), Some(ModelState::Failed { .. })) {
                continue;
            }
            pace.note(done, now);
            let note = PullNote { done, total, rate: pace.rate(), phase: phase.to_owned() };
            world.models.insert(uri.clone(), ModelState::Pulling(note));
        }
        for (image, (progress, pace)) in &mut self.images {
            let PullProgress { done, total, phase } = progress.borrow().clone();
            if done == 0 && matches!(world.images.get(image), Some(ImageState::Failed { .. })) {
                continue;
            }
            pace.note(done, now);
            let note = PullNote { done, total, rate: pace.rate(), phase };
            world.images.insert(image.clone(), ImageState::Pulling(note));
        }
    }
}

/// Returns what each service waits for, as metrics show it.
pub(super) fn samples(world: &World) -> Vec<PullSample> {
    let mut samples = Vec::new();
    for service in world.services.values() {
        let sample = |kind, note: &PullNote| PullSample {
            namespace: service.key.namespace.clone(),
            name: service.key.name.clone(),
            kind,
            done: note.done,
            total: note.total,
            rate: note.rate,
        };
        let mut all: [Option<PullNote>; 2] = [None, None];
        let mut add = |index: usize, note: &PullNote| {
            let sum = all[index].get_or_insert_default();
            (sum.done, sum.total, sum.rate) = (sum.done + note.done, sum.total + note.total, sum.rate + note.rate);
        };
        for resolved in service.workloads() {
            for model in &resolved.workload.models {
                if let Some(ModelState::Pulling(note)) = world.models.get(&model.uri) {
                    add(0, note);
                }
            }
            for spec in resolved.workload.containers.iter().chain(&resolved.workload.init_containers) {
                if let Some(ImageState::Pulling(note)) = world.images.get(&spec.image) {
                    add(1, note);
                }
            }
        }
        let kinds = ["model", "image"].into_iter().zip(&all);
        samples.extend(kinds.filter_map(|(kind, note)| Some(sample(kind, note.as_ref()?))));
    }
    samples
}
