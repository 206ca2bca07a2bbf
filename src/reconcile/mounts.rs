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
                    let inner = folder.join(path);
                    let made = std::fs::create_dir_all(&inner).and_then(|()| restrict(&inner, 0o777));
                    made.map_err(|source| MountError::Scratch { path: inner, source })?;
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

/// Returns a path within a source; never outside of it.
fn within(source: &Utf8Path, sub_path: Option<&str>) -> Result<Utf8PathBuf, MountError> {
    let Some(path) = sub_path.filter(|path| !path.is_empty()) else { return Ok(source.to_owned()) };
    let refused = || MountError::NoSubPath { path: path.to_owned(), source_name: source.to_string() };
    let plain =
        Utf8Path::new(path).components().all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir));
    let full = source.join(path);
    if !plain || !full.exists() {
        return Err(refused());
    }
    let (real, root) = (full.canonicalize_utf8(), source.canonicalize_utf8());
    match (real, root) {
        (Ok(real), Ok(root)) if real.starts_with(&root) => Ok(full),
        _ => Err(refused()),
    }
}
