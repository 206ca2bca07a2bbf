//! The container engine itself.

use super::cause::Cause;
use super::cause::Clue::{Reason, Says};

const ENGINE: &[&str] = &["EngineUnavailable"];

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        id: "engine-denied",
        reasons: ENGINE,
        clue: Says(&["permission denied"]),
        what: "this user may not use the container engine",
        step: "sudo usermod -aG docker \"$USER\", log in again, and restart the daemon",
    },
    Cause {
        id: "engine-elsewhere",
        reasons: ENGINE,
        clue: Says(&["is not an engine on this machine"]),
        what: "the settings lead to an engine of another machine",
        step: "unset DOCKER_HOST, or set dockerHost in config.yaml to a unix:// socket, and restart the daemon",
    },
    Cause {
        id: "engine-context",
        reasons: ENGINE,
        clue: Says(&["has no context `*`", "docker context `*`"]),
        what: "the docker context it is told to use cannot be used",
        step: "docker context ls, then docker context use NAME, and restart the daemon",
    },
    Cause {
        id: "engine-stopped",
        reasons: ENGINE,
        clue: Says(&["the engine is not running"]),
        what: "the container engine is not running",
        step: "sudo systemctl start docker (or open Docker Desktop); models start by themselves then",
    },
    Cause {
        id: "engine-absent",
        reasons: ENGINE,
        clue: Says(&["there is no socket", "no such file", "is the engine installed"]),
        what: "there is no container engine",
        step: "install Docker or Podman and start it, or set DOCKER_HOST; kserve-local doctor says what was looked for",
    },
    Cause {
        id: "engine-silent",
        reasons: ENGINE,
        clue: Says(&["does not answer in time", "the connection failed"]),
        what: "the container engine does not answer",
        step: "docker info must answer; if it hangs: sudo systemctl restart docker",
    },
    Cause {
        id: "engine-not-asked",
        reasons: &["EngineNotAsked"],
        clue: Reason,
        what: "the container engine has not answered yet",
        step: "wait a moment; if it stays: kserve-local doctor",
    },
    Cause {
        id: "engine",
        reasons: ENGINE,
        clue: Reason,
        what: "the container engine cannot be used",
        step: "kserve-local doctor",
    },
];
