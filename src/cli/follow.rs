//! Reads the daemon's streams: lines of text, and watch events.

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;

use super::client::{Client, ClientError};

/// Cuts a stream of bytes into lines, without their ends.
pub fn lines<S>(bytes: S) -> impl Stream<Item = Result<Bytes, ClientError>>
where
    S: Stream<Item = Result<Bytes, ClientError>>,
{
    let state = (Box::pin(bytes), BytesMut::new(), false);
    stream::unfold(state, |(mut bytes, mut buffer, mut ended)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = buffer.split_to(end + 1);
                line.truncate(end);
                return Some((Ok(line.freeze()), (bytes, buffer, ended)));
            }
            if ended {
                let rest = buffer.split().freeze();
                return (!rest.is_empty()).then_some((Ok(rest), (bytes, buffer, ended)));
            }
            match bytes.next().await {
                Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Some((Err(error), (bytes, buffer, true))),
                None => ended = true,
            }
        }
    })
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvent {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub kind: String,
    /// The object, or a Table with it.
    pub object: Value,
}

/// Watches a path that already has its query.
///
/// # Errors
/// The daemon is not there or refuses; a stream that breaks yields its error.
pub async fn watch(
    client: &Client,
    path: &str,
    accept: &str,
) -> Result<impl Stream<Item = Result<WatchEvent, ClientError>> + use<>, ClientError> {
    let bytes = client.stream(path, accept).await?;
    Ok(lines(bytes).map(|line| {
        let mut event: Value = serde_json::from_slice(&line?)?;
        Ok(WatchEvent { kind: event["type"].as_str().unwrap_or_default().to_owned(), object: event["object"].take() })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_however_they_arrive() {
        let chunks = ["one\ntw", "o\n", "", "thr", "ee"].map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())));
        let lines: Vec<Bytes> = lines(stream::iter(chunks)).map(Result::unwrap).collect().await;
        assert_eq!(lines, ["one", "two", "three"]);
    }
}
