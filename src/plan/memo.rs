//! What was planned of services that are as they should be, kept as long as nothing it came from changes.
//!
//! Most passes are about one service, and planning the others again would say the same of them. What is kept of a service
//! is used again when everything it was planned from is equal to what is there now, and no time has come that it waits for.
//! Nobody has to say that something changed: it is compared.
//!
//! **Invariant:** a plan with a memo is the plan without one. Only a plan that asked for no order, no room and no retreat
//! is kept, since all else depends on what other services got; what such a plan reads is `Seen`, and nothing else.

use std::collections::HashMap;
use std::time::Duration;

use super::facts::Own;
use super::planner::{Draft, plan_service};
use super::world::{EngineState, PlanConfig, World};
use crate::api::ServiceKey;

mod again;
mod seen;

use again::{Mark, Said};
use seen::{Seen, is_plain};

/// What is kept between passes.
#[derive(Debug, Default)]
pub struct Memo {
    is_forgetful: bool,
    setting: Option<Setting>,
    kept: HashMap<ServiceKey, Kept>,
    /// Counts passes.
    pass: u64,
    /// Services that were planned anew in the last pass.
    anew: usize,
}

/// What every plan comes from.
#[derive(Debug, PartialEq)]
struct Setting {
    instance: String,
    config: PlanConfig,
    engine: EngineState,
    limits_later: bool,
    holds_networks: bool,
}

/// What was planned of one service.
#[derive(Debug)]
struct Kept {
    seen: Seen,
    said: Said,
    /// When it is planned anew although nothing changed, in ticks.
    until: Option<Duration>,
    /// The last pass it was part of.
    pass: u64,
}

impl Memo {
    /// Makes one that keeps nothing.
    pub fn forgetful() -> Self {
        Self { is_forgetful: true, ..Self::default() }
    }

    /// Returns how many services the last pass planned anew.
    pub fn planned_anew(&self) -> usize {
        self.anew
    }

    /// Begins a pass. Nothing that came from other settings is used.
    pub(super) fn begin(&mut self, world: &World) {
        self.anew = 0;
        self.pass += 1;
        if !self.is_forgetful && !self.setting.as_ref().is_some_and(|setting| setting.holds(world)) {
            self.kept.clear();
            self.setting = Some(Setting::of(world));
        }
    }

    /// Plans a service, or says again what was said of it.
    pub(super) fn plan<'w>(&mut self, draft: &mut Draft<'w>, own: &Own<'_, 'w>) {
        if self.is_forgetful {
            plan_service(draft, own);
            return;
        }
        let service = own.service;
        if let Some(known) = self.kept.get_mut(&service.key).filter(|known| known.holds(draft, own)) {
            known.pass = self.pass;
            known.said.again(draft, service);
            known.until.into_iter().for_each(|at| draft.wake(at));
            return;
        }
        self.anew += 1;
        let before = Mark::of(draft);
        let outer = draft.plan.wake_at.take();
        let is_quiet = plan_service(draft, own);
        let until = draft.plan.wake_at;
        outer.into_iter().for_each(|at| draft.wake(at));
        if is_quiet && before.is_all_there_is(draft) && is_plain(draft.world, own) {
            let seen = Seen::of(draft, own);
            let said = Said::since(&before, draft, service, &seen);
            self.kept.insert(service.key.clone(), Kept { seen, said, until, pass: self.pass });
        }
    }

    /// Ends a pass: what was not part of it is forgotten.
    pub(super) fn end(&mut self) {
        self.kept.retain(|_, kept| kept.pass == self.pass);
    }
}

impl Setting {
    fn of(world: &World) -> Self {
        Self {
            instance: world.instance.clone(),
            config: world.config.clone(),
            engine: world.engine.clone(),
            limits_later: world.limits_later,
            holds_networks: world.holds_networks,
        }
    }

    fn holds(&self, world: &World) -> bool {
        let Self { instance, config, engine, limits_later, holds_networks } = self;
        (instance, config, engine) == (&world.instance, &world.config, &world.engine)
            && (*limits_later, *holds_networks) == (world.limits_later, world.holds_networks)
    }
}

impl Kept {
    fn holds(&self, draft: &Draft<'_>, own: &Own<'_, '_>) -> bool {
        self.until.is_none_or(|at| at > draft.now.tick) && self.seen.holds(draft, own)
    }
}
