//! A daemon for tests that answers what a test says: for what a real one cannot be made to do, or is not.

use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::home::Home;
use crate::tasks::Tasks;

/// What a test answers to `GET /path`: status and body.
pub(super) type Answers = fn(&str) -> (u16, String);

/// An imitated daemon, and what it was asked.
pub(super) struct Imitation {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Imitation {
    /// Starts one, whose addresses are those of the home.
    pub(super) async fn start(home: &Utf8Path, answers: Answers) -> Self {
        let home = Home::new(home);
        home.create().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap().to_string();
        let addresses = serde_json::json!({"pid": 1, "data": "127.0.0.1:1", "api": api, "instance": "i"});
        std::fs::write(home.addresses(), addresses.to_string()).unwrap();
        std::fs::write(home.token(), "ours\n").unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        Tasks::new().spawn("imitation", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut read = [0; 4096];
                let length = socket.read(&mut read).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&read[..length]);
                let question = head.split(" HTTP/").next().unwrap_or_default().to_owned();
                let (status, body) = answers(&question);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(question);
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close", body.len());
                // Whoever asked may be gone.
                let _ = socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            }
        });
        Self { asked }
    }

    /// Returns how many questions so far hold some words.
    pub(super) fn count(&self, words: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|question| question.contains(words)).count()
    }
}
