//! What is written of the services of a history.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::sample::{
    annotated, at_least, component, container, fingerprint, predicting, probe, service, unresolvable,
};
use super::super::sim::Sim;
use super::{Event, NAMES};
use crate::api::{ComponentKind, meta};
use crate::plan::gpus::GPU_SHARING;
use crate::plan::rollout::replace::ROLLOUT;
use crate::plan::world::{DesiredCanary, DesiredService, ResolvedWorkload};
use crate::scale::{Hooks, Metric, Policy, Target, Warm, Way};
use crate::workload::{Workload, names};

/// A way to rest whose server cannot be woken.
pub(in super::super) const DOES_NOT_WAKE: u8 = 3;

/// What is wanted of a service.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Shape {
    pub(in super::super) image: &'static str,
    pub(in super::super) replicas: u32,
    /// Most replicas beyond the fewest, where load may add some.
    pub(in super::super) more: Option<u32>,
    pub(in super::super) canary: Option<u32>,
    pub(in super::super) sidecar: bool,
    pub(in super::super) init: bool,
    pub(in super::super) liveness: bool,
    pub(in super::super) stopped: bool,
    pub(in super::super) unresolvable: bool,
    pub(in super::super) rest: u8,
    /// What it asks for, in MiB; nothing when 0.
    pub(in super::super) memory: u64,
    /// A named canary: its percent, and whether it ever answers.
    pub(in super::super) named: Option<(u32, bool)>,
    /// Whether it never sleeps although it may have no replica.
    pub(in super::super) pinned: bool,
    /// How a new revision takes over: what the annotation says, if it is there.
    pub(in super::super) rollout: Option<&'static str>,
    /// Whether requests go through a transformer, which answers and asks for a quarter of the memory.
    pub(in super::super) transformer: bool,
    pub(in super::super) habits: Habits,
}

/// What is seldom written of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Habits {
    /// Hours in which it does not sleep.
    pub(in super::super) warm: Option<Hours>,
    /// Its place among those that are woken when the daemon starts.
    pub(in super::super) preload: Option<i32>,
    /// Whether it scales by requests a second instead of those in flight.
    pub(in super::super) rps: bool,
    /// Whether fewer replicas must have been wanted for half a minute.
    pub(in super::super) delay: bool,
    /// Whether it wants a GPU for itself.
    pub(in super::super) gpu: bool,
}

/// Hours in which a service does not sleep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Hours {
    /// Over when a history ends.
    Morning,
    /// Under way when a history ends.
    Evening,
}

/// A service that sleeps by being paused and asks for nothing in particular.
pub(in super::super) const SLEEPER: Shape = Shape {
    image: "server:good1",
    replicas: 0,
    more: None,
    canary: None,
    sidecar: false,
    init: false,
    liveness: false,
    stopped: false,
    unresolvable: false,
    rest: 0,
    memory: 0,
    named: None,
    pinned: false,
    rollout: None,
    transformer: false,
    habits: Habits { warm: None, preload: None, rps: false, delay: false, gpu: false },
};

impl Shape {
    pub(in super::super) fn workload(self, name: &str) -> Workload {
        let mut workload = predicting(name, self.image);
        workload.scaling = self.scaling();
        workload.scaling.max = self.more.map(|more| self.replicas.max(1) + more);
        workload.scaling.resting.way = self.way();
        workload.annotations.extend(self.rollout.map(|way| (ROLLOUT.to_owned(), way.to_owned())));
        workload.canary_percent = self.canary;
        workload.containers[0].resources.memory_request = (self.memory > 0).then_some(self.memory << 20);
        if self.habits.gpu {
            workload.containers[0].resources.gpus.insert("nvidia.com/gpu".to_owned(), 1);
            workload.annotations.insert(GPU_SHARING.to_owned(), "exclusive".to_owned());
        }
        if self.liveness {
            workload.containers[0].probes.liveness = Some(probe("/live", 5, 2));
        }
        if self.sidecar {
            workload.containers.push(container("agent", "agent:good1"));
        }
        if self.init {
            workload.init_containers.push(container("prepare", "prepare:init"));
        }
        workload
    }

    /// How both of its components scale.
    fn scaling(self) -> Policy {
        let metric = if self.habits.rps { Metric::Rps } else { Metric::Concurrency };
        let mut scaling = at_least(self.replicas);
        scaling.target = Some(Target { metric, per_replica: 2.0 });
        scaling.scale_down_delay = Duration::from_secs(if self.habits.delay { 30 } else { 0 });
        scaling.resting.pinned = self.pinned;
        scaling.resting.preload = self.habits.preload;
        let hours = self.habits.warm.map(|hours| if hours == Hours::Morning { "06:00-12:00" } else { "16:00-22:00" });
        scaling.resting.warm = hours.and_then(Warm::parse);
        scaling
    }

    pub(in super::super) fn has_transformer(self) -> bool {
        self.transformer && !self.unresolvable
    }

    fn made_by_transformer(self, name: &str) -> Workload {
        let mut workload = component(name, ComponentKind::Transformer, "transformer:good1");
        workload.scaling = self.scaling();
        workload.containers[0].args = vec![name.to_owned()];
        workload.containers[0].resources.memory_request = (self.memory > 0).then_some(self.memory << 18);
        workload
    }

    /// What its components ask for together, in MiB.
    pub(in super::super) fn together(self) -> u64 {
        if self.transformer { self.memory + self.memory.div_ceil(4) } else { self.memory }
    }

    fn way(self) -> Way {
        let hooks = |sleep: &str| Hooks { sleep: sleep.to_owned(), ..Hooks::default() };
        match self.rest {
            0 => Way::Pause,
            1 => Way::Hook(hooks("/sleep")),
            2 => Way::Hook(hooks("/absent")),
            DOES_NOT_WAKE => Way::Hook(Hooks { wake: "/broken".to_owned(), ..hooks("/sleep") }),
            _ => Way::Stop,
        }
    }

    /// Whether it may have no replica when a history ends.
    pub(in super::super) fn sleeps(self) -> bool {
        self.replicas == 0 && !self.pinned && self.habits.warm != Some(Hours::Evening)
    }

    fn service(self, name: &str) -> DesiredService {
        let transformer = self.transformer.then(|| self.made_by_transformer(name));
        let service = match self.unresolvable {
            true => unresolvable(name),
            false => service(name, [self.workload(name)].into_iter().chain(transformer).collect()),
        };
        let canaries = self.named.iter().map(|(percent, answers)| self.canary(name, *percent, *answers)).collect();
        let service = DesiredService { canaries, ..service };
        if self.stopped { annotated(service, meta::STOP, "true") } else { service }
    }

    /// A named canary; what never answers would keep a service awake that may sleep.
    pub(super) fn canary(self, name: &str, percent: u32, answers: bool) -> DesiredCanary {
        let image = if answers || self.sleeps() { "canary:good1" } else { "canary:never" };
        let mut workload = predicting(name, image);
        workload.containers[0].resources.memory_request = (self.memory > 0).then_some(self.memory << 20);
        let workload = Workload {
            service_name: names::component_service_name(name, ComponentKind::Predictor, Some("green")),
            canary: Some("green".to_owned()),
            scaling: at_least(1),
            ..workload
        };
        let resolved = ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
        DesiredCanary { name: "green".to_owned(), percent, resolution: Ok(resolved) }
    }
}

/// A change to what is written already.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Edit {
    Image(&'static str),
    Canary(Option<u32>),
    Stop(bool),
    Pin(bool),
    Replicas(u32),
    Transformer(bool),
    Habits(Habits),
    /// What was written before is written again.
    Undo,
}

/// What was written of each service last, and before that.
#[derive(Default)]
pub(in super::super) struct Written {
    pub(in super::super) last: [Option<Shape>; NAMES.len()],
    before: [Option<Shape>; NAMES.len()],
}

impl Written {
    /// Writes what an event writes.
    pub(super) fn follow(&mut self, sim: &mut Sim, event: &Event) {
        let (index, shape) = match event {
            Event::Apply(index, shape) => (*index, Some(*shape)),
            Event::Delete(index) => (*index, None),
            Event::Edit(index, edit) => {
                let Some(last) = self.last[*index] else { return };
                let shape = match *edit {
                    Edit::Image(image) => Shape { image, ..last },
                    Edit::Canary(canary) => Shape { canary, ..last },
                    Edit::Stop(stopped) => Shape { stopped, ..last },
                    Edit::Pin(pinned) => Shape { pinned, ..last },
                    Edit::Replicas(replicas) => Shape { replicas, ..last },
                    Edit::Transformer(transformer) => Shape { transformer, ..last },
                    Edit::Habits(habits) => Shape { habits, ..last },
                    Edit::Undo => self.before[*index].unwrap_or(last),
                };
                (*index, Some(shape))
            }
            _ => return,
        };
        self.before[index] = std::mem::replace(&mut self.last[index], shape);
        match shape {
            Some(shape) => sim.apply(shape.service(NAMES[index])),
            None => sim.delete(NAMES[index]),
        }
    }
}

fn image() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        5 => Just("server:good1"),
        3 => Just("server:good2"),
        1 => Just("server:slow"),
        1 => Just("server:never"),
        1 => Just("server:crash"),
    ]
}

fn canary() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![6 => Just(None), 3 => (0..=100u32).prop_map(Some)]
}

fn habits() -> impl Strategy<Value = Habits> {
    let rare = || prop::bool::weighted(0.15);
    let warm = prop_oneof![5 => Just(None), 1 => Just(Some(Hours::Morning)), 1 => Just(Some(Hours::Evening))];
    let preload = prop_oneof![5 => Just(None), 1 => (0..3i32).prop_map(Some)];
    (warm, preload, rare(), rare(), rare()).prop_map(|(warm, preload, rps, delay, gpu)| Habits {
        warm,
        preload,
        rps,
        delay,
        gpu,
    })
}

pub(super) fn shape(memory: Range<u64>) -> impl Strategy<Value = Shape> {
    let rare = || prop::bool::weighted(0.15);
    let more = prop_oneof![1 => Just(None), 1 => (1..4u32).prop_map(Some)];
    let named = prop_oneof![3 => Just(None), 1 => (0..=100u32, prop::bool::weighted(0.7)).prop_map(Some)];
    let rollout = prop_oneof![6 => Just(None), 1 => Just(Some("replace")), 1 => Just(Some("beside"))];
    let unresolvable = prop::bool::weighted(0.1);
    let seldom = (rare(), rare(), rare(), unresolvable, rare(), rollout, rare(), habits());
    (image(), (0..3u32, more, canary(), memory, named), (rare(), 0..7u8), seldom).prop_map(
        |(
            image,
            (replicas, more, canary, memory, named),
            (sidecar, rest),
            (init, liveness, stopped, unresolvable, pinned, rollout, transformer, habits),
        )| Shape {
            image,
            replicas,
            more,
            canary,
            sidecar,
            init,
            liveness,
            stopped,
            unresolvable,
            memory,
            rest,
            named,
            pinned,
            rollout,
            transformer,
            habits,
        },
    )
}

pub(super) fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => image().prop_map(Edit::Image),
        3 => canary().prop_map(Edit::Canary),
        1 => any::<bool>().prop_map(Edit::Stop),
        1 => any::<bool>().prop_map(Edit::Pin),
        1 => (0..3u32).prop_map(Edit::Replicas),
        1 => any::<bool>().prop_map(Edit::Transformer),
        1 => habits().prop_map(Edit::Habits),
        2 => Just(Edit::Undo),
    ]
}
