//! Tells the program which build it is: `src/provenance.rs` reads what is set here.
//!
//! Nothing of it depends on when or where the build runs. The commit comes from git, from `packaging/commit.txt` in an
//! archive that git made, or from `KSERVE_LOCAL_BUILD_COMMIT`; without any of them it is unknown, and the build goes on.
//! The date is `SOURCE_DATE_EPOCH`, else the commit's. Development builds carry neither: every commit would compile the
//! whole library again.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What ends up in the program; a change of anything else does not make it another one.
const SOURCES: [&str; 6] = ["src", "runtimes", "examples", "build.rs", "Cargo.toml", "Cargo.lock"];
const ARCHIVED: &str = "packaging/commit.txt";

/// Where the sources come from, as far as it is known.
#[derive(Default)]
struct Source {
    commit: Option<String>,
    /// Whether files differ from the commit.
    dirty: Option<bool>,
    /// When it was committed, in seconds since 1970.
    time: Option<String>,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["SOURCE_DATE_EPOCH", "KSERVE_LOCAL_BUILD_COMMIT"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let source = match variable("KSERVE_LOCAL_BUILD_COMMIT") {
        Some(commit) => Source { commit: Some(commit), ..Source::default() },
        None if variable("PROFILE").as_deref() == Some("release") => git().or_else(archived).unwrap_or_default(),
        None => Source::default(),
    };
    set("COMMIT", source.commit.as_deref());
    set("DIRTY", source.dirty.map(|dirty| if dirty { "true" } else { "false" }));
    set("EPOCH", variable("SOURCE_DATE_EPOCH").or(source.time).as_deref());
    set("TARGET", variable("TARGET").as_deref());
    set("PROFILE", variable("PROFILE").as_deref());
    let features = variable("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    set("LINKAGE", Some(if is_static { "static" } else { "dynamic" }));
    let compiler = variable("RUSTC").and_then(|rustc| said(Command::new(rustc).arg("--version")));
    set("RUSTC", compiler.as_deref().map(|said| said.trim_start_matches("rustc ")));
}

fn set(name: &str, value: Option<&str>) {
    println!("cargo:rustc-env=KSERVE_LOCAL_BUILD_{name}={}", value.unwrap_or_default());
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Asks git, if these sources are a work tree of their own and not a folder in somebody else's.
fn git() -> Option<Source> {
    let root = variable("CARGO_MANIFEST_DIR")?;
    let git =
        |arguments: &[&str]| said(Command::new("git").args(["--no-optional-locks", "-C"]).arg(&root).args(arguments));
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(&root).ok()? {
        return None;
    }
    // What has to change before git would say something else. A branch moves in a file of its own or among the packed ones.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for part in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", part]) {
            let path = Path::new(&root).join(path);
            // Cargo takes a file that is not there for one that changed.
            if path.exists() {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
    }
    for path in SOURCES {
        println!("cargo:rerun-if-changed={path}");
    }
    let changes = [&["status", "--porcelain", "--"], &SOURCES[..]].concat();
    Some(Source {
        commit: Some(git(&["rev-parse", "HEAD"])?),
        dirty: git(&changes).map(|changes| !changes.is_empty()),
        time: git(&["log", "-1", "--format=%ct"]),
    })
}

/// Reads what `git archive` wrote, as hosting sites do for the archive of a tag.
fn archived() -> Option<Source> {
    println!("cargo:rerun-if-changed={ARCHIVED}");
    let text = fs::read_to_string(ARCHIVED).ok()?;
    let (commit, time) = text.lines().next()?.split_once(' ')?;
    // In a work tree the file holds what git is to fill in.
    let filled_in = !commit.contains('$');
    filled_in.then(|| Source { commit: Some(commit.to_owned()), dirty: None, time: Some(time.to_owned()) })
}

/// Returns what a command printed, if it succeeded.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
