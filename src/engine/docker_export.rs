//! A folder of an image, without running anything of it: a container is made, read and removed, and never started.
//!
//! It is removed when its reader stops, wherever that is; one that a killed daemon left behind is found by its label.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, ListContainersOptions, RemoveContainerOptions,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::debug;

use super::docker_connection::{Connection, QUICK};
use super::docker_error::{status, translate};
use super::docker_image::check_reference;
use super::{Blame, EngineError};
use crate::tasks::Tasks;

/// Says whose such a container is. Not the instance's label: it is no replica.
const LABEL: &str = "kserve-local/export";
const SLOW: Duration = Duration::from_secs(120);

/// Exports under way, by the names of their containers; and whether those of an earlier daemon were removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Exports {
    under_way: Arc<Mutex<HashSet<String>>>,
    swept: Arc<AtomicBool>,
    removals: Tasks,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what a daemon that was killed left behind, the first time it is called.
    pub(super) async fn sweep(&self, connection: &Connection, instance: &str) {
        if self.swept.swap(true, Ordering::AcqRel) {
            return;
        }
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL}={instance}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let listed =
            connection.settle("list", "exports", QUICK, connection.docker.list_containers(Some(options))).await;
        match listed {
            Ok(listed) => {
                let names = listed.into_iter().filter_map(|found| found.names?.into_iter().next());
                for name in names.map(|name| name.trim_start_matches('/').to_owned()) {
                    if !self.lock().contains(&name) {
                        remove(connection, &name).await;
                    }
                }
            }
            Err(error) => debug!(%error, "what earlier exports left was not looked for"),
        }
    }
}

/// A container that is read. Dropped before the end, it is removed all the same.
struct Held {
    connection: Arc<Connection>,
    exports: Exports,
    name: Option<String>,
}

impl Held {
    fn new(connection: Arc<Connection>, exports: Exports, name: String) -> Self {
        exports.lock().insert(name.clone());
        Self { connection, exports, name: Some(name) }
    }

    async fn remove(mut self) {
        if let Some(name) = self.name.clone() {
            remove(&self.connection, &name).await;
            self.exports.lock().remove(&name);
            self.name = None;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        // Without a runtime the daemon is at its end; the next one removes it.
        if tokio::runtime::Handle::try_current().is_ok() {
            let (connection, exports) = (Arc::clone(&self.connection), self.exports.clone());
            self.exports.removals.spawn_short(async move {
                remove(&connection, &name).await;
                exports.lock().remove(&name);
            });
        }
    }
}

/// Streams a folder of an image that is here, as a tar with names relative to it.
pub(super) async fn folder(
    connection: Arc<Connection>,
    exports: &Exports,
    instance: &str,
    image: &str,
    folder: &str,
) -> Result<BoxStream<'static, Result<Bytes, EngineError>>, EngineError> {
    check_reference(image)?;
    // One of its own for each export: two of one image do not end each other.
    let name = format!("kserve-local-export-{instance}-{:016x}", rand::random::<u64>());
    let held = Held::new(Arc::clone(&connection), exports.clone(), name.clone());
    match create(&connection, &name, instance, image).await {
        Ok(()) => {}
        Err(error) if status(&error) == Some(404) => return Err(EngineError::ImageAbsent(image.to_owned())),
        Err(error) => return Err(translate(&connection.endpoint, "create", &name, &error)),
    }
    let options = DownloadFromContainerOptions { path: format!("{folder}/.") };
    let mut stream = connection.docker.download_from_container(&name, Some(options)).boxed();
    let shown = image.to_owned();
    // The first answer says whether there is such a folder.
    let refused = |message: String, blame| EngineError::Refused { verb: "read", name: shown.clone(), message, blame };
    let first = match tokio::time::timeout(SLOW, stream.next()).await {
        Ok(Some(Ok(bytes))) => Ok(bytes),
        Ok(Some(Err(error))) if status(&error) == Some(404) => {
            Err(refused(format!("it has no folder {folder}/"), Blame::User))
        }
        Ok(Some(Err(error))) => Err(translate(&connection.endpoint, "read", &shown, &error)),
        Ok(None) | Err(_) => Err(refused("the engine gave nothing of it".to_owned(), Blame::Machine)),
    };
    let first = match first {
        Ok(first) => first,
        Err(error) => {
            held.remove().await;
            return Err(error);
        }
    };
    let rest = futures::stream::unfold(Some((held, stream, shown)), |state| async move {
        let (held, mut stream, shown) = state?;
        match stream.next().await {
            Some(Ok(bytes)) => Some((Ok(bytes), Some((held, stream, shown)))),
            Some(Err(error)) => {
                let error = translate(&held.connection.endpoint, "read", &shown, &error);
                held.remove().await;
                Some((Err(error), None))
            }
            None => {
                held.remove().await;
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

/// Removes the container. What cannot be removed now is removed by the next daemon.
async fn remove(connection: &Connection, name: &str) {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    let _ = connection.answer(QUICK, connection.docker.remove_container(name, Some(options))).await;
}

#[cfg(test)]
mod tests {
    use super::super::ContainerEngine;
    use super::super::docker_imitation::Imitation;
    use super::*;

    fn answers(question: &str) -> Option<(u16, String)> {
        let left = r#"[{"Id":"x","Names":["/kserve-local-export-t-left"],"State":"created"}]"#;
        match question {
            // By label: replicas first, what exports left behind second.
            list if list.starts_with("GET /containers/json") && list.contains("export") => Some((200, left.to_owned())),
            list if list.starts_with("GET /containers/json") => Some((200, "[]".to_owned())),
            made if made.starts_with("POST /containers/create") => {
                Some((201, r#"{"Id":"e","Warnings":[]}"#.to_owned()))
            }
            read if read.contains("/archive") => Some((200, "a tar".to_owned())),
            gone if gone.starts_with("DELETE /containers/") => Some((204, String::new())),
            _ => None,
        }
    }

    async fn removed(imitation: &Imitation, name: &str) {
        let look = async {
            while imitation.count(&format!("DELETE /containers/kserve-local-export-t-{name}")) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), look).await.unwrap();
    }

    #[tokio::test]
    async fn the_container_goes_when_nobody_reads_on() {
        let imitation = Imitation::start(answers);
        let first = imitation.engine.image_folder("image", "/models").await.unwrap();
        let second = imitation.engine.image_folder("image", "/models").await.unwrap();
        assert_eq!(imitation.count("DELETE /containers/"), 0, "they leave each other alone");
        drop((first, second));
        removed(&imitation, "").await;
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_is_removed_once() {
        let imitation = Imitation::start(answers);
        for _ in 0..2 {
            imitation.engine.list().await.unwrap();
        }
        removed(&imitation, "left").await;
        assert_eq!(imitation.count("DELETE /containers/"), 1);
    }
}
