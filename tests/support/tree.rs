//! A folder as a value, to compare it.

use std::collections::BTreeMap;

use camino::Utf8Path;

/// Every file of a folder, with its content.
pub(crate) fn tree(folder: &Utf8Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in at.read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.into_path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_string();
                found.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}
