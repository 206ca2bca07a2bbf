//! What a status says of named canaries (§5.2, §8.2): a line each, and one condition for all.

use super::{failure, info, stop_words};
use crate::api::status::{CanaryStatus, ModelCopies, ModelStates, ModelStatus};
use crate::api::{Condition, ConditionStatus};
use crate::plan::replica::Phase;
use crate::plan::rollout::ComponentReport;
use crate::plan::rollout::canaries::CanaryReport;
use crate::plan::said::said;
use crate::plan::world::{DesiredCanary, DesiredService};

/// Type of the condition.
const READY: &str = "CanaryPredictorReady";

/// Returns the condition of all canaries together; none when there are none.
pub(super) fn condition(
    service: &DesiredService,
    predictor: Option<&ComponentReport<'_>>,
    stopped: bool,
) -> Option<Condition> {
    if service.canaries.is_empty() {
        return None;
    }
    if stopped {
        return Some(info(Condition::new(READY, ConditionStatus::False, "Stopped", stop_words())));
    }
    let told = service.canaries.iter().filter_map(|canary| trouble(canary, report(predictor, canary)));
    let told: Vec<String> = told.collect();
    Some(info(match told.is_empty() {
        true => Condition::new(READY, ConditionStatus::True, "AllCanariesReady", ""),
        false => Condition::new(READY, ConditionStatus::False, "CanariesNotReady", told.join("; ")),
    }))
}

/// Returns a line for each canary, in the order they are written.
pub(super) fn lines(service: &DesiredService, predictor: Option<&ComponentReport<'_>>) -> Vec<CanaryStatus> {
    let line = |canary: &DesiredCanary| {
        let report = report(predictor, canary);
        CanaryStatus {
            name: canary.name.clone(),
            ready: canary.resolution.is_ok() && report.is_some_and(|report| report.ready),
            traffic_percent: i64::from(canary.percent),
            model_status: report.map(|report| model_status(canary, report)),
        }
    };
    service.canaries.iter().map(line).collect()
}

fn report<'r>(predictor: Option<&'r ComponentReport<'_>>, canary: &DesiredCanary) -> Option<&'r CanaryReport> {
    predictor?.canaries.iter().find(|report| report.name == canary.name)
}

/// What is amiss with a canary.
fn trouble(canary: &DesiredCanary, report: Option<&CanaryReport>) -> Option<String> {
    let name = &canary.name;
    if let Err(error) = &canary.resolution {
        return Some(format!("canary `{name}`: {}", super::explain(error)));
    }
    if report.is_some_and(|report| report.ready) {
        return None;
    }
    let words = report.map(|report| said(&report.phase).message).unwrap_or_default();
    let words = words.lines().next().unwrap_or_default().trim_end_matches("; last output:").to_owned();
    let words = if words.is_empty() { "it does not answer yet".to_owned() } else { words };
    Some(format!("canary `{name}` gets no traffic: {words}"))
}

fn model_status(canary: &DesiredCanary, report: &CanaryReport) -> ModelStatus {
    let (transition, target) = match &report.phase {
        _ if canary.resolution.is_err() => ("InvalidSpec", "FailedToLoad"),
        Phase::Asleep => ("UpToDate", "Standby"),
        Phase::Ready => ("UpToDate", "Loaded"),
        phase if phase.is_failure() => ("BlockedByFailedLoad", "FailedToLoad"),
        Phase::PullingModel(..) | Phase::Loading { .. } | Phase::NotReady { .. } => ("InProgress", "Loading"),
        _ => ("InProgress", "Pending"),
    };
    let active = match report.ready {
        true if report.phase == Phase::Asleep => "Standby",
        true => "Loaded",
        false => "",
    };
    let last_failure_info = match &canary.resolution {
        Ok(_) => failure(&report.phase),
        Err(error) => Some(super::failure_of(error)),
    };
    ModelStatus {
        transition_status: transition.to_owned(),
        states: Some(ModelStates { active_model_state: active.to_owned(), target_model_state: target.to_owned() }),
        last_failure_info,
        copies: Some(ModelCopies {
            failed_copies: 0,
            total_copies: i32::try_from(report.ready_replicas).unwrap_or(i32::MAX),
        }),
    }
}
