//! A workload's mounts to real folders of this machine.

use std::io;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use super::layers;
use crate::engine::Bind;
use crate::home::Home;
use crate::home::restrict;
use crate::storage::Cache;
use crate::workload::{ContainerSpec, ModelRef, Mount, MountSource, Workload};

/// Why a mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The model is not in the cache any more.
    #[error("the model `{0}` is not in the cache")]
    ModelGone(String),
    /// The claim's folder is not there.
    #[error("the folder of the claim `{claim}` does not exist; make `{folder}` and put the files there")]
    NoClaim {
        /// Claim.
        claim: String,
        /// Where it is looked for.
        folder: Utf8PathBuf,
    },
    /// The path within the source is not there, or leads out of it.
    #[error("`{path}` is not a folder or file of `{source_name}`")]
    NoSubPath {
        /// Path within the source.
        path: String,
        /// What it was looked for in.
        source_name: String,
    },
    /// A scratch folder cannot be made.
    #[error("could not prepare `{path}`")]
    Scratch {
        /// Path.
        path: Utf8PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Where mounts find their sources.
#[derive(Clone, Debug)]
pub struct Mounts {
    /// Home, for claims and scratch folders.
    pub home: Home,
    /// Models.
    pub cache: Cache,
}

impl Mounts {
    /// Returns the binds of one container of a replica. Blocking; call from a blocking thread.
    ///
    /// # Errors
    /// The first mount that cannot be made.
    pub fn binds(&self, replica: &str, workload: &Workload, spec: &ContainerSpec) -> Result<Vec<Bind>, MountError> {
        self.binds_of(replica, &workload.models, &spec.mounts)
    }

    /// Returns the binds of some mounts, whose scratch folder is that of `replica`. Blocking.
    ///
    /// # Errors
    /// As [`Mounts::binds`].
    pub fn binds_of(&self, replica: &str, models: &[ModelRef], mounts: &[Mount]) -> Result<Vec<Bind>, MountError> {
        mounts.iter().map(|mount| self.bind(replica, models, mount)).collect()
    }

    /// Returns the scratch folder of a replica.
    pub fn scratch(&self, replica: &str) -> Utf8PathBuf {
        self.home.scratch().join(replica)
    }

    fn bind(&self, replica: &str, models: &[ModelRef], mount: &Mount) -> Result<Bind, MountError> {
        let target = mount.path.clone();
        let at = |source: Utf8PathBuf| -> Result<Bind, MountError> {
            let source = within(&source, mount.sub_path.as_deref())?;
            Ok(Bind::Path { source, target: target.clone(), read_only: mount.read_only })
        };
        match &mount.source {
            MountSource::Model(index) => {
                let path = self.model(models, *index)?;
                if mount.read_only { at(path) } else { at(self.writable_copy(replica, *index, &path)?) }
            }
            MountSource::Together { layers, folders } => {
                let layers = layers.iter().map(|layer| Ok((self.model(models, layer.model)?, layer.path.as_str())));
                let layers = layers.collect::<Result<Vec<_>, MountError>>()?;
                // Paths are longer than names may be.
                let digest = Sha256::digest(mount.path.as_bytes());
                let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
                let folder = self.scratch(replica).join(format!("together-{name}"));
                let laid = layers::lay(&folder, &layers, folders, mount.read_only);
                laid.map_err(|source| MountError::Scratch { path: folder.clone(), source })?;
                at(folder)
            }
            MountSource::EmptyDir { memory: true, size_limit, .. } => Ok(Bind::Tmpfs { target, size: *size_limit }),
            MountSource::EmptyDir { volume, .. } => {
                let folder = self.scratch(replica).join(volume);
                let made = std::fs::create_dir_all(&folder).and_then(|()| restrict(&folder, 0o777));
                made.map_err(|source| MountError::Scratch { path: folder.clone(), source })?;
                if let Some(path) = &mount.sub_path {
                    make_below(&folder, path)
                        .map_err(|source| MountError::Scratch { path: folder.join(path), source })?;
                }
                at(folder)
            }
            MountSource::Files { volume, files, mode } => {
                let folder = self.scratch(replica).join(volume);
                for (name, contents) in files {
                    let path = folder.join(name);
                    write(&path, contents, *mode).map_err(|source| MountError::Scratch { path, source })?;
                }
                at(folder)
            }
            MountSource::Claim { namespace, claim } => {
                let folder = self.home.claim(namespace, claim);
                if !folder.is_dir() {
                    return Err(MountError::NoClaim { claim: claim.clone(), folder });
                }
                at(folder)
            }
            MountSource::HostPath { path } => at(path.into()),
        }
    }

    /// Returns where a model is.
    fn model(&self, models: &[ModelRef], index: usize) -> Result<Utf8PathBuf, MountError> {
        let model = &models[index];
        let gone = || MountError::ModelGone(model.uri.redacted());
        Ok(self.cache.lookup(&model.uri).ok_or_else(gone)?.path)
    }

    /// A writable mount never shows the cache itself: others share it.
    fn writable_copy(&self, replica: &str, index: usize, model: &Utf8Path) -> Result<Utf8PathBuf, MountError> {
        let folder = self.scratch(replica).join(format!("model-{index}"));
        if folder.exists() {
            return Ok(folder);
        }
        let partial = self.scratch(replica).join(format!(".model-{index}.partial"));
        let failed = |source| MountError::Scratch { path: folder.clone(), source };
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(failed)?;
        }
        layers::copy(model, &partial).map_err(failed)?;
        std::fs::rename(&partial, &folder).map_err(failed)?;
        Ok(folder)
    }
}

fn write(path: &Utf8Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
        restrict(parent, 0o755)?;
    }
    // Container users are others to us; the folder above is for this user alone, so only mounts show these files.
    crate::home::write_atomically(path, contents, mode).and_then(|()| restrict(path, mode))
}

/// Whether a path goes down only.
fn is_plain(path: &Utf8Path) -> bool {
    path.components().all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir))
}

/// Makes the folders of a path that are not there, for everybody. Containers that run may have put links in the way: none
/// is followed, and what is there already is left as it is.
fn make_below(folder: &Utf8Path, path: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, fchmod, mkdirat, open, openat};
    use rustix::io::Errno;
    let everybody = Mode::from_raw_mode(0o777);
    let to_change = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Folders of a container's may not be ours to read.
    #[cfg(target_os = "linux")]
    let to_pass = to_change | OFlags::PATH;
    #[cfg(not(target_os = "linux"))]
    let to_pass = to_change;
    if !is_plain(path.into()) {
        return Ok(());
    }
    let mut at = open(folder.as_str(), to_pass, Mode::empty())?;
    for part in Utf8Path::new(path).components().filter(|part| matches!(part, Utf8Component::Normal(_))) {
        match mkdirat(&at, part.as_str(), everybody) {
            Ok(()) => {
                at = openat(&at, part.as_str(), to_change, Mode::empty())?;
                // The umask took its part of the mode.
                fchmod(&at, everybody)?;
            }
            Err(Errno::EXIST) => match openat(&at, part.as_str(), to_pass, Mode::empty()) {
                Ok(below) => at = below,
                // A file or a link: whether it may be mounted is found out next.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns where a path within a source really is; never outside of it.
fn within(source: &Utf8Path, sub_path: Option<&str>) -> Result<Utf8PathBuf, MountError> {
    let Some(path) = sub_path.filter(|path| !path.is_empty()) else { return Ok(source.to_owned()) };
    let refused = || MountError::NoSubPath { path: path.to_owned(), source_name: source.to_string() };
    if !is_plain(path.into()) {
        return Err(refused());
    }
    match (source.join(path).canonicalize_utf8(), source.canonicalize_utf8()) {
        (Ok(real), Ok(root)) if real.starts_with(&root) => Ok(real),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Utf8Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn mounts() -> (tempfile::TempDir, Utf8PathBuf, Mounts) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        let cache = Cache::open(root.join("cache")).unwrap();
        let mounts = Mounts { home: Home::new(root.join("home")), cache };
        (folder, root, mounts)
    }

    fn below(path: &str) -> Mount {
        let source = MountSource::EmptyDir { volume: "work".to_owned(), memory: false, size_limit: None };
        Mount { path: "/data".to_owned(), source, sub_path: Some(path.to_owned()), read_only: false }
    }

    #[test]
    fn a_link_that_a_container_left_is_not_followed() {
        let (_folder, root, mounts) = mounts();
        let theirs = root.join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        restrict(&theirs, 0o700).unwrap();
        let volume = mounts.scratch("r").join("work");
        std::fs::create_dir_all(&volume).unwrap();
        std::os::unix::fs::symlink(&theirs, volume.join("data")).unwrap();
        for path in ["data", "data/below", "../../..", "/etc"] {
            let bound = mounts.binds_of("r", &[], &[below(path)]);
            assert!(matches!(bound, Err(MountError::NoSubPath { .. })), "{path}: {bound:?}");
        }
        assert_eq!(mode(&theirs), 0o700);
        assert!(!theirs.join("below").exists());
    }

    #[test]
    fn folders_of_a_scratch_volume_are_made_for_everybody_and_links_inside_are_fine() {
        let (_folder, _, mounts) = mounts();
        let volume = mounts.scratch("r").join("work");
        mounts.binds_of("r", &[], &[below("a/./b")]).unwrap();
        assert_eq!((mode(&volume.join("a")), mode(&volume.join("a/b"))), (0o777, 0o777));
        restrict(&volume.join("a"), 0o755).unwrap();
        std::os::unix::fs::symlink("a", volume.join("link")).unwrap();
        let bound = mounts.binds_of("r", &[], &[below("link/b")]).unwrap();
        assert!(matches!(&bound[..], [Bind::Path { source, .. }] if *source == volume.join("a/b")), "{bound:?}");
        assert_eq!(mode(&volume.join("a")), 0o755, "what is there is left as it is");
    }
}
