//! The room order of `src/lib.rs`, and who may name what: one crate does not enforce it, so this test does.
//!
//! Three rules, checked line by line on code that is not a test:
//! 1. a room imports only rooms on lower floors;
//! 2. the pure floors (0 to [`LAST_PURE_FLOOR`]) name nothing that acts: no clock, files, sockets, processes, environment
//!    or randomness. The value types of `std::net` ([`NET_VALUES`]) are numbers, not sockets, and are allowed;
//! 3. each third-party world has one home ([`HOMES`]).
//!
//! To keep the reading simple, `use crate::{…}` and `use std::{…}` are refused: write one `use` per room.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const LAST_PURE_FLOOR: u32 = 4;
const EFFECTS: &[&str] = &[
    "tokio",
    "tokio_util",
    "futures",
    "hyper",
    "hyper_util",
    "bollard",
    "object_store",
    "reqwest",
    "notify",
    "axum",
    "rand",
    "rustix",
    "directories",
    "tracing",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
];
const NET_VALUES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "AddrParseError"];
/// Crate, and the files (by the beginning of their path) that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("serde_yaml", &["manifest/yaml"]),
    ("saphyr_parser", &["manifest/yaml"]),
    ("bollard", &["engine/docker"]),
    ("object_store", &["storage/object"]),
    ("reqwest", &["storage/", "probe/http.rs", "daemon/scrape.rs", "gateway/outside.rs", "cli/"]),
    ("notify", &["source/watch.rs"]),
    ("axum", &["kubeapi/"]),
    ("tokio_websockets", &["kubeapi/port_forward.rs"]),
    ("prometheus_client", &["telemetry/metrics.rs"]),
    ("gjson", &["graph/condition.rs"]),
    ("tar", &["storage/unpack.rs"]),
    ("zip", &["storage/unpack.rs"]),
    ("tracing_subscriber", &["telemetry/logs.rs"]),
    ("sd_notify", &["daemon/"]),
    ("clap", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("anyhow", &["cli/"]),
];

#[test]
fn a_room_imports_only_rooms_on_lower_floors() {
    let floors = floors();
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let Some(own) = floors.get(room(&file)) else { continue };
        for (number, line) in &code {
            for other in rooms_named(&file, line) {
                let floor = floors.get(other);
                if other != room(&file) && floor.is_none_or(|floor| floor >= own) {
                    let floor = floor.map_or("no floor".to_owned(), |floor| format!("floor {floor}"));
                    wrong.push(format!("src/{file}:{number}: floor {own} names `{other}` ({floor}): {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "move the type downstairs or pass a value:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_floors_name_nothing_that_acts() {
    let floors = floors();
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        if floors.get(room(&file)).is_none_or(|floor| *floor > LAST_PURE_FLOOR) {
            continue;
        }
        for (number, line) in &code {
            let acts = EFFECTS.iter().any(|effect| names(line, effect) && !is_net_value(line, effect));
            if acts || line.contains("::now(") || line.contains("std::{") {
                wrong.push(format!("src/{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "floors 0 to {LAST_PURE_FLOOR} are values in, values out:\n{}", wrong.join("\n"));
}

#[test]
fn every_third_party_world_has_one_home() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for (world, homes) in HOMES.iter().filter(|(_, homes)| !homes.iter().any(|home| file.starts_with(home))) {
            let named = code.iter().filter(|(_, line)| names(line, world));
            wrong.extend(named.map(|(number, _)| format!("src/{file}:{number}: `{world}` lives in {homes:?}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let map = read("lib.rs");
    let declared = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut declared: Vec<&str> = declared.collect();
    declared.sort_unstable();
    assert_eq!(floors().keys().map(String::as_str).collect::<Vec<_>>(), declared);
}

/// Reads the table of `src/lib.rs`: room to floor.
fn floors() -> BTreeMap<String, u32> {
    let map = read("lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | "));
    let mut floors = BTreeMap::new();
    for (floor, rooms) in rows.filter_map(|(floor, rest)| Some((floor.parse().ok()?, rest.split(" | ").next()?))) {
        let names = rooms.split("[`").skip(1).filter_map(|room| room.split_once("`]"));
        floors.extend(names.map(|(room, _)| (room.to_owned(), floor)));
    }
    assert!(floors.len() > 10, "the table of src/lib.rs could not be read: {floors:?}");
    floors
}

/// Returns every source file below `src/` with its numbered lines, without comments and tests.
fn sources() -> Vec<(String, Vec<(usize, String)>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = rust_files(&root);
    files.sort();
    let relative = files.iter().map(|path| path.strip_prefix(&root).expect("it was found there").display().to_string());
    let is_test = |file: &String| file.contains("/tests/") || file.ends_with("tests.rs");
    relative.filter(|file| !is_test(file)).map(|file| (file.clone(), code(&read(&file)))).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).expect("src/ is there").map(|entry| entry.expect("it can be listed").path());
    paths
        .flat_map(|path| match path {
            path if path.is_dir() => rust_files(&path),
            path if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).expect("it was listed")
}

fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut kept = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // The item ends with the first line that closes it at the same depth.
            let depth = line.len() - line.trim_start().len();
            let closes = |line: &str| line.get(depth..).is_some_and(|rest| rest.starts_with('}'));
            lines.find(|(_, line)| closes(line) || (line.ends_with(';') && !line.starts_with(&" ".repeat(depth + 1))));
        } else if !line.trim_start().starts_with("//") {
            kept.push((number, line.to_owned()));
        }
    }
    kept
}

/// Returns the room a file is in: its first folder, or its own name.
fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// Returns the rooms a line names, by `crate::` or by as many `super::` as lead to the top.
fn rooms_named<'l>(file: &str, line: &'l str) -> Vec<&'l str> {
    let depth = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let up = "super::".repeat(depth);
    let paths = line.split("crate::").skip(1).chain(line.split(&up).skip(1));
    let first = |path: &'l str| path.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    // What begins `crate::{` names no room, and so is refused as one without a floor.
    paths.filter(|path| !path.starts_with("super::")).map(first).collect()
}

/// Whether a line names a crate or a module of std, as a path or in a `use`.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + path.len()..];
        let begins = before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'));
        begins && (after.starts_with("::") || (line.trim_start().starts_with("use ") && after.starts_with([';', ' '])))
    })
}

fn is_net_value(line: &str, effect: &str) -> bool {
    let Some((_, rest)) = line.split_once("std::net::").filter(|_| effect == "std::net") else { return false };
    let mut words = rest.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    if rest.starts_with('{') {
        words.all(|word| NET_VALUES.contains(&word))
    } else {
        NET_VALUES.contains(&words.next().unwrap_or_default())
    }
}
