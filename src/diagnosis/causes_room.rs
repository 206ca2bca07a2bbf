//! Memory and GPUs.

use super::cause::Cause;
use super::cause::Clue::{Reason, Says};

const WAITS: &[&str] = &["WaitingForMemory"];
const REFUSED: &[&str] = &["InsufficientMemory"];

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        id: "room-made",
        reasons: WAITS,
        clue: Says(&["put to sleep to make room", "on the way out", "only just loaded"]),
        what: "others go to sleep to make room for it",
        step: "wait; kserve-local ps shows who leaves",
    },
    Cause {
        id: "room-replaced",
        reasons: WAITS,
        clue: Says(&["the revision before goes first", "the revision before stops first"]),
        what: "its revision before stops first, because both do not fit",
        step: "wait; kserve-local ps shows both",
    },
    Cause {
        id: "room-busy",
        reasons: WAITS,
        clue: Says(&["it waits until", "it waits for others"]),
        what: "others that are busy hold the memory it needs",
        step: "wait until they are idle, or stop one; kserve-local explain {isvc} shows who holds what",
    },
    Cause {
        id: "room-retry",
        reasons: WAITS,
        clue: Says(&["it failed before and nobody asks for it"]),
        what: "it failed, and is not tried again at the cost of others while nobody asks for it",
        step: "kserve-local logs {isvc} says why it failed; the next request makes room for it and tries it again",
    },
    Cause {
        id: "room-waits",
        reasons: WAITS,
        clue: Reason,
        what: "it waits for memory",
        step: "kserve-local explain {isvc}",
    },
    Cause {
        id: "memory-budget",
        reasons: REFUSED,
        clue: Says(&["(memory.budget)"]),
        what: "it needs more memory than models may have",
        step: "raise memory.budget in config.yaml, or ask for less in resources.requests.memory",
    },
    Cause {
        id: "memory-too-big",
        reasons: REFUSED,
        clue: Says(&["it can never run here"]),
        what: "it needs more memory than this machine has",
        step: "ask for less in resources.requests.memory if it is too much, else a smaller model or a larger machine",
    },
    Cause {
        id: "memory-held",
        reasons: REFUSED,
        clue: Says(&["may not sleep"]),
        what: "others hold the memory it needs, and may not sleep",
        step: "set minReplicas: 0 on one of them so that it sleeps, or remove it; kserve-local explain {isvc} shows who holds what",
    },
    Cause {
        id: "memory-others",
        reasons: REFUSED,
        clue: Says(&["other programs use"]),
        what: "other programs hold the memory it needs",
        step: "end some of them; kserve-local explain {isvc} shows the sum",
    },
    Cause {
        id: "memory",
        reasons: REFUSED,
        clue: Reason,
        what: "there is no memory for it",
        step: "kserve-local explain {isvc}",
    },
    Cause {
        id: "gpu-too-small",
        reasons: &["InsufficientGPU"],
        clue: Says(&["no gpu has room", "the biggest of this machine"]),
        what: "no GPU has enough memory for it",
        step: "kserve-local explain {isvc} shows who holds what; let one of them sleep (minReplicas: 0), or ask for less",
    },
    Cause {
        id: "gpu-absent",
        reasons: &["InsufficientGPU"],
        clue: Reason,
        what: "it asks for more GPUs than this machine has",
        step: "take nvidia.com/gpu out of its resources to run on the processor; kserve-local doctor says why GPUs are not seen",
    },
];
