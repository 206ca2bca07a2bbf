//! Asks replicas that answer for their own metrics when somebody looks at ours. Wakes nothing, and waits for nobody long.

use std::time::Duration;

use futures::StreamExt;
pub(super) use reqwest::Client;

use crate::plan::routes::{RouteTable, Scrape};
use crate::telemetry::runtime_metrics::Scraped;

/// Longest wait for one replica.
const PATIENCE: Duration = Duration::from_millis(800);
/// Replicas asked at once.
const AT_ONCE: usize = 32;
/// Most bytes taken of one answer.
const MAX_BYTES: usize = 2 << 20;
/// Most replicas asked.
const MAX_REPLICAS: usize = 500;

/// Makes the client all scrapes share.
pub(super) fn client() -> Client {
    Client::builder().no_proxy().build().unwrap_or_default()
}

/// Returns what every replica shows that shows anything in time.
pub(super) async fn scrape_all(client: &Client, table: &RouteTable) -> Vec<Scraped> {
    let asked: Vec<_> = table.scrapes.iter().take(MAX_REPLICAS).map(|one| scrape(client, one)).collect();
    let all: Vec<Option<Scraped>> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    all.into_iter().flatten().collect()
}

async fn scrape(client: &Client, one: &Scrape) -> Option<Scraped> {
    let text = tokio::time::timeout(PATIENCE, read(client, one)).await.ok()??;
    let labels = vec![
        ("namespace", one.component.service.namespace.clone()),
        ("inferenceservice", one.component.service.name.clone()),
        ("component", one.component.component.to_string()),
        ("pod", one.replica.to_string()),
    ];
    Some(Scraped { labels, text })
}

/// None when there is nothing to be had; whether a replica answers at all is told elsewhere.
async fn read(client: &Client, one: &Scrape) -> Option<String> {
    let url = format!("http://{}{}", one.address, one.path);
    // The newer format could not be put together with what others write.
    let answer = client.get(url).header("accept", "text/plain;version=0.0.4").send().await.ok()?;
    let mut answer = answer.error_for_status().ok()?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BYTES {
            return None;
        }
    }
    String::from_utf8(body).ok()
}
