//! What a plan says of a service, to be said again.

use std::sync::Arc;

use super::seen::Seen;
use crate::api::InferenceServiceStatus;
use crate::plan::planner::{Draft, Plan};
use crate::plan::pods::PodView;
use crate::plan::routes::{ReplicaName, Scrape, ServiceRoute};
use crate::plan::scale::Standing;
use crate::plan::world::DesiredService;

/// What a plan says of a service.
#[derive(Debug)]
pub(super) struct Said {
    status: Option<Arc<InferenceServiceStatus>>,
    other_status: Option<Arc<InferenceServiceStatus>>,
    route: Arc<ServiceRoute>,
    scrapes: Vec<Scrape>,
    pods: Vec<Arc<PodView>>,
    standings: Vec<Standing>,
    /// Replicas that want their sandboxes.
    sandboxed: Vec<ReplicaName>,
}

/// How far a draft was.
pub(super) struct Mark {
    asked: usize,
    resting: usize,
    /// Of lists that what is kept adds nothing to.
    others: [usize; 17],
    statuses: usize,
    other_statuses: usize,
    scrapes: usize,
    pods: usize,
    standings: usize,
}

impl Mark {
    pub(super) fn of(draft: &Draft<'_>) -> Self {
        let plan = &draft.plan;
        Self {
            asked: draft.asked,
            resting: draft.sandboxes.resting(),
            others: others(plan),
            statuses: plan.statuses.len(),
            other_statuses: plan.other_statuses.len(),
            scrapes: plan.routes.scrapes.len(),
            pods: plan.pods.len(),
            standings: plan.standings.len(),
        }
    }

    /// Whether since then nothing was said, wanted or done but what can be said again.
    pub(super) fn is_all_there_is(&self, draft: &Draft<'_>) -> bool {
        let new_pods = &draft.plan.pods[self.pods..];
        self.asked == draft.asked
            && self.resting == draft.sandboxes.resting()
            && self.others == others(&draft.plan)
            && new_pods.iter().all(|pod| pod.ready)
    }
}

/// Counts what is in the lists that what is kept adds nothing to.
fn others(plan: &Plan) -> [usize; 17] {
    [
        plan.actions.len(),
        plan.taken_back.len(),
        plan.draining.len(),
        plan.waking.len(),
        plan.dozing.len(),
        plan.preloaded.len(),
        plan.loads.len(),
        plan.progress.len(),
        plan.granted.len() + plan.queued.len(),
        plan.replacing.len() + plan.given_up.len(),
        plan.evicted.len(),
        plan.repositories.len(),
        plan.explanations.len(),
        plan.rolled_out.len(),
        plan.proven.len(),
        plan.asked.len(),
        plan.stages.len(),
    ]
}

impl Said {
    pub(super) fn since(mark: &Mark, draft: &Draft<'_>, service: &DesiredService, seen: &Seen) -> Self {
        let plan = &draft.plan;
        Self {
            status: plan.statuses[mark.statuses..].first().map(|(_, status)| Arc::clone(status)),
            other_status: plan.other_statuses[mark.other_statuses..].first().map(|(_, status)| Arc::clone(status)),
            route: Arc::clone(&plan.routes.services[&service.key]),
            scrapes: plan.routes.scrapes[mark.scrapes..].to_vec(),
            pods: plan.pods[mark.pods..].to_vec(),
            standings: plan.standings[mark.standings..].to_vec(),
            sandboxed: seen.replicas().into_iter().filter(|name| draft.sandboxes.wants(name)).cloned().collect(),
        }
    }

    /// Says it again.
    pub(super) fn again(&self, draft: &mut Draft<'_>, service: &DesiredService) {
        let key = &service.key;
        let plan = &mut draft.plan;
        plan.statuses.extend(self.status.iter().map(|status| (key.clone(), Arc::clone(status))));
        let others = self.other_status.iter().map(|status| (service.object_key(), Arc::clone(status)));
        plan.other_statuses.extend(others);
        plan.routes.services.insert(key.clone(), Arc::clone(&self.route));
        plan.routes.scrapes.extend_from_slice(&self.scrapes);
        plan.pods.extend_from_slice(&self.pods);
        plan.standings.extend_from_slice(&self.standings);
        self.sandboxed.iter().for_each(|name| draft.sandboxes.want(name));
    }
}
