//! The program of sandbox containers is what its source says, and does what it is for.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/sandbox")
}

#[expect(clippy::print_stdout, reason = "a skipped test is named where people look")]
fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Some(path) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let mut file = std::fs::File::options().create(true).append(true).open(path).expect("the list of skips");
        writeln!(file, "{line}").expect("the list of skips can be written");
    }
}

#[test]
fn each_program_is_what_its_source_assembles_to() {
    for processor in ["x86_64", "aarch64"] {
        let native = std::env::consts::ARCH == processor;
        let tool = |name: &str| if native { name.to_owned() } else { format!("{processor}-linux-gnu-{name}") };
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (object, made) = (scratch.path().join("o"), scratch.path().join("made"));
        let source = folder().join(format!("sandbox-{processor}.s"));
        let assembled = Command::new(tool("as")).arg("-o").arg(&object).arg(&source).status();
        if assembled.is_err() {
            skip("each_program_is_what_its_source_assembles_to", &format!("no assembler for {processor}"));
            continue;
        }
        assert!(assembled.is_ok_and(|status| status.success()), "{processor}");
        let copied = Command::new(tool("objcopy")).args(["-O", "binary"]).arg(&object).arg(&made).status();
        assert!(copied.is_ok_and(|status| status.success()), "{processor}");
        let shipped = std::fs::read(folder().join(format!("sandbox-{processor}"))).expect("the program");
        assert!(std::fs::read(&made).expect("what was made") == shipped, "build sandbox-{processor} again");
    }
}
