//! A folder of one pull's own, beside the model under construction; gone when the pull ends.

use std::io;

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
