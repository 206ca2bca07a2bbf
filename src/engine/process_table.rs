//! The machine's processes: who is alive, and ending all that belong to a container.
//!
//! A process id alone says nothing, because ids are used again; a process is named by its id and the moment it started.
//! Everything a container starts carries the container's id in its environment, children included, wherever they went.

use std::io;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

/// The variable that says to which container a process belongs.
pub(super) const MARK: &str = "KSERVE_LOCAL_CONTAINER_ID";

/// One process, never mistaken for a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Process id.
    pub(super) pid: i32,
    /// When it started, in the kernel's ticks; 0 where the kernel does not tell.
    pub(super) started: u64,
}

impl Identity {
    /// Names a process that is alive now.
    pub(super) fn of(pid: i32) -> Self {
        Self { pid, started: start(pid).unwrap_or_default() }
    }

    /// Whether this very process runs; one that has ended and was not yet waited for does not.
    pub(super) fn is_alive(self) -> bool {
        match start(self.pid) {
            Some(started) => started == self.started,
            None => {
                !has_proc()
                    && Pid::from_raw(self.pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
            }
        }
    }

    /// Whether it was stopped and can go on.
    pub(super) fn is_stopped(self) -> bool {
        self.is_alive() && state(self.pid).as_deref() == Some("T")
    }

    /// Sends a signal to its whole group, which it leads. Gone is a success.
    pub(super) fn signal_group(self, signal: Signal) {
        // The leader may have ended with others of its group alive: the group's id stays taken as long as one lives.
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It ended in between, or is not ours to signal; both show in whether it ends.
            let _ = kill_process_group(pid, signal);
        }
    }
}

fn has_proc() -> bool {
    cfg!(target_os = "linux")
}

/// When a process started; none when it is gone or only waits to be waited for.
fn start(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted behind it: state is the 3rd, start the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

fn state(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next().map(str::to_owned)
}

/// Whether this system tells who is stopped.
pub(super) fn tells_stopped() -> bool {
    has_proc()
}

/// Kills everything that carries a container's id. Returns how many there were.
pub(super) fn kill_marked(id: &str) -> usize {
    let mark = format!("{MARK}={id}");
    let mut killed = 0;
    for pid in all() {
        let is_marked = std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()));
        if is_marked && let Some(pid) = Pid::from_raw(pid) {
            // It ended in between.
            let _ = kill_process(pid, Signal::KILL);
            killed += 1;
        }
    }
    killed
}

/// Returns the ids of every process but this one.
pub(super) fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).filter(|pid| *pid != own).collect()
}

/// Reads a signal's name, with or without `SIG`.
pub(super) fn signal(name: &str) -> Option<Signal> {
    Some(match name.trim_start_matches("SIG") {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "HUP" => Signal::HUP,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        _ => return None,
    })
}

/// Makes this process end when its parent does, however that ends. A parent that is gone already is an error.
pub(super) fn end_with(parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let is_there = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    if is_there { Ok(()) } else { Err(io::Error::other("the supervisor is gone")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_only_with_its_start() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap());
        assert!(own.is_alive());
        if has_proc() {
            assert!(own.started > 0);
            assert!(!Identity { started: own.started + 1, ..own }.is_alive(), "another one of the same id");
        }
        assert!(!Identity { pid: i32::MAX, started: 1 }.is_alive());
    }

    #[test]
    fn signals_are_known_by_name() {
        assert_eq!(signal("SIGINT"), Some(Signal::INT));
        assert_eq!(signal("TERM"), Some(Signal::TERM));
        assert_eq!(signal("SIGRTMIN+3"), None);
    }
}
