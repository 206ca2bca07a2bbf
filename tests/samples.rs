//! Every manifest of upstream's samples ends accepted, accepted with warnings, or refused by name.

use std::path::{Path, PathBuf};

use kserve_local::manifest::decode;

/// Returns upstream's folder; when it is not there the test is skipped, loudly.
fn upstream(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/kserve-upstream");
    let folder = std::env::var_os("KSERVE_UPSTREAM_DIR").map_or(beside, PathBuf::from);
    if folder.join("samples").is_dir() {
        return Some(folder);
    }
    let line = format!("SKIPPED: {test}: upstream's manifests are not at hand (set KSERVE_UPSTREAM_DIR)");
    println!("{line}");
    if let Some(list) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let earlier = std::fs::read_to_string(&list).unwrap_or_default();
        std::fs::write(&list, format!("{earlier}{line}\n")).unwrap();
    }
    None
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn dump() {
    let Some(upstream) = upstream("dump") else { return };
    let samples = upstream.join("samples");
    for path in yaml_files(&samples) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&samples).unwrap().display().to_string();
        let decoded = decode(&name, &text);
        println!("=== {name}: {} ok, {} failed", decoded.objects.len(), decoded.failed.len());
        for d in &decoded.diagnostics {
            println!("{d} [{:?}] {}", d.code, d.help.clone().unwrap_or_default());
        }
    }
}
