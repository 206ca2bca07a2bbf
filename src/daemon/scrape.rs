//! Asks replicas that answer for their own metrics when somebody looks at ours. Wakes nothing, and waits for nobody long.

use std::time::Duration;

use futures::StreamExt;
pub(super) use reqwest::Client;
use reqwest::redirect::Policy;
use tracing::warn;

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

/// Makes the client all scrapes share. It follows no redirect: a container must not send the daemon anywhere.
pub(super) fn client() -> Option<Client> {
    let made = Client::builder().no_proxy().redirect(Policy::none()).build();
    made.inspect_err(|error| warn!(%error, "metrics of replicas are not shown: no client could be made")).ok()
}

/// Returns what every replica shows that shows anything in time.
pub(super) async fn scrape_all(client: Option<&Client>, table: &RouteTable) -> Vec<Scraped> {
    let Some(client) = client else { return Vec::new() };
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
    // A redirect is no error, and nothing to be put among metrics either.
    let mut answer = Some(answer).filter(|answer| answer.status().is_success())?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BYTES {
            return None;
        }
    }
    String::from_utf8(body).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tasks::Tasks;

    /// Answers every connection with `answer`; returns the address.
    async fn answering(tasks: &Tasks, answer: String) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn("replica", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                // Whoever asked may be gone.
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_container_cannot_send_the_daemon_elsewhere() {
        let tasks = Tasks::new();
        let body = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nup 1";
        let other = answering(&tasks, body.to_owned()).await;
        let away = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{other}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let sly = answering(&tasks, away).await;
        let component = crate::workload::ComponentKey {
            service: crate::api::ServiceKey::new("default", "iris"),
            component: crate::api::ComponentKind::Predictor,
        };
        let scrape = |address| Scrape {
            component: component.clone(),
            replica: "iris-predictor-00001-1.default".into(),
            address,
            path: "/metrics".to_owned(),
        };
        let client = client().unwrap();
        assert_eq!(read(&client, &scrape(other)).await.as_deref(), Some("up 1"));
        assert_eq!(read(&client, &scrape(sly)).await, None);
    }
}
