//! Payload events as objects of a bucket: `{prefix}/{namespace}/{service}/{component}/{path}/{id}-{request|response}.json`,
//! as KServe's agent names them. Each holds one CloudEvent in JSON. Credentials are the daemon's own.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::api::StorageUri;
use crate::storage::PullConfig;
use crate::storage::object::ObjectSource;

use super::payload::Event;

/// A bucket.
#[derive(Debug)]
pub(crate) struct PayloadObjects {
    url: String,
    path: String,
    config: PullConfig,
    environment: BTreeMap<String, String>,
    store: OnceCell<ObjectSource>,
}

impl PayloadObjects {
    pub(crate) fn new(url: &str, path: &str, config: &PullConfig, environment: &BTreeMap<String, String>) -> Self {
        let (url, path) = (url.to_owned(), path.trim_matches('/').to_owned());
        Self { url, path, config: config.clone(), environment: environment.clone(), store: OnceCell::new() }
    }

    pub(crate) async fn write(&self, event: &Event, now: Timestamp) -> Result<(), String> {
        let store = self.store.get_or_try_init(|| self.open()).await?;
        let key = event.component();
        let (service, component) = (&key.service, key.component);
        let file = format!("{}-{}.json", safe(event.id()), event.side.as_str());
        let parts = [&service.namespace, &service.name, component.as_str(), self.path.as_str(), &file];
        let name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let body = event.to_json(now).to_string();
        store.write(&name, body.into()).await.map_err(|error| super::forward::chain(&error))
    }

    async fn open(&self) -> Result<ObjectSource, String> {
        let (url, config, environment) = (self.url.clone(), self.config.clone(), self.environment.clone());
        let opened = tokio::task::spawn_blocking(move || match StorageUri::parse(&url) {
            Ok(StorageUri::S3 { bucket, path }) => ObjectSource::s3(&bucket, &path, &config, &environment),
            Ok(StorageUri::Gs { bucket, path }) => ObjectSource::gcs(&bucket, &path, &config, &environment, None),
            _ => Err(crate::storage::SourceError::Invalid("payloads are written to s3:// and gs:// only".to_owned())),
        });
        opened.await.map_err(|error| error.to_string())?.map_err(|error| super::forward::chain(&error))
    }
}

/// An id comes from a client; it names one object and no folder.
fn safe(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}
