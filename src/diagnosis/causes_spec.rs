//! What is written wrongly, or leads to something that is not there.

use super::cause::Cause;
use super::cause::Clue::{Reason, Says};

const INVALID: &[&str] = &["InvalidPredictorSpec", "InvalidSpec"];

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        id: "no-runtime",
        reasons: &["NoSupportingRuntime"],
        clue: Reason,
        what: "no runtime serves its model",
        step: "kserve-local runtimes explain {isvc}",
    },
    Cause {
        id: "runtime-unknown",
        reasons: &["RuntimeNotRecognized"],
        clue: Reason,
        what: "the runtime it names does not exist",
        step: "name one that `kserve-local runtimes` lists, or apply the ServingRuntime",
    },
    Cause {
        id: "runtime-disabled",
        reasons: &["RuntimeDisabled"],
        clue: Reason,
        what: "the runtime it names is disabled",
        step: "name another one that `kserve-local runtimes` lists, or take `disabled: true` out of this one",
    },
    Cause {
        id: "needs-engine",
        reasons: &["NeedsContainerEngine"],
        clue: Reason,
        what: "it can only run in a container, and models run as processes here",
        step: "install Docker or Podman, start it, and restart the daemon with engine: docker",
    },
    Cause {
        id: "secret-missing",
        reasons: INVALID,
        clue: Says(&["secrets \"*\" not found", "secret \"*\" not found"]),
        what: "a Secret it names is not there",
        step: "apply the Secret `{0}` to the namespace {namespace}, or take the reference out",
    },
    Cause {
        id: "config-map-missing",
        reasons: INVALID,
        clue: Says(&["configmap \"*\" not found", "configmap `*` has no"]),
        what: "a ConfigMap it names is not there, or lacks a key",
        step: "apply the ConfigMap `{0}` to the namespace {namespace}, or take the reference out",
    },
    Cause {
        id: "host-path",
        reasons: INVALID,
        clue: Says(&["folder `*` of this machine may not be mounted"]),
        what: "it mounts a folder of this machine that is not allowed",
        step: "add `{0}` to allowedHostPaths in config.yaml and send the daemon SIGHUP, or use a persistentVolumeClaim",
    },
    Cause {
        id: "spec-invalid",
        reasons: INVALID,
        clue: Reason,
        what: "its manifest asks for something that cannot be done here",
        step: "correct the field the message begins with, and apply it again",
    },
    Cause {
        id: "graph-invalid",
        reasons: &["InvalidGraph"],
        clue: Reason,
        what: "the graph cannot be run as it is written",
        step: "correct the node the message names, and apply it again",
    },
    Cause {
        id: "graph-service-missing",
        reasons: &["ServiceNotFound"],
        clue: Says(&["failed to find graph service *:"]),
        what: "a service it calls is not there",
        step: "apply the InferenceService `{0}` to the namespace {namespace}, or correct the step's serviceName",
    },
    Cause {
        id: "graph-service-not-ready",
        reasons: &["ServiceNotReady"],
        clue: Says(&["service * is not ready"]),
        what: "a service it calls is not ready",
        step: "kserve-local describe {0}{scope}",
    },
    Cause {
        id: "name-taken",
        reasons: &["NameTaken"],
        clue: Reason,
        what: "an InferenceService has its name, and so its address",
        step: "give one of the two another name",
    },
    Cause {
        id: "stopped",
        reasons: &["Stopped"],
        clue: Reason,
        what: "its annotation says so",
        step: "take the annotation serving.kserve.io/stop out of its manifest, and apply it again",
    },
];
