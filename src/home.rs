//! Where things are below the home folder.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// The home folder: `$KSERVE_LOCAL_HOME`, else `~/.kserve-local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: Utf8PathBuf,
}

impl Home {
    /// Names a home; nothing is made.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the folders people put files in, and `state/` for this user alone.
    ///
    /// # Errors
    /// A folder cannot be made; the error names it.
    pub fn create(&self) -> io::Result<()> {
        for folder in [self.services(), self.runtimes(), self.state()] {
            std::fs::create_dir_all(&folder).map_err(|error| {
                io::Error::new(error.kind(), format!("could not make the folder `{folder}`: {error}"))
            })?;
        }
        restrict(&self.state(), 0o700)
    }

    /// The folder itself.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// `services/`: manifests of any supported kind.
    pub fn services(&self) -> Utf8PathBuf {
        self.root.join("services")
    }

    /// `runtimes/`: the user's ServingRuntimes and ClusterServingRuntimes.
    pub fn runtimes(&self) -> Utf8PathBuf {
        self.root.join("runtimes")
    }

    /// `volumes/<namespace>/<claim>`: what `pvc://` means.
    pub fn claim(&self, namespace: &str, claim: &str) -> Utf8PathBuf {
        self.volumes().join(namespace).join(claim)
    }

    /// `volumes/`: the folders of all claims.
    pub fn volumes(&self) -> Utf8PathBuf {
        self.root.join("volumes")
    }

    /// `state/`: everything that is ours.
    pub fn state(&self) -> Utf8PathBuf {
        self.root.join("state")
    }

    /// Token of the API, mode 0600.
    pub fn token(&self) -> Utf8PathBuf {
        self.state().join("token")
    }

    /// Certificate authority, certificate and key of the API, mode 0600.
    pub fn tls(&self) -> Utf8PathBuf {
        self.state().join("tls.pem")
    }

    /// Lock of the running daemon.
    pub fn lock(&self) -> Utf8PathBuf {
        self.state().join("lock")
    }

    /// Addresses of the running daemon.
    pub fn addresses(&self) -> Utf8PathBuf {
        self.state().join("addresses.json")
    }

    /// Identities of objects.
    pub fn objects(&self) -> Utf8PathBuf {
        self.state().join("objects.json")
    }

    /// Who wrote which field of which object.
    pub fn managers(&self) -> Utf8PathBuf {
        self.state().join("managers.json")
    }

    /// Last good objects per file.
    pub fn last_good(&self) -> Utf8PathBuf {
        self.state().join("last-good.json")
    }

    /// Revisions per component.
    pub fn revisions(&self) -> Utf8PathBuf {
        self.state().join("revisions.json")
    }

    /// What of them changed since that was written.
    pub fn revisions_log(&self) -> Utf8PathBuf {
        self.state().join("revisions.log")
    }

    /// Versions of refreshed models.
    pub fn model_versions(&self) -> Utf8PathBuf {
        self.state().join("model-versions.json")
    }

    /// Room granted to what is being started.
    pub fn grants(&self) -> Utf8PathBuf {
        self.state().join("granted.json")
    }

    /// Returns the folder of payload logs: `<namespace>/<service>.jsonl`.
    pub fn payloads(&self) -> Utf8PathBuf {
        self.state().join("payloads")
    }

    /// Name of this instance, in container names and labels.
    pub fn instance(&self) -> Utf8PathBuf {
        self.state().join("instance")
    }

    /// Models that run as processes, a folder each.
    pub fn processes(&self) -> Utf8PathBuf {
        self.state().join("processes")
    }

    /// Name of the engine that ran models last.
    pub fn engine(&self) -> Utf8PathBuf {
        self.state().join("engine")
    }

    /// Says that an engine before the one in [`Home::engine`] may still run models of this home: its name.
    pub fn retired_engine(&self) -> Utf8PathBuf {
        self.state().join("retired-engine")
    }

    /// Folder of the socket through which replicas call their own service.
    pub fn gate(&self) -> Utf8PathBuf {
        self.state().join("gate")
    }

    /// Scratch folders of replicas.
    pub fn scratch(&self) -> Utf8PathBuf {
        self.state().join("scratch")
    }

    /// Where uncommon configuration is.
    pub fn config(&self) -> Utf8PathBuf {
        self.root.join("config.yaml")
    }
}

/// Sets the mode of a file or folder.
///
/// # Errors
/// As the system says.
pub fn restrict(path: &Utf8Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Makes a folder that was not there and is nobody else's: what lies in a folder that all may write to is not trusted.
///
/// # Errors
/// It exists, or the system says no.
pub fn make_private(path: &Utf8Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

/// Writes a file so that it is whole or as it was: a temporary name beside it, flushed to disk, renamed.
///
/// # Errors
/// As the system says; the temporary file is removed.
pub fn write_atomically(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, bytes, mode, std::fs::File::sync_all)
}

/// The same for what is worth nothing after a crash of the machine: it is not flushed.
///
/// # Errors
/// As the system says; the temporary file is removed.
pub fn write_unsynced(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, bytes, mode, |_| Ok(()))
}

fn write_beside(
    path: &Utf8Path,
    bytes: &[u8],
    mode: u32,
    flush: impl FnOnce(&std::fs::File) -> io::Result<()>,
) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let parent = path.parent().unwrap_or(Utf8Path::new("."));
    std::fs::create_dir_all(parent)?;
    let name = path.file_name().unwrap_or("file");
    let temporary = parent.join(format!(".{name}.{}.{:08x}.tmp", std::process::id(), rand::random::<u32>()));
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        flush(&file)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // The first error is the one to tell; a temporary file that stays behind is hidden and harmless.
        let _ = std::fs::remove_file(&temporary);
    })
}
