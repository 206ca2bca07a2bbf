//! The supervisor of one process: this program again, as a process of its own that outlives the daemon.
//!
//! ```text
//! daemon ── kserve-local __supervise FOLDER RUN ── kserve-local __become FOLDER PID → the server
//! ```
//!
//! The supervisor has a session of its own, holds the container's lock, keeps the output, waits, and writes down how it
//! ended. The last step before the server joins the control groups and ties its life to the supervisor's: a supervisor
//! that is killed takes the server with it, and the daemon sees it. When the server ends, whatever it started ends too.
//!
//! Nothing here is async, and nothing is decided here.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8PathBuf;
use jiff::Timestamp;

use super::process_folder::{Ended, Folder, Launch, Running};
use super::process_logs::{LogWriter, end_of, pump};
use super::process_table::{self, Identity};
use crate::environments::hold_shared;

/// The verb of the supervisor.
pub(super) const SUPERVISE: &str = "__supervise";
/// The verb of the last step.
const BECOME: &str = "__become";
/// Exit code of a program that cannot be started, as shells use it.
const CANNOT_RUN: u8 = 127;
/// Longest wait for the rest of the output after the end.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// Where the last step says why it failed.
const FAILURE: &str = "cannot-run";

/// Runs a supervisor or the last step, when the arguments (without the program's name) ask for it; returns its exit code.
pub fn run_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<u8> {
    let verb = arguments.next()?;
    let mut next = || arguments.next().and_then(|text| text.into_string().ok());
    match verb.to_str()? {
        SUPERVISE => {
            let (folder, run) = (next()?, next()?);
            Some(u8::from(supervise(&Folder::new(folder.into()), &run).is_err()))
        }
        BECOME => {
            let (folder, supervisor) = (next()?, next()?.parse().ok()?);
            let folder = Folder::new(folder.into());
            let error = become_server(&folder, supervisor);
            // Nobody else hears it.
            let _ = std::fs::write(folder.path().join(FAILURE), error.to_string());
            Some(CANNOT_RUN)
        }
        _ => None,
    }
}

/// Returns the path of this very program, also when its file was replaced.
pub(super) fn own_program() -> Utf8PathBuf {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    let path = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    path.unwrap_or_else(|| "kserve-local".into())
}

#[expect(clippy::disallowed_methods, reason = "a supervisor is a process of its own and the edge of it")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn supervise(folder: &Folder, run: &str) -> io::Result<()> {
    // It leads a group already when a shell started it by hand; then it stays where it is.
    let _ = rustix::process::setsid();
    let Some(_lock) = lock(folder)? else { return Ok(()) };
    let launch = folder.launch().filter(|launch| launch.run == run);
    let Some(launch) = launch else { return Ok(()) };
    // Someone may be collecting garbage just now; then the server fails and says what is missing.
    let _hold = launch.hold.as_ref().map(|path| hold_shared(path));
    let _ = std::fs::remove_file(folder.path().join(FAILURE));
    match spawn(folder, &launch) {
        Ok(child) => attend(folder, &launch, child),
        Err(error) => {
            let ended = Ended {
                run: launch.run.clone(),
                code: i64::from(CANNOT_RUN),
                out_of_memory: false,
                error: format!("`{}` cannot be started: {error}", launch.program),
                started_at: None,
                finished_at: now(),
            };
            launch.groups.remove();
            folder.write_ended(&ended)
        }
    }
}

/// Takes the container's lock; those who look at it hold it for moments.
fn lock(folder: &Folder) -> io::Result<Option<std::fs::File>> {
    let (_keep, never) = channel::<()>();
    for _ in 0..50 {
        if let Some(file) = folder.lock()? {
            return Ok(Some(file));
        }
        // A pause: nothing is ever sent.
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    Ok(None)
}

fn spawn(folder: &Folder, launch: &Launch) -> io::Result<Child> {
    let mut command = Command::new(own_program());
    command.args([BECOME, folder.path().as_str(), &std::process::id().to_string()]);
    command.env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(&launch.working_dir).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// The last step: what comes after it is the server.
fn become_server(folder: &Folder, supervisor: u32) -> io::Error {
    let Some(launch) = folder.launch() else { return io::Error::other("nothing says what to start") };
    let prepared = process_table::end_with(supervisor).and_then(|()| launch.groups.join());
    match prepared {
        Ok(()) => {
            let error = Command::new(&launch.program).args(&launch.args).exec();
            io::Error::new(error.kind(), format!("`{}` cannot be started: {error}", launch.program))
        }
        Err(error) => error,
    }
}

/// Stays with the server until it ends.
fn attend(folder: &Folder, launch: &Launch, mut child: Child) -> io::Result<()> {
    let process = Identity::of(child.id().cast_signed());
    let running = Running {
        run: launch.run.clone(),
        supervisor: Identity::of(std::process::id().cast_signed()),
        process,
        started_at: now(),
    };
    // Without it the daemon cannot stop the server in order; it can still end it.
    let told = folder.write_running(&running);
    let log = Arc::new(Mutex::new(LogWriter::open(folder.path())));
    let (done, finished) = channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] =
        [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|err| Box::new(err) as _)];
    for (index, stream) in streams.into_iter().enumerate() {
        let (log, done) = (Arc::clone(&log), done.clone());
        let Some(stream) = stream else { continue };
        std::thread::spawn(move || {
            pump(stream, |line| {
                log.lock().unwrap_or_else(PoisonError::into_inner).line(now(), index == 1, line);
            });
            // Nobody waits any more: the end was long enough ago.
            let _ = done.send(());
        });
    }
    drop(done);
    let status = child.wait()?;
    process.signal_group(rustix::process::Signal::KILL);
    process_table::kill_marked(&launch.id);
    for _ in 0..2 {
        // Both streams have ended, or something the server left behind still holds one.
        if finished.recv_timeout(LAST_OUTPUT).is_err() {
            break;
        }
    }
    let error = if status.code() == Some(i32::from(CANNOT_RUN)) {
        end_of(&folder.path().join(FAILURE), 4096)
    } else {
        String::new()
    };
    let ended = Ended {
        run: launch.run.clone(),
        code: code(status),
        out_of_memory: launch.groups.memory_kills() > 0,
        error,
        started_at: Some(running.started_at),
        finished_at: now(),
    };
    launch.groups.remove();
    folder.write_ended(&ended).and(told)
}

fn code(status: ExitStatus) -> i64 {
    let by_signal = status.signal().map(|signal| 128 + i64::from(signal));
    status.code().map(i64::from).or(by_signal).unwrap_or(255)
}
