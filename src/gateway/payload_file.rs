//! Payload events in a file of this machine: one CloudEvent in JSON a line, `<namespace>/<service>.jsonl`. A file that has
//! grown to [`MAX_BYTES`] is put aside as `.1`, that as `.2`, up to [`KEPT`].

use std::fs;
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;

use crate::home::restrict;

use super::payload::Event;

/// Size at which a file is put aside.
const MAX_BYTES: u64 = 10 << 20;
/// Files put aside and kept.
const KEPT: u32 = 5;

/// The folder of files.
#[derive(Debug)]
pub(crate) struct PayloadFile {
    folder: Option<Utf8PathBuf>,
}

impl PayloadFile {
    pub(crate) fn new(folder: Option<Utf8PathBuf>) -> Self {
        Self { folder }
    }

    pub(crate) async fn write(&self, event: &Event, now: Timestamp) -> Result<(), String> {
        let folder = self.folder.clone().ok_or("there is no folder for it")?;
        let service = &event.component().service;
        let (folder, name) = (folder.join(&service.namespace), format!("{}.jsonl", service.name));
        let mut line = event.to_json(now).to_string();
        line.push('\n');
        let written = tokio::task::spawn_blocking(move || append(&folder, &name, line.as_bytes(), MAX_BYTES)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn append(folder: &Utf8Path, name: &str, line: &[u8], max: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    if fs::metadata(&path).is_ok_and(|file| file.len() + line.len() as u64 > max) {
        for number in (1..KEPT).rev() {
            let (from, to) = (folder.join(format!("{name}.{number}")), folder.join(format!("{name}.{}", number + 1)));
            if from.exists() {
                fs::rename(from, to)?;
            }
        }
        fs::rename(&path, folder.join(format!("{name}.1")))?;
    }
    let is_new = !path.exists();
    let mut file = fs::File::options().create(true).append(true).open(&path)?;
    if is_new {
        // Payloads are their owner's business.
        restrict(&path, 0o600)?;
    }
    file.write_all(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_put_aside_and_a_few_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        for number in 0..9 {
            append(folder, "iris.jsonl", format!("{number}\n").as_bytes(), 2).unwrap();
        }
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(text("iris.jsonl"), "8\n");
        assert_eq!((text("iris.jsonl.1"), text("iris.jsonl.5")), ("7\n".to_owned(), "3\n".to_owned()));
        assert!(!folder.join("iris.jsonl.6").exists());
    }
}
