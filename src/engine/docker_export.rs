//! A folder of an image, without running anything of it: a container is made, read and removed, and never started.
//!
//! Its name is made of the image's, so that one which a crash left behind is found and replaced by the next try.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::docker_connection::{Connection, QUICK};
use super::docker_error::{status, translate, words};
use super::docker_image::check_reference;
use super::{Blame, EngineError};

/// Says whose such a container is. Not the instance's label: it is no replica.
const LABEL: &str = "kserve-local/export";
const SLOW: Duration = Duration::from_secs(120);

/// Streams a folder of an image that is here, as a tar with names relative to it.
pub(super) async fn folder(
    connection: Arc<Connection>,
    instance: &str,
    image: &str,
    folder: &str,
) -> Result<BoxStream<'static, Result<Bytes, EngineError>>, EngineError> {
    check_reference(image)?;
    let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("{image} {folder}").as_bytes());
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("kserve-local-export-{instance}-{digest}");
    let created = create(&connection, &name, instance, image).await;
    let created = match created {
        Err(error) if words(&error).contains("in use") => {
            remove(&connection, &name).await;
            create(&connection, &name, instance, image).await
        }
        created => created,
    };
    match created {
        Ok(()) => {}
        Err(error) if status(&error) == Some(404) => return Err(EngineError::ImageAbsent(image.to_owned())),
        Err(error) => return Err(translate(&connection.endpoint, "create", &name, &error)),
    }
    let options = DownloadFromContainerOptions { path: format!("{folder}/.") };
    let mut stream = connection.docker.download_from_container(&name, Some(options)).boxed();
    let shown = image.to_owned();
    // The first answer says whether there is such a folder.
    let first = match tokio::time::timeout(SLOW, stream.next()).await {
        Ok(Some(Ok(bytes))) => bytes,
        Ok(Some(Err(error))) if status(&error) == Some(404) => {
            remove(&connection, &name).await;
            let message = format!("it has no folder {folder}/");
            return Err(EngineError::Refused { verb: "read", name: shown, message, blame: Blame::User });
        }
        Ok(Some(Err(error))) => {
            remove(&connection, &name).await;
            return Err(translate(&connection.endpoint, "read", &shown, &error));
        }
        Ok(None) | Err(_) => {
            remove(&connection, &name).await;
            let message = "the engine gave nothing of it".to_owned();
            return Err(EngineError::Refused { verb: "read", name: shown, message, blame: Blame::Machine });
        }
    };
    let rest = futures::stream::unfold(Some((connection, stream, name, shown)), |state| async move {
        let (connection, mut stream, name, shown) = state?;
        match stream.next().await {
            Some(Ok(bytes)) => Some((Ok(bytes), Some((connection, stream, name, shown)))),
            Some(Err(error)) => {
                let error = translate(&connection.endpoint, "read", &shown, &error);
                remove(&connection, &name).await;
                Some((Err(error), None))
            }
            None => {
                remove(&connection, &name).await;
                None
            }
        }
    });
    Ok(futures::stream::once(async { Ok(first) }).chain(rest).boxed())
}

async fn create(
    connection: &Connection,
    name: &str,
    instance: &str,
    image: &str,
) -> Result<(), bollard::errors::Error> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        // Images that hold nothing but a model have no command, and the engine wants one; it is never run.
        cmd: Some(vec!["never-run".to_owned()]),
        labels: Some(HashMap::from([(LABEL.to_owned(), instance.to_owned())])),
        network_disabled: Some(true),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
    let created = connection.docker.create_container(Some(options), body);
    match tokio::time::timeout(SLOW, created).await {
        Ok(created) => created.map(drop),
        Err(_) => Err(bollard::errors::Error::RequestTimeoutError),
    }
}

/// Removes the container. What cannot be removed now is removed by the next export of that image.
async fn remove(connection: &Connection, name: &str) {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    let _ = connection.answer(QUICK, connection.docker.remove_container(name, Some(options))).await;
}
