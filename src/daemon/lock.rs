//! One daemon per home.

use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::{FlockOperation, flock};

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
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .and_then(|()| file.flush());
        written.map_err(failed)?;
        Ok(Self { _file: file })
    }
}
