//! What is known of one process container: a folder of small files.
//!
//! ```text
//! <name>/container.json   what it is; its presence is the container
//!        launch.json      the last start, ordered by the daemon: program, arguments, environment, ports
//!        running.json     that start, as its supervisor made it: who runs
//!        exit.json        how that start ended
//!        lock             held by the supervisor for as long as it lives
//!        log, log.1       output
//!        home/            HOME and working folder of the process
//! ```
//!
//! Files of a start carry its number, so that those of an earlier one say nothing. A start that has begun, has no exit and
//! whose supervisor is gone is lost: whatever is left of it is ended, and that is its exit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process_limits::Groups;
use super::process_table::{self, Identity};
use super::{Container, ContainerId, ContainerState, Exit, Reach};
use crate::workload::ProcessSpec;

/// What a container is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) image: String,
    pub(super) created_at: Timestamp,
    pub(super) process: ProcessSpec,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) working_dir: Option<String>,
    /// Path inside to path of this machine.
    pub(super) paths: Vec<(String, String)>,
    /// Ports that must be reachable.
    pub(super) ports: Vec<u16>,
    pub(super) memory_limit: Option<u64>,
    pub(super) cpu_limit_milli: Option<u64>,
    pub(super) stop_signal: Option<String>,
    /// Name of the container whose network it would share.
    pub(super) join: Option<String>,
}

/// One start, as ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) run: String,
    pub(super) id: String,
    pub(super) program: Utf8PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) working_dir: Utf8PathBuf,
    pub(super) temporary: Utf8PathBuf,
    pub(super) groups: Groups,
    /// File to hold a shared lock on meanwhile.
    pub(super) hold: Option<Utf8PathBuf>,
    /// Container port to port of this machine.
    pub(super) ports: BTreeMap<u16, u16>,
}

/// One start, as made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) run: String,
    pub(super) supervisor: Identity,
    pub(super) process: Identity,
    pub(super) started_at: Timestamp,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) run: String,
    pub(super) code: i64,
    pub(super) out_of_memory: bool,
    pub(super) error: String,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Timestamp,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Life {
    Created,
    /// The supervisor lives; it has told who runs, or is about to.
    Running(Option<Running>),
    Ended(Ended),
    /// It ran, and its supervisor is gone without a word.
    Lost(Running),
}

/// The folder of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    path: Utf8PathBuf,
}

/// Name of the file that holds the supervisor's lock.
const LOCK: &str = "lock";

impl Folder {
    pub(super) fn new(path: Utf8PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.path
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.read("container.json")
    }

    /// Whether the folder is there and holds no record that could be read, now or ever: what a loss of power leaves. One
    /// that merely cannot be opened at this moment is not meant.
    pub(super) fn is_damaged(&self) -> bool {
        match std::fs::read(self.path.join("container.json")) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).is_err(),
            Err(error) => error.kind() == io::ErrorKind::NotFound && self.path.exists(),
        }
    }

    pub(super) fn launch(&self) -> Option<Launch> {
        self.read("launch.json")
    }

    pub(super) fn home(&self) -> Utf8PathBuf {
        self.path.join("home")
    }

    /// Writes what the container is. On return it is on the disk: after a loss of power no folder may have its name and
    /// say nothing.
    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        self.write("container.json", record)?;
        File::open(self.path.join("container.json"))?.sync_all()
    }

    /// Orders a start; what earlier ones left says nothing from then on.
    pub(super) fn write_launch(&self, launch: &Launch) -> io::Result<()> {
        self.write("launch.json", launch)
    }

    pub(super) fn write_running(&self, running: &Running) -> io::Result<()> {
        self.write("running.json", running)
    }

    pub(super) fn write_ended(&self, ended: &Ended) -> io::Result<()> {
        self.write("exit.json", ended)
    }

    /// Returns what the container is doing.
    pub(super) fn life(&self) -> Life {
        // First the lock, then the files: whoever lets go of it has written its last file.
        let is_supervised = self.is_supervised();
        let Some(launch) = self.launch() else { return Life::Created };
        let ended = self.read::<Ended>("exit.json").filter(|ended| ended.run == launch.run);
        let running = self.read::<Running>("running.json").filter(|running| running.run == launch.run);
        match (ended, is_supervised, running) {
            (Some(ended), _, _) => Life::Ended(ended),
            (None, true, running) => Life::Running(running),
            (None, false, Some(running)) => Life::Lost(running),
            (None, false, None) => Life::Created,
        }
    }

    /// Ends what is left of a lost start, and records that it ended.
    pub(super) fn settle(&self, running: &Running, id: &str, now: Timestamp) -> io::Result<Ended> {
        process_table::kill_marked(id);
        if running.process.is_alive() {
            running.process.signal_group(rustix::process::Signal::KILL);
        }
        let groups = self.launch().map(|launch| launch.groups).unwrap_or_default();
        let ended = Ended {
            run: running.run.clone(),
            code: 137,
            out_of_memory: groups.memory_kills() > 0,
            error: String::new(),
            started_at: Some(running.started_at),
            finished_at: now,
        };
        groups.remove();
        self.write_ended(&ended)?;
        Ok(ended)
    }

    /// Takes the supervisor's lock; none when another supervisor has it.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let file = File::options().write(true).create(true).truncate(false).open(self.path.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_supervised(&self) -> bool {
        let Ok(file) = File::open(self.path.join(LOCK)) else { return false };
        // Shared, so that two who look do not see each other.
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path.join(name)).ok()?).ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let temporary = self.path.join(format!(".{name}.{}", std::process::id()));
        let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut file, &bytes)?;
        std::fs::rename(&temporary, self.path.join(name))
    }
}

/// A container with what it is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) folder: Folder,
    pub(super) record: Record,
    pub(super) life: Life,
}

impl Found {
    /// Returns the ports of this machine its start was given.
    pub(super) fn ports(&self) -> BTreeMap<u16, u16> {
        self.folder.launch().map(|launch| launch.ports).unwrap_or_default()
    }

    /// How many of its processes the kernel killed for memory.
    pub(super) fn memory_kills(&self) -> u64 {
        self.folder.launch().map_or(0, |launch| launch.groups.memory_kills())
    }

    /// Returns the container as an engine lists it; `joined` are the ports of those that joined it.
    pub(super) fn container(&self, joined: &BTreeMap<u16, u16>) -> Container {
        let (state, started_at, finished_at) = match &self.life {
            Life::Created => (ContainerState::Created, None, None),
            Life::Running(Some(running)) if running.process.is_stopped() => {
                (ContainerState::Paused, Some(running.started_at), None)
            }
            Life::Running(running) => (ContainerState::Running, running.as_ref().map(|run| run.started_at), None),
            Life::Lost(running) => (ContainerState::Running, Some(running.started_at), None),
            Life::Ended(ended) => {
                let exit = Exit {
                    code: ended.code,
                    out_of_memory: ended.out_of_memory,
                    error: ended.error.clone(),
                    killed_under_limit: None,
                };
                (ContainerState::Exited(exit), ended.started_at, Some(ended.finished_at))
            }
        };
        let reach = match (&state, &self.record.join) {
            (ContainerState::Running | ContainerState::Paused, None) => {
                let mut ports = joined.clone();
                ports.extend(self.ports());
                Reach::Published(ports)
            }
            _ => Reach::None,
        };
        Container {
            id: ContainerId(self.record.id.clone()),
            name: self.record.name.clone(),
            labels: self.record.labels.clone(),
            image: self.record.image.clone(),
            state,
            created_at: Some(self.record.created_at),
            up_for: None,
            started_at,
            finished_at,
            reach,
        }
    }
}

/// Reads every container below a folder, whoever's, by name. Lost ones are settled on the way.
pub(super) fn all(root: &Utf8Path, now: Timestamp) -> io::Result<Vec<Found>> {
    let entries = match root.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().starts_with('.') {
            found.extend(look(Folder::new(entry.into_path()), now));
        }
    }
    found.sort_by(|one, other| one.record.name.cmp(&other.record.name));
    Ok(found)
}

/// Reads one container.
pub(super) fn look(folder: Folder, now: Timestamp) -> Option<Found> {
    let record = folder.record()?;
    let life = match folder.life() {
        Life::Lost(running) => match folder.settle(&running, &record.id, now) {
            Ok(ended) => Life::Ended(ended),
            // Its end cannot be written down; what was left of it is ended all the same, and tried again.
            Err(_) => Life::Lost(running),
        },
        life => life,
    };
    Some(Found { folder, record, life })
}

/// Ports of this machine that running containers were given.
pub(super) fn given_ports(all: &[Found]) -> BTreeSet<u16> {
    let running = all.iter().filter(|found| matches!(found.life, Life::Running(_) | Life::Lost(_)));
    running.flat_map(|found| found.ports().into_values()).collect()
}
