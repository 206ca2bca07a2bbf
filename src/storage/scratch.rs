//! A folder of one pull's own, beside the model under construction; gone when the pull ends.

use std::io;
use std::os::unix::fs::DirBuilderExt;

use camino::{Utf8Path, Utf8PathBuf};

use super::cache::remove_tree;

/// The folder. It is not made before someone needs it.
#[derive(Debug)]
pub(super) struct Scratch(Utf8PathBuf);

impl Scratch {
    /// Takes the folder beside `folder`, and removes what a pull that died left there. Blocking.
    pub(super) fn beside(folder: &Utf8Path) -> io::Result<Self> {
        let scratch = Self(Utf8PathBuf::from(format!("{folder}.work")));
        remove_tree(&scratch.0)?;
        Ok(scratch)
    }

    /// Makes a new folder among the temporary ones, for this user only. Blocking.
    pub(super) fn temporary() -> io::Result<Self> {
        let name = format!("kserve-local-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = Utf8PathBuf::try_from(std::env::temp_dir().join(name)).map_err(io::Error::other)?;
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Utf8Path {
        &self.0
    }

    /// Returns where it is, to be taken along.
    pub(super) fn clone_path(&self) -> Utf8PathBuf {
        self.0.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pull of this model.
        let _ = remove_tree(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_temporary_folder_is_for_its_owner_alone_and_goes_with_its_holder() {
        let scratch = Scratch::temporary().unwrap();
        let path = scratch.clone_path();
        std::fs::write(path.join("key"), "hush").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_ne!(Scratch::temporary().unwrap().path(), path);
        drop(scratch);
        assert!(!path.exists());
    }
}
