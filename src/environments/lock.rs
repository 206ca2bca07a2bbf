//! The kernel's lock on an environment: alone to make or remove it, shared to run in it.

use std::fs::File;
use std::io;
use std::time::Duration;

use camino::Utf8Path;
use rustix::fs::{FlockOperation, flock};

use super::{EnvironmentError, io as failed};

/// How often a lock that somebody else holds is tried again.
const AGAIN: Duration = Duration::from_millis(250);

fn open(path: &Utf8Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Waits until the lock is ours alone. It ends when the other process is done or dies.
pub(super) async fn take_alone(
    path: &Utf8Path,
    tell: &(dyn Fn(String) + Send + Sync),
) -> Result<File, EnvironmentError> {
    let file = open(path).map_err(|error| failed(format!("open `{path}`"), &error))?;
    let mut again = tokio::time::interval(AGAIN);
    loop {
        again.tick().await;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                tell("waiting for another process that prepares the same".to_owned());
            }
            Err(error) => return Err(failed(format!("lock `{path}`"), &error.into())),
        }
    }
}

/// Takes the lock alone if nobody has it.
pub(super) fn try_alone(path: &Utf8Path) -> Option<File> {
    let file = open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

/// Holds the lock, shared with others, until the file is dropped.
///
/// # Errors
/// As the system says, also when somebody is making or removing the environment just now.
pub fn hold_shared(path: &Utf8Path) -> io::Result<File> {
    let file = open(path)?;
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    Ok(file)
}
