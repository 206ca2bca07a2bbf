//! One daemon per home.
//!
//! Two locks lie on one file: `flock`, which decides, and a record lock, which can be asked for without being taken
//! (`F_GETLK`). So a look never keeps a daemon that starts at that moment from starting.

use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

use crate::home::Home;

/// Held while the daemon lives. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The home is not free.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another kserve-local (process {pid}) already serves the home `{home}`")]
    Held {
        /// Home.
        home: String,
        /// Process id of the other, as far as it can be read.
        pid: String,
    },
    /// The lock file cannot be used.
    #[error("could not lock `{path}`")]
    Io {
        /// Path.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
}

impl Lock {
    /// Takes the lock.
    pub(super) fn take(home: &Home) -> Result<Self, LockError> {
        let path = home.lock();
        let failed = |source| LockError::Io { path: path.to_string(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut pid = String::new();
            // Whoever holds the lock wrote its id; without it the message is a little poorer.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(LockError::Held { home: home.root().to_string(), pid });
        }
        // The first lock decided; this one only shows it to whoever looks. File systems without it lose the look alone.
        let _ = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .and_then(|()| file.flush());
        written.map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Returns the process that serves a home, if one does, by looking alone: nothing is made, written or locked.
///
/// # Errors
/// The lock file is there and cannot be read.
pub(super) fn holder(home: &Home) -> Result<Option<String>, LockError> {
    let Some((mut file, found)) = look(home)? else { return Ok(None) };
    let mut written = String::new();
    // Whoever holds the lock wrote its id; without it, the kernel's answer is as good.
    let _ = file.read_to_string(&mut written);
    let kernels = || found.pid.map_or_else(|| "unknown".to_owned(), |pid| pid.as_raw_nonzero().to_string());
    Ok(Some(if written.trim().is_empty() { kernels() } else { written.trim().to_owned() }))
}

/// Returns the process that serves a home as the kernel knows it: none when nobody does, or one that has no number here.
///
/// # Errors
/// As [`holder`].
pub(super) fn process(home: &Home) -> Result<Option<Pid>, LockError> {
    Ok(look(home)?.and_then(|(_, found)| found.pid))
}

/// Returns the lock file and who has locked it.
fn look(home: &Home) -> Result<Option<(File, Flock)>, LockError> {
    let path = home.lock();
    let failed = |source| LockError::Io { path: path.to_string(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let found = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).map_err(|error| failed(error.into()))?;
    Ok(found.map(|found| (file, found)))
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;

    #[test]
    fn a_look_at_a_home_that_is_not_there_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().join("none")).unwrap();
        assert!(holder(&Home::new(root.clone())).unwrap().is_none());
        assert!(!root.exists());
    }

    #[test]
    fn a_look_does_not_keep_anybody_from_taking_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap());
        home.create().unwrap();
        drop(Lock::take(&home).unwrap());
        let looks = std::thread::spawn({
            let home = home.clone();
            move || (0..2000).for_each(|_| drop(holder(&home).unwrap()))
        });
        // Never refused, however often somebody looks meanwhile. A look of the same process cannot see its own lock: that
        // others see it is tried with two processes in `tests/run_verb.rs`.
        (0..2000).for_each(|_| drop(Lock::take(&home).unwrap()));
        looks.join().unwrap();
    }
}
