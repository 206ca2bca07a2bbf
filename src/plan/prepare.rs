//! What must be here before a container is made: models, then images.

use std::time::Duration;

use super::action::Action;
use super::backoff;
use super::planner::Draft;
use super::replica::{Phase, Replica};
use super::world::{EngineState, ImageState, ModelState, PullNote};
use crate::api::StorageUri;
use crate::workload::names::{is_image_name, process_recipe};
use crate::workload::{ContainerSpec, PullPolicy};

/// Models and images must be here before the first container is made. Says why not.
pub(super) fn prepare(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    if replica.is_complete() {
        return None;
    }
    let Some((workload, _)) = replica.source else { return Some(Phase::Gone) };
    let mut waiting = None;
    for model in &workload.models {
        let phase = need_model(draft, &model.uri);
        waiting = waiting.or(phase);
    }
    if waiting.is_some() {
        return waiting;
    }
    if let Some(phase) = without_engine(draft) {
        return Some(phase);
    }
    let init = workload.init_containers.iter().filter(|_| !replica.is_initialized());
    let missing = init.chain(&workload.containers).filter(|spec| !replica.containers.contains_key(spec.name.as_str()));
    for spec in missing {
        let phase = need_image(draft, spec);
        waiting = waiting.or(phase);
    }
    waiting
}

/// Says so when nothing can be asked of the engine.
pub(super) fn without_engine(draft: &Draft<'_>) -> Option<Phase> {
    match &draft.world.engine {
        EngineState::Up => None,
        EngineState::Unknown => Some(Phase::EngineUnknown),
        EngineState::Down { message } => Some(Phase::EngineDown(message.clone())),
    }
}

/// Orders the models that are fetched before anyone needs them.
pub(super) fn fetch_kept(draft: &mut Draft<'_>) {
    for kept in &draft.world.kept {
        // What it waits for is nobody's condition.
        let _ = need_model(draft, &kept.model.uri);
    }
}

/// Orders a model unless it is here; says why it is not.
pub(super) fn need_model(draft: &mut Draft<'_>, uri: &StorageUri) -> Option<Phase> {
    match draft.world.models.get(uri) {
        Some(ModelState::Present { .. }) => None,
        Some(ModelState::Pulling(note)) => Some(Phase::PullingModel(uri.clone(), note.clone())),
        Some(ModelState::Failed { message, transient, failures, at }) => {
            let delay = match uri {
                // A file of this machine may be there any moment, and looking for it costs nothing.
                StorageUri::Local(_) => LOOK_FOR_FILE,
                _ if *transient => backoff::retry_delay(*failures),
                _ => backoff::PERMANENT_RETRY,
            };
            if draft.due(*at + delay) {
                draft.act(Action::PullModel { uri: uri.clone() });
            }
            Some(Phase::ModelFailed { message: message.clone(), transient: *transient })
        }
        Some(ModelState::Absent) | None => {
            draft.act(Action::PullModel { uri: uri.clone() });
            Some(Phase::PullingModel(uri.clone(), PullNote::default()))
        }
    }
}

/// How often a model that is a local file is looked for.
const LOOK_FOR_FILE: Duration = Duration::from_secs(3);
/// How long a pull by policy `Always` serves the containers made after it.
const PULL_HOLDS: Duration = Duration::from_secs(60);
/// How often an image that must not be pulled is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

fn need_image(draft: &mut Draft<'_>, spec: &ContainerSpec) -> Option<Phase> {
    let image = &spec.image;
    let failed = |message: &str, transient| {
        Some(Phase::ImageFailed { image: image.clone(), message: message.to_owned(), transient })
    };
    if process_recipe(image).is_none() && !is_image_name(image) {
        return failed(&format!("`{image}` is not the name of an image: invalid reference format"), false);
    }
    let pulling = |note| Some(Phase::PullingImage(image.clone(), note));
    match draft.world.images.get(image) {
        None => {
            draft.act(Action::CheckImage { image: image.clone() });
            Some(Phase::Creating)
        }
        Some(ImageState::Pulling(note)) => pulling(note.clone()),
        Some(ImageState::Present { pulled_at }) => {
            let is_fresh = pulled_at.is_some_and(|at| draft.now.tick.saturating_sub(at) <= PULL_HOLDS);
            if spec.pull_policy != PullPolicy::Always || is_fresh {
                return None;
            }
            draft.act(Action::PullImage { image: image.clone() });
            pulling(PullNote::default())
        }
        Some(ImageState::Absent { at }) if spec.pull_policy == PullPolicy::Never => {
            if draft.due(*at + LOOK_AGAIN) {
                draft.act(Action::CheckImage { image: image.clone() });
            }
            failed(&format!("image `{image}` is not on this machine and imagePullPolicy is Never"), false)
        }
        Some(ImageState::Absent { .. }) => {
            draft.act(Action::PullImage { image: image.clone() });
            pulling(PullNote::default())
        }
        // An older copy is better than none: it is used, and the executor said so.
        Some(ImageState::Failed { present: true, .. }) => None,
        Some(ImageState::Failed { message, transient, failures, at, .. }) => {
            if draft.due(*at + image_delay(*transient, *failures)) {
                let image = image.clone();
                let never = spec.pull_policy == PullPolicy::Never;
                draft.act(if never { Action::CheckImage { image } } else { Action::PullImage { image } });
            }
            failed(message, *transient)
        }
        Some(ImageState::Unseen { message, transient, failures, at }) => {
            if draft.due(*at + image_delay(*transient, *failures)) {
                draft.act(Action::CheckImage { image: image.clone() });
            }
            failed(message, *transient)
        }
    }
}

/// Returns how long after a failure an image is asked for again.
fn image_delay(transient: bool, failures: u32) -> Duration {
    if transient { backoff::restart_delay(failures.saturating_add(1)) } else { backoff::PERMANENT_RETRY }
}
