//! What a sandbox gets so that its replica can call its own service: names, and a way to the gate.

use camino::Utf8PathBuf;

use crate::engine::Bind;
use crate::home::Home;
use crate::workload::{ContainerSpec, Workload, names};

/// Where the sandbox's program listens; its own address, so that it is in nobody's way.
const ADDRESS: &str = "127.0.0.80";
/// Where the sandbox's program looks for the gate.
const FOLDER: &str = "/run/kserve-local";

/// Returns what is asked of a sandbox: with a name it opens a listener and hands it in under that name.
pub(super) fn sandbox(workload: &Workload) -> ContainerSpec {
    let component = &workload.component;
    let (service, kind) = (&component.service, component.component);
    let calls = !workload.callees.is_empty();
    let name = calls.then(|| format!("{}/{}/{kind}", service.namespace, service.name));
    ContainerSpec { name: names::SANDBOX.to_owned(), args: name.into_iter().collect(), ..ContainerSpec::default() }
}

/// The entries of the hosts file.
pub(super) fn names(workload: &Workload) -> (String, Vec<String>) {
    (ADDRESS.to_owned(), workload.callees.clone())
}

/// The folder of the gate's socket.
pub(super) fn gate(home: &Home) -> Bind {
    let source: Utf8PathBuf = home.gate();
    Bind::Path { source, target: FOLDER.to_owned(), read_only: true }
}
