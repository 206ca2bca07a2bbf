//! Histories that ended where they should not have, as short as they could be made.

use super::histories::{Edit, Event, SLEEPER, Shape, play};
use super::histories_memory;
use super::sim::Orders;

#[test]
fn what_load_added_to_the_stable_revision_stays_while_the_others_do_not_answer() {
    let history = [
        (2.301340269873476, Event::Apply(0, Shape { more: Some(1), ..SLEEPER })),
        (0.0, Event::Apply(0, Shape { image: "server:good2", canary: Some(0), ..SLEEPER })),
        (0.0, Event::Sicken(0)),
        (2.124272697679653, Event::Lease(0, 6)),
        (26.909132119209062, Event::Crash(6)),
        (1.0411798110201405, Event::Crash(1)),
        (0.0, Event::Crash(4)),
        (2.2758569123107755, Event::Pause(0)),
        (0.0, Event::Sicken(0)),
        (34.55706107189203, Event::Jump(0)),
    ];
    play(&history, false);
}

#[test]
fn a_revision_that_is_asked_nothing_again_waits_for_the_one_before_to_come_back() {
    let small = Shape { memory: 400, ..SLEEPER };
    let history = [
        (0.0, Event::Apply(0, small)),
        (3.0, Event::FailEvery(2)),
        (0.0, Event::Apply(0, Shape { replicas: 2, canary: Some(0), memory: 920, ..SLEEPER })),
        (2.598886249912194, Event::Edit(0, Edit::Canary(None))),
        (0.0, Event::Edit(0, Edit::Undo)),
    ];
    histories_memory::play(2238, false, &history);
}

#[test]
fn a_service_that_never_answered_is_not_taken_for_asleep_after_a_restart_without_an_engine() {
    let restart = |lost| Event::RestartDaemon { orders: Orders::Dropped, lost };
    let history = [
        (0.0, Event::Apply(0, Shape { image: "server:crash", ..SLEEPER })),
        (2.660124078426694, Event::Edit(0, Edit::Image("server:never"))),
        (0.0, restart(true)),
        (0.0, Event::EngineDown),
        (0.0, restart(false)),
    ];
    play(&history, false);
}
