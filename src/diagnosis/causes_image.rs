//! Images, and environments of processes: what a server runs in.

use super::cause::Cause;
use super::cause::Clue::{Reason, Says};

const IMAGE: &[&str] = &["ImagePullFailed"];
const ENVIRONMENT: &[&str] = &["EnvironmentFailed"];

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        id: "image-never",
        reasons: IMAGE,
        clue: Says(&["imagepullpolicy is never"]),
        what: "its image is not on this machine and may not be pulled",
        step: "docker pull {quoted} (or docker load), or take imagePullPolicy: Never out",
    },
    Cause {
        id: "image-offline",
        reasons: IMAGE,
        clue: Says(&["this is offline mode"]),
        what: "its image is not on this machine, and nothing is fetched offline",
        step: "docker load < IMAGE.tar, or start the daemon once without --offline",
    },
    Cause {
        id: "image-reference",
        reasons: &["InvalidImageName", "ImagePullFailed"],
        clue: Says(&["invalid reference", "repository name must be"]),
        what: "its image's name cannot be a name of an image",
        step: "correct the name: REGISTRY/REPOSITORY:TAG in lower case, without https://",
    },
    Cause {
        id: "image-platform",
        reasons: IMAGE,
        clue: Says(&["no matching manifest", "no match for platform", "does not match the specified platform"]),
        what: "its image is not made for this machine's processor",
        step: "choose a tag that is (docker manifest inspect {quoted} lists them), or build it: docker buildx build --load",
    },
    Cause {
        id: "image-rate",
        reasons: IMAGE,
        clue: Says(&["toomanyrequests", "rate limit"]),
        what: "the registry gives out no more images for now",
        step: "docker login, or wait: it is tried again by itself",
    },
    Cause {
        id: "image-disk",
        reasons: IMAGE,
        clue: Says(&["no space left"]),
        what: "the engine's disk is full",
        step: "docker system df shows what takes it; docker image prune -a frees what nothing uses",
    },
    Cause {
        id: "image-tls",
        reasons: IMAGE,
        clue: Says(&["http response to https", "x509", "certificate"]),
        what: "the registry's certificate is not trusted, or it speaks plain HTTP",
        step: "tell the engine: certs.d/REGISTRY/ca.crt, or insecure-registries in its daemon.json",
    },
    Cause {
        id: "image-network",
        reasons: IMAGE,
        clue: Says(&["the registry `*` does not answer", "dial tcp", "no such host"]),
        what: "the registry of its image does not answer",
        step: "check the network and the engine's proxy, or bring the image by hand: docker load < IMAGE.tar",
    },
    Cause {
        id: "image-private",
        reasons: IMAGE,
        clue: Says(&["pull access denied", "repository does not exist or may require"]),
        what: "its image does not exist, or is private",
        step: "correct the name `{quoted}`; if it is private: docker login, or imagePullSecrets",
    },
    Cause {
        id: "image-unauthorized",
        reasons: IMAGE,
        clue: Says(&["unauthorized", "no basic auth credentials", "authentication required", "denied", "forbidden"]),
        what: "the registry of its image wants a login",
        step: "docker login with the registry of `{quoted}` as the daemon's user, or imagePullSecrets",
    },
    Cause {
        id: "image-absent",
        reasons: IMAGE,
        clue: Says(&["manifest unknown", "not found", "does not exist"]),
        what: "its image does not exist",
        step: "correct name and tag of `{quoted}`; docker manifest inspect IMAGE says whether one is there",
    },
    Cause {
        id: "image",
        reasons: IMAGE,
        clue: Reason,
        what: "its image cannot be pulled",
        step: "docker pull {quoted} says the same in full",
    },
    Cause {
        id: "image-pulling",
        reasons: &["ImagePulling"],
        clue: Reason,
        what: "its image is being pulled",
        step: "kserve-local wait isvc/{isvc} --timeout 10m",
    },
    Cause {
        id: "python-missing",
        reasons: ENVIRONMENT,
        clue: Says(&["no python * is on this machine"]),
        what: "there is no fitting Python on this machine",
        step: "install uv (it brings Python), or Python {0} with venv; or start Docker",
    },
    Cause {
        id: "python-venv",
        reasons: ENVIRONMENT,
        clue: Says(&["cannot make environments"]),
        what: "the Python of this machine cannot make environments",
        step: "sudo apt install python3-venv, or install uv",
    },
    Cause {
        id: "packages-network",
        reasons: ENVIRONMENT,
        clue: Says(&["the package index cannot be reached"]),
        what: "the package index does not answer",
        step: "connect once, or name a mirror: PIP_INDEX_URL or UV_INDEX_URL for the daemon",
    },
    Cause {
        id: "packages-refused",
        reasons: ENVIRONMENT,
        clue: Says(&["package * cannot be installed"]),
        what: "a Python package of its server cannot be installed",
        step: "read the log the message names; a container needs no packages: start Docker",
    },
    Cause {
        id: "packages-stalled",
        reasons: ENVIRONMENT,
        clue: Says(&["the installer said nothing for"]),
        what: "the installer of its server's packages hung",
        step: "check the network; it is tried again by itself",
    },
    Cause {
        id: "environment",
        reasons: ENVIRONMENT,
        clue: Reason,
        what: "the environment its server runs in cannot be made",
        step: "kserve-local doctor, and the log the message names",
    },
    Cause {
        id: "environment-preparing",
        reasons: &["EnvironmentPreparing"],
        clue: Reason,
        what: "the environment its server runs in is being made, once",
        step: "kserve-local wait isvc/{isvc} --timeout 10m",
    },
];
