//! An engine for tests that answers what a test says, over a socket as the real one: for answers a real engine cannot be
//! made to give.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::docker::{DockerConfig, DockerEngine};
use crate::tasks::Tasks;

/// What a test answers to `METHOD /path?query`: status and body. None is a connection that stays silent.
pub(super) type Answers = fn(&str) -> Option<(u16, String)>;

/// An imitated engine, and what it was asked.
pub(super) struct Imitation {
    pub(super) engine: DockerEngine,
    asked: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Imitation {
    /// Starts one; what is asked when a connection is opened is answered for the test.
    pub(super) fn start(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let tasks = Tasks::default();
        tasks.clone().spawn("imitation", async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn("imitation-connection", serve(stream, answers, Arc::clone(&seen)));
            }
        });
        let endpoint = Some(format!("unix://{}", socket.display()));
        let config = DockerConfig { instance: "t".to_owned(), endpoint, ..DockerConfig::default() };
        Self { engine: DockerEngine::connect(config).unwrap(), asked, _folder: folder }
    }

    /// Returns how many questions so far begin with `beginning`.
    pub(super) fn count(&self, beginning: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|question| question.starts_with(beginning)).count()
    }
}

async fn serve(mut stream: UnixStream, answers: Answers, asked: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    loop {
        let Some(head) = question(&mut stream, &mut read).await else { return };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // Without the version that was agreed on.
        let path = match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
            Some((_, path)) => format!("/{path}"),
            None => path.to_owned(),
        };
        let question = format!("{method} {path}");
        asked.lock().unwrap_or_else(PoisonError::into_inner).push(question.clone());
        let answer = match path.as_str() {
            "/version" => Some((200, r#"{"ApiVersion":"1.48","Version":"28","Os":"linux","Arch":"amd64"}"#.to_owned())),
            "/info" => Some((200, r#"{"MemTotal":1073741824,"NCPU":2}"#.to_owned())),
            "/_ping" => Some((200, String::new())),
            _ => answers(&question),
        };
        let Some((status, body)) = answer else { return std::future::pending().await };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
        if stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one question with its body, and returns its first line.
async fn question(stream: &mut UnixStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            while read.len() < whole {
                (stream.read_buf(read).await.ok()? > 0).then_some(())?;
            }
            let first = String::from_utf8_lossy(&read[..end]).lines().next()?.to_owned();
            read.drain(..whole);
            return Some(first);
        }
        (stream.read_buf(read).await.ok()? > 0).then_some(())?;
    }
}
