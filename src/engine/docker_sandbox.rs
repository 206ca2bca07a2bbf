//! The image of the containers that hold a network: made from a program of a few hundred bytes that is part of ours.
//!
//! No registry is asked. The program's source is beside it in `sandbox/`; the image's tag is a digest of it, so that
//! another version of it is another image.

use bollard::query_parameters::CreateImageOptions;
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::docker_connection::{Connection, QUICK};
use super::docker_error::translate;
use super::docker_spec::Abilities;
use super::{CreateContainer, EngineError, docker_image};
use crate::workload::{ContainerSpec, Security};

/// What the program is called in its image.
const PROGRAM: &str = "sandbox";
/// Where it finds the socket it is given.
const GATE_FOLDER: &str = "run/kserve-local";
const REPOSITORY: &str = "kserve-local/sandbox";

/// Whether the engine can run the program. Podman has its own way of holding networks and is left to it.
pub(super) fn is_possible(connection: &Connection) -> bool {
    !connection.podman && program(&connection.info.platform).is_some()
}

/// Returns the program for a platform.
fn program(platform: &str) -> Option<&'static [u8]> {
    match platform {
        "linux/amd64" | "linux/x86_64" => Some(include_bytes!("sandbox/sandbox-x86_64")),
        "linux/arm64" | "linux/aarch64" => Some(include_bytes!("sandbox/sandbox-aarch64")),
        _ => None,
    }
}

/// Completes the request for a container that holds a network; its image is there afterwards.
pub(super) async fn request(
    connection: &Connection,
    request: &CreateContainer,
) -> Result<CreateContainer, EngineError> {
    let platform = &connection.info.platform;
    let program = program(platform).ok_or_else(|| EngineError::ImageAbsent(format!("{REPOSITORY} for {platform}")))?;
    let tag = tag(program);
    let image = format!("{REPOSITORY}:{tag}");
    match docker_image::facts(connection, &image).await {
        Ok(_) => {}
        Err(EngineError::ImageAbsent(_)) => import(connection, &image, &tag, program).await?,
        Err(error) => return Err(error),
    }
    let spec = ContainerSpec {
        image,
        command: vec![format!("/{PROGRAM}")],
        security: Security { read_only_root_filesystem: true, ..Security::default() },
        ..request.spec.clone()
    };
    Ok(CreateContainer { spec, ..request.clone() })
}

/// It has no children, ends at the first signal, and needs no other program to look after it.
pub(super) fn abilities(engine: &Abilities) -> Abilities {
    Abilities { init: false, ..engine.clone() }
}

async fn import(connection: &Connection, image: &str, tag: &str, program: &[u8]) -> Result<(), EngineError> {
    let verb = "make the image";
    let archive = archive(program).map_err(|error| EngineError::Refused {
        verb,
        name: image.to_owned(),
        message: error.to_string(),
        blame: super::Blame::Machine,
    })?;
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: Some(REPOSITORY.to_owned()),
        tag: Some(tag.to_owned()),
        ..CreateImageOptions::default()
    };
    let body = bollard::body_full(Bytes::from(archive));
    let mut said = connection.docker.create_image(Some(options), Some(body), None).boxed();
    let drained = async {
        while let Some(message) = said.next().await {
            message?;
        }
        Ok(())
    };
    let done = connection.answer(QUICK, drained).await?;
    done.map_err(|error| translate(&connection.endpoint, verb, image, &error))
}

fn tag(program: &[u8]) -> String {
    Sha256::digest(program)[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image's only layer: the program, and the folder its socket is mounted at.
fn archive(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, contents: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, path, contents)
    };
    add("run/", tar::EntryType::Directory, &[])?;
    add(&format!("{GATE_FOLDER}/"), tar::EntryType::Directory, &[])?;
    add(PROGRAM, tar::EntryType::Regular, program)?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_there_for_the_platforms_engines_run_on_and_is_tiny() {
        for platform in ["linux/amd64", "linux/arm64"] {
            let program = program(platform).unwrap();
            assert!(program.starts_with(b"\x7fELF") && program.len() < 1024, "{platform}: {}", program.len());
        }
        assert_eq!(program("windows/amd64"), None);
    }

    #[test]
    fn the_same_program_makes_the_same_archive() {
        let program = program("linux/amd64").unwrap();
        assert_eq!(archive(program).unwrap(), archive(program).unwrap());
        assert_eq!(tag(program).len(), 12);
    }
}
