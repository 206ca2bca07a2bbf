//! `export`, `lint` and `schema`: what leaves this machine is what a cluster takes.

#![expect(clippy::print_stdout, reason = "a skipped test is named where people look")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kserve-local");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}");
    println!("{line}");
    if let Some(list) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let earlier = std::fs::read_to_string(&list).unwrap_or_default();
        std::fs::write(&list, format!("{earlier}{line}\n")).expect("a list of skips");
    }
}

fn run(words: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    Command::new(PROGRAM).arg("--home").arg(home.path()).args(words).output().expect("the program")
}

/// A Python with jsonschema and PyYAML: the one tests/run made, or this machine's.
fn python() -> Option<PathBuf> {
    let made = root().join("target/crds-venv/bin/python");
    let able = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", "import jsonschema, yaml"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    [made, PathBuf::from("python3")].into_iter().find(able)
}

#[test]
fn exported_examples_are_valid_by_kserves_own_definitions() {
    let test = "exported_examples_are_valid_by_kserves_own_definitions";
    let upstream =
        std::env::var_os("KSERVE_UPSTREAM_DIR").map_or(root().join("../shared/kserve-upstream"), PathBuf::from);
    if !upstream.join("crds").is_dir() {
        return skip(test, "upstream's definitions are not at hand (set KSERVE_UPSTREAM_DIR)");
    }
    let Some(python) = python() else { return skip(test, "no Python with jsonschema and PyYAML") };
    let mut command = Command::new(python);
    command
        .arg(root().join("tests/crds/check.py"))
        .arg(PROGRAM)
        .arg(upstream.join("crds"))
        .arg(root().join("examples"));
    let output = command.output().expect("Python");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_folder_of_this_machine_is_named_and_the_exit_code_says_so() {
    let example = root().join("examples/local-folder.yaml");
    let output = run(&["export", "-f", &example.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is a folder of this machine"), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("kind: ClusterServingRuntime") && text.contains("kind: InferenceService"), "{text}");
}

#[test]
fn lint_points_at_the_line() {
    let example = root().join("examples/sklearn-legacy.yaml");
    let output = run(&["lint", &example.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("sklearn-legacy.yaml:8:5: ") && text.contains("deprecated-form"), "{text}");
}
