//! The folder `/models` of an image, put together from its layers.
//!
//! Layers are read from the uppermost down: what an upper layer has, or takes away with a whiteout, is not taken from a
//! lower one (OCI image layer specification). Everything else of the image is passed over unread.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use camino::{Utf8Path, Utf8PathBuf};
use tar::EntryType;

use super::names;
use super::record::RecordedFile;
use super::unpack::{ArchiveLimits, Sandbox, UnpackError, hostile, unread};

/// The folder that models are in.
const FOLDER: &str = "models";
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Unpacks the model of an image's layers, lowest first, into the new folder `into`. Blocking.
///
/// # Errors
/// See [`UnpackError`]; `into` then holds a part that must not be used.
pub(super) fn unpack_layers(
    layers: &[Utf8PathBuf],
    into: &Utf8Path,
    limits: &ArchiveLimits,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<RecordedFile>, UnpackError> {
    let sizes = layers.iter().map(|layer| std::fs::metadata(layer).map(|meta| meta.len()));
    let size = sizes.sum::<std::io::Result<u64>>().map_err(UnpackError::Disk)?;
    let mut sandbox = Sandbox::new(into, size, limits, stop)?;
    let mut upper = Upper::default();
    for layer in layers.iter().rev() {
        let mut file = BufReader::with_capacity(1 << 17, File::open(layer).map_err(UnpackError::Disk)?);
        let start = file.fill_buf().map_err(UnpackError::Disk)?;
        match start {
            [0x1f, 0x8b, ..] => one(flate2::bufread::MultiGzDecoder::new(file), &mut upper, &mut sandbox)?,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(UnpackError::Unread("zstd compression of layers is not read.")),
            _ => one(file, &mut upper, &mut sandbox)?,
        }
    }
    sandbox.finish().map_err(|error| match error {
        UnpackError::Broken(_) => UnpackError::Unread("The OCI image has no /models/ directory, or it is empty."),
        other => other,
    })
}

/// What the layers above have done.
#[derive(Default)]
struct Upper {
    taken: BTreeSet<Utf8PathBuf>,
    /// Paths that are gone, with what is below them.
    removed: BTreeSet<Utf8PathBuf>,
    /// Folders of which nothing below shows.
    opaque: BTreeSet<Utf8PathBuf>,
}

impl Upper {
    fn hides(&self, path: &Utf8Path) -> bool {
        self.taken.contains(path)
            || path.ancestors().any(|above| self.removed.contains(above))
            || path.ancestors().skip(1).any(|above| self.opaque.contains(above))
            // A file above stands where a folder was.
            || path.ancestors().skip(1).any(|above| self.taken.contains(above))
    }
}

fn one(stream: impl Read, upper: &mut Upper, into: &mut Sandbox<'_>) -> Result<(), UnpackError> {
    let mut here = Upper::default();
    let mut archive = tar::Archive::new(into.meter(stream));
    for entry in archive.entries().map_err(unread)? {
        let mut entry = entry.map_err(unread)?;
        into.count_entry()?;
        into.spend(0)?;
        let Ok(name) = String::from_utf8(entry.path_bytes().into_owned()) else { continue };
        let Some(path) = below_models(&name)? else { continue };
        let kind = entry.header().entry_type();
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Utf8Path::new("")).to_owned();
        if name == OPAQUE {
            here.opaque.insert(parent);
            continue;
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            here.removed.insert(parent.join(gone));
            continue;
        }
        if path.as_str().is_empty() || kind.is_pax_global_extensions() || upper.hides(&path) {
            continue;
        }
        if kind.is_dir() {
            into.folder(&path)?;
            continue;
        }
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target = String::from_utf8(target).map_err(|_| hostile("it has a link that is no UTF-8 text"))?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let (mode, size) = (entry.header().mode().unwrap_or(0), entry.size());
                into.file(path.clone(), mode, size, &mut entry)?;
            }
            EntryType::Symlink => into.link(path.clone(), &target)?,
            EntryType::Link => match below_models(&target)? {
                Some(target) => into.same_as(path.clone(), target.as_str())?,
                None => return Err(hostile(&format!("`{path}` is a hard link to a file outside of /models"))),
            },
            _ => return Err(hostile(&format!("`{path}` is neither file, folder nor link"))),
        }
        here.taken.insert(path);
    }
    upper.taken.append(&mut here.taken);
    upper.removed.append(&mut here.removed);
    upper.opaque.append(&mut here.opaque);
    Ok(())
}

/// Returns the path below `/models`; none for what is elsewhere.
fn below_models(name: &str) -> Result<Option<Utf8PathBuf>, UnpackError> {
    let mut parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    if parts.next() != Some(FOLDER) {
        return Ok(None);
    }
    let rest = parts.collect::<Vec<_>>().join("/");
    if rest.is_empty() { Ok(Some(Utf8PathBuf::new())) } else { Ok(Some(names::check(&rest)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn unpacked(layers: &[Vec<u8>]) -> Result<Vec<(String, String)>, UnpackError> {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let paths: Vec<_> = (0..layers.len()).map(|index| root.join(index.to_string())).collect();
        paths.iter().zip(layers).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        let into = root.join("files");
        let files = unpack_layers(&paths, &into, &ArchiveLimits::default(), &|| false)?;
        Ok(files
            .iter()
            .map(|file| (file.path.to_string(), std::fs::read_to_string(into.join(&file.path)).unwrap()))
            .collect())
    }

    #[test]
    fn the_model_of_an_image_is_what_a_container_of_it_would_see() {
        let base = layer(&[
            ("etc/passwd", "x"),
            ("models/a", "old"),
            ("models/gone", "1"),
            ("models/d/x", "1"),
            ("models/e/y", "2"),
        ]);
        let upper = layer(&[
            ("./models/a", "new"),
            ("models/.wh.gone", ""),
            ("models/d/.wh..wh..opq", ""),
            ("models/d/z", "3"),
        ]);
        let got = unpacked(&[base, upper]).unwrap();
        let expected = [("a", "new"), ("d/z", "3"), ("e/y", "2")];
        assert_eq!(got, expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
    }

    #[test]
    fn an_image_without_models_is_told() {
        let error = unpacked(&[layer(&[("etc/passwd", "x")])]).unwrap_err();
        assert!(error.to_string().contains("no /models/ directory"), "{error}");
    }

    /// A layer with one file outside of `/models` that is as long as 200 times everything, compressed.
    fn bomb() -> Vec<u8> {
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()));
        let mut header = tar::Header::new_gnu();
        header.set_size(256 << 20);
        header.set_mode(0o644);
        archive.append_data(&mut header, "var/zeros", std::io::Read::take(std::io::repeat(0), 256 << 20)).unwrap();
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn what_is_passed_over_counts_and_can_be_stopped() {
        assert!(matches!(unpacked(&[layer(&[("models/a", "1")]), bomb()]), Err(UnpackError::Hostile(_))));
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::write(root.join("0"), bomb()).unwrap();
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) >= 20;
        let limits = ArchiveLimits { floor: u64::MAX, ..ArchiveLimits::default() };
        let stopped = unpack_layers(&[root.join("0")], &root.join("files"), &limits, &stop);
        assert!(matches!(stopped, Err(UnpackError::Stopped)), "{stopped:?}");
    }
}
