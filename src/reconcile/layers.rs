//! Several models in one folder: later ones over earlier ones, as upstream's downloads into one volume are.
//!
//! The folder is the replica's own. Files that are only read are links to the cache, or copies where it is on another file
//! system; files that may be written to are copies always.

use std::fs;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};

use crate::home::restrict;

/// More folders within each other than any model has: links of the user's that lead in a circle end here.
const DEEPEST: usize = 64;

/// Makes the folder unless it is there: each layer below the path it is given, and empty folders besides. Blocking.
///
/// # Errors
/// As the system says; nothing is there then.
pub(super) fn lay(
    folder: &Utf8Path,
    layers: &[(Utf8PathBuf, &str)],
    folders: &[String],
    read_only: bool,
) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let partial = Utf8PathBuf::from(format!("{folder}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let way = if read_only { Way::Link } else { Way::Copy };
    open(&partial, way)?;
    for (model, below) in layers {
        let target = partial.join(below);
        make_folders(&partial, below, way)?;
        put(model, &target, way, 0)?;
    }
    folders.iter().try_for_each(|below| make_folders(&partial, below, way))?;
    fs::rename(&partial, folder)
}

/// Copies a folder or file so that it can be written to. Blocking.
pub(super) fn copy(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    put(from, to, Way::Copy, 0)
}

/// How files get there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Link,
    Copy,
}

fn put(from: &Utf8Path, to: &Utf8Path, way: Way, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("`{from}` is a folder too deep to be a model's")));
    }
    if fs::metadata(from)?.is_dir() {
        clear(to, fs::symlink_metadata(to).is_ok_and(|meta| !meta.is_dir()))?;
        open(to, way)?;
        for entry in from.read_dir_utf8()? {
            let entry = entry?;
            put(entry.path(), &to.join(entry.file_name()), way, depth + 1)?;
        }
        return Ok(());
    }
    clear(to, fs::symlink_metadata(to).is_ok())?;
    // What is meant is the file, not a link to it, which would lead nowhere in the container.
    let file = fs::canonicalize(from)?;
    if way == Way::Link && fs::hard_link(&file, to).is_ok() {
        return Ok(());
    }
    fs::copy(&file, to)?;
    restrict(to, if way == Way::Copy { 0o666 } else { 0o444 })
}

/// Takes away what an earlier layer had there.
fn clear(path: &Utf8Path, taken: bool) -> io::Result<()> {
    match taken {
        true if path.is_dir() => fs::remove_dir_all(path),
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

fn open(folder: &Utf8Path, way: Way) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    restrict(folder, if way == Way::Copy { 0o777 } else { 0o755 })
}

fn make_folders(root: &Utf8Path, below: &str, way: Way) -> io::Result<()> {
    let mut folder = root.to_owned();
    below.split('/').filter(|part| !part.is_empty()).try_for_each(|part| {
        folder.push(part);
        open(&folder, way)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn later_layers_lie_over_earlier_ones_and_the_cache_is_never_written_to() {
        let machine = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(machine.path()).unwrap();
        let model = |name: &str, files: &[(&str, &str)]| {
            for (path, text) in files {
                let path = root.join(name).join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            root.join(name)
        };
        let base = model("base", &[("config.json", "base"), ("weights/a", "base"), ("tokenizer", "base")]);
        let over = model("over", &[("config.json", "over"), ("tokenizer/new", "over")]);
        let lora = model("lora", &[("adapter", "lora")]);
        let layers = [(base.clone(), ""), (over, ""), (lora, "weights/lora")];
        for read_only in [true, false] {
            let folder = root.join(format!("together-{read_only}"));
            lay(&folder, &layers, &["data/x".to_owned()], read_only).unwrap();
            let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap();
            assert_eq!(read("config.json"), "over");
            assert_eq!(read("weights/a"), "base");
            assert_eq!(read("weights/lora/adapter"), "lora");
            assert_eq!(read("tokenizer/new"), "over", "a folder takes the place of a file");
            assert!(folder.join("data/x").is_dir());
            let same = fs::metadata(folder.join("weights/a")).unwrap().ino()
                == fs::metadata(base.join("weights/a")).unwrap().ino();
            assert_eq!(same, read_only, "files that may be written to are copies");
            lay(&folder, &[], &[], read_only).unwrap();
            assert_eq!(read("config.json"), "over", "what is there is kept");
        }
        assert_eq!(fs::read_to_string(base.join("config.json")).unwrap(), "base");
        assert!(!base.join("data").exists() && !base.join("weights/lora").exists());
    }

    #[test]
    fn links_of_the_users_that_lead_in_a_circle_end() {
        let machine = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(machine.path()).unwrap();
        fs::create_dir(root.join("m")).unwrap();
        std::os::unix::fs::symlink(root.join("m"), root.join("m/again")).unwrap();
        assert!(lay(&root.join("t"), &[(root.join("m"), "")], &[], true).is_err());
    }
}
