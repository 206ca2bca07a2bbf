//! `plan()`: walks the services in order and collects the parts.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ActionKey};
use super::admission::{Eviction, Explanation, Grant, Queued, Room};
use super::doze;
use super::facts::{Facts, Own};
use super::holders;
use super::memo::Memo;
use super::memory::{GivenUp, LoadClock};
use super::pods::PodView;
use super::progress::Mark;
use super::rollout::ComponentReport;
use super::routes::{ReplicaName, RouteTable, ServiceRoute};
use super::sandbox::{self, Sandboxes};
use super::scale::Standing;
use super::sleep::Rest;
use super::stages::StageNote;
use super::world::{ContainerFact, DesiredService, EngineState, Now, World};
use super::{admission, graphs, kept, llm, preload, prepare, refresh, retire, rollout, sleep, status, trained};
use crate::api::{ComponentKind, InferenceServiceStatus, Kind, LocalModelCacheStatus, ObjectKey, ServiceKey, meta};
use crate::workload::ComponentKey;

/// What is to be done, shown and waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To be done now; none of them is under way.
    pub actions: Vec<Action>,
    /// What the proxy may do from now on.
    pub routes: RouteTable,
    /// Statuses of every InferenceService, in order of their keys.
    pub statuses: Vec<(ServiceKey, Arc<InferenceServiceStatus>)>,
    /// Statuses of other objects.
    pub other_statuses: Vec<(ObjectKey, Arc<InferenceServiceStatus>)>,
    /// Statuses of objects that keep models.
    pub kept: Vec<(ObjectKey, LocalModelCacheStatus)>,
    /// What runs, for people.
    pub pods: Vec<Arc<PodView>>,
    /// Revisions that have all traffic from now on and had not before.
    pub rolled_out: Vec<(ComponentKey, u32)>,
    /// Revisions of which every replica answers, where that was not known or ends a start.
    pub proven: Vec<(ComponentKey, u32)>,
    /// Components whose newest revision had all traffic and is taken back.
    pub taken_back: Vec<ComponentKey>,
    /// Percent of traffic that is asked for the wanted revision, where that is not what was asked before.
    pub asked: Vec<(ComponentKey, u32)>,
    /// Replicas on their way out.
    pub draining: Vec<ReplicaName>,
    /// How the services that may sleep stand.
    pub rests: Vec<(ServiceKey, Rest)>,
    /// Services that slept and whose predictor has neither answered nor failed since.
    pub waking: Vec<ServiceKey>,
    /// Containers that were found asleep with their memory kept.
    pub dozing: doze::Found,
    /// Services that are to be woken when the daemon starts, and were, as far as that goes.
    pub preloaded: Vec<ServiceKey>,
    /// Revisions whose replicas follow their load.
    pub standings: Vec<Standing>,
    /// Components that are being started, and what that means for the clock of their load time.
    pub loads: Vec<(ComponentKey, LoadClock)>,
    /// Where components that start, or have just done so, are in that.
    pub stages: Vec<(ComponentKey, StageNote)>,
    /// How far revisions that have not answered yet have come.
    pub progress: Vec<(ComponentKey, Mark)>,
    /// Replicas that were given memory in this pass.
    pub granted: Vec<(ReplicaName, Grant)>,
    /// Replicas that wait for room.
    pub queued: Vec<(ReplicaName, Queued)>,
    /// Components of which the older revision goes so that there is room for the wanted one.
    pub replacing: Vec<(ComponentKey, u32)>,
    /// Revisions that replaced another one and are not tried any more.
    pub given_up: Vec<(ComponentKey, GivenUp)>,
    /// Services that are put to sleep to make room.
    pub evicted: Vec<Eviction>,
    /// Servers of several models that have all of them, or are to be started anew, by the name of their container.
    pub repositories: Vec<(String, trained::Note)>,
    /// What was decided about room, and why.
    pub explanations: Vec<(ServiceKey, Explanation)>,
    /// When to plan again although nothing happened, in ticks.
    pub wake_at: Option<Duration>,
}

impl Plan {
    /// Returns the status of an InferenceService.
    pub(super) fn status(&self, key: &ServiceKey) -> Option<&InferenceServiceStatus> {
        let place = self.statuses.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        Some(&self.statuses[place].1)
    }
}

/// A plan in the making.
pub(super) struct Draft<'w> {
    pub(super) world: &'w World,
    pub(super) now: Now,
    pub(super) plan: Plan,
    pub(super) sandboxes: Sandboxes<'w>,
    pub(super) room: Room,
    ordered: HashSet<ActionKey>,
    /// Names of containers something is being done to.
    busy: HashSet<&'w str>,
    starts: usize,
    /// Orders that were wanted, given or not.
    pub(super) asked: usize,
}

impl Draft<'_> {
    /// Orders an action unless it is under way.
    pub(super) fn act(&mut self, action: Action) {
        self.asked += 1;
        let key = action.key();
        if self.world.in_flight.contains(&key) || self.ordered.contains(&key) {
            return;
        }
        if self.world.engine != EngineState::Up && action.needs_engine() {
            return;
        }
        if action.is_start() {
            if self.starts >= self.world.config.starts_at_once {
                return;
            }
            self.starts += 1;
        }
        self.ordered.insert(key);
        self.plan.actions.push(action);
    }

    /// Whether something is being done to a container. Nothing it is seen to be doing can be built on until that ends.
    pub(super) fn is_busy(&self, name: &str) -> bool {
        self.busy.contains(name)
    }

    /// Whether `at` has come; otherwise the plan wakes then.
    pub(super) fn due(&mut self, at: Duration) -> bool {
        if at <= self.now.tick {
            return true;
        }
        self.wake(at);
        false
    }

    /// Makes the plan wake at `at` at the latest.
    pub(super) fn wake(&mut self, at: Duration) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what to do next for every service, from a snapshot and the time.
pub fn plan(world: &World, now: Now) -> Plan {
    plan_anew(world, now, &mut Memo::forgetful())
}

/// Decides the same, and plans anew only the services of which something changed since the memo's last pass.
pub fn plan_anew(world: &World, now: Now, memo: &mut Memo) -> Plan {
    decide(world, now, memo).plan
}

/// Makes the plan, and keeps what it was made with.
pub(super) fn decide<'w>(world: &'w World, now: Now, memo: &mut Memo) -> Draft<'w> {
    let busy = busy(world);
    let starts = starts_under_way(world, &busy);
    let sandboxes = Sandboxes::new(world);
    let (plan, room, ordered) = (Plan::default(), Room::default(), HashSet::new());
    let mut draft = Draft { world, now, plan, room, sandboxes, ordered, busy, starts, asked: 0 };
    draft.plan.routes.domains.clone_from(&world.config.domains);
    let facts = Facts::new(world);
    if !world.desired_known {
        // Nothing is known of what is wanted: what runs is left alone, and nothing is served that may have been deleted.
        return draft;
    }
    let (mut services, others) = facts.by_service(world);
    services.iter_mut().for_each(|own| own.rest = rest(&mut draft, own, &facts));
    draft.room = holders::room(world, now, &facts, &services, &others);
    admission::relieve(&mut draft);
    // Room granted by an earlier daemon is looked at again when its orders must have landed.
    for grant in world.memory.granted.values().filter(|grant| grant.at > now.tick) {
        draft.wake(grant.at + Duration::from_millis(1));
    }
    memo.begin(world);
    for own in &services {
        memo.plan(&mut draft, own);
    }
    memo.end();
    trained::fetch(&mut draft);
    llm::add_shadowed(&mut draft.plan, world);
    trained::show(&mut draft.plan, world, &facts);
    graphs::add(&mut draft.plan, world);
    for facts in others.iter().flat_map(|all| all.chunk_by(|one, other| one.component == other.component)) {
        retire_all(&mut draft, facts, "its InferenceService was deleted");
    }
    prepare::fetch_kept(&mut draft);
    draft.plan.kept = kept::statuses(world);
    refresh::order(&mut draft);
    sandbox::collect(&mut draft);
    draft
}

fn busy(world: &World) -> HashSet<&str> {
    let names = world.in_flight.iter().filter_map(|key| match key {
        ActionKey::Container(name) => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// Counts the containers being made or started. What runs and is worked on is being stopped, and that may take long.
fn starts_under_way(world: &World, busy: &HashSet<&str>) -> usize {
    let runs = |name: &str| world.containers.get(name).is_some_and(ContainerFact::is_running);
    busy.iter().filter(|name| !runs(name)).count()
}

fn is_stopped(service: &DesiredService) -> bool {
    service.meta.annotation(meta::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn rest<'w>(draft: &mut Draft<'w>, own: &Own<'_, 'w>, facts: &Facts<'w>) -> Option<Rest> {
    let rest = if is_stopped(own.service) { None } else { sleep::rest(draft, own, facts) };
    draft.plan.rests.extend(rest.map(|rest| (own.service.key.clone(), rest)));
    rest
}

/// Plans one service. Returns whether all of it is as it should be.
pub(super) fn plan_service<'w>(draft: &mut Draft<'w>, own: &Own<'_, 'w>) -> bool {
    let Own { service, rest, containers: there, .. } = *own;
    let stopped = is_stopped(service);
    let mut reports = Vec::new();
    let parts = service.resolution.as_deref().unwrap_or_default();
    for kind in ComponentKind::ALL {
        let wanted = parts.iter().find(|part| part.workload.component.component == kind);
        let facts = there.iter().skip_while(|fact| fact.component.component != kind);
        let facts: Vec<&'w ContainerFact> =
            facts.take_while(|fact| fact.component.component == kind).copied().collect();
        let Some(key) = wanted.map(|part| &part.workload.component).or(facts.first().map(|fact| &fact.component))
        else {
            continue;
        };
        if stopped {
            retire_all(draft, &facts, "the service is stopped");
        } else if let Some(wanted) = wanted.filter(|part| rest == Some(Rest::Asleep) && part.workload.scaling.sleeps())
        {
            reports.push(rollout::sleep(draft, key, wanted, &facts));
        } else if wanted.is_some() || service.resolution.is_err() {
            reports.push(rollout::advance(draft, key, wanted, &facts));
        } else {
            retire_all(draft, &facts, "the component was removed");
        }
    }
    preload::note(draft, service, &reports);
    if reports.iter().any(|report| report.waking) {
        draft.plan.waking.push(service.key.clone());
    }
    let status = status::of_service(draft.world, service, &reports, stopped);
    match service.kind {
        Kind::LlmInferenceService => {
            let status = llm::status(draft.world, service, status);
            draft.plan.other_statuses.push((service.object_key(), Arc::new(status)));
        }
        _ => draft.plan.statuses.push((service.key.clone(), Arc::new(status))),
    }
    let mut route = ServiceRoute {
        key: service.key.clone(),
        components: BTreeMap::new(),
        model_names: rollout::model_names(service, &reports),
        trained: BTreeMap::new(),
        by_path: service.kind == Kind::LlmInferenceService,
        cluster_local: service.meta.is_cluster_local(),
    };
    let is_quiet = reports.iter().all(ComponentReport::is_quiet);
    for report in reports {
        route.components.insert(report.key.component, Box::new(report.route));
        draft.plan.routes.scrapes.extend(report.scrapes);
        draft.plan.pods.extend(report.pods.into_iter().map(Arc::new));
    }
    let route = status::close_when_empty(route, service, stopped);
    draft.plan.routes.services.insert(service.key.clone(), Arc::new(route));
    is_quiet
}

fn retire_all<'w>(draft: &mut Draft<'w>, facts: &[&'w ContainerFact], why: &str) {
    let mut replicas: BTreeMap<&ReplicaName, Vec<&'w ContainerFact>> = BTreeMap::new();
    for fact in facts {
        replicas.entry(&fact.replica).or_default().push(fact);
    }
    for containers in replicas.values() {
        retire::retire(draft, containers, why);
    }
}
