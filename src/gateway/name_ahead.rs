//! Reads a request's body ahead until it is known which model it names.
//!
//! What routes a request must be what its server sees in it. So everything is looked at that could name another model: the
//! JSON object or the form to its end, the first gRPC message to its end, but no more than the limit.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::peek::{Found, JsonModel};
use super::peek_form::FormModel;
use super::peek_grpc::GrpcModel;
use super::refusal::Refusal;
use super::route::Question;
use super::upload::{Pace, Upload};
use super::worker::Front;

/// How much is looked at, and how fast it must come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) bytes: usize,
    /// As of every body: one that is long and comes steadily may take its time.
    pub(super) pace: Pace,
}

/// Looks at the first bytes, or fewer when the name is known before; what was read is in `front`.
///
/// # Errors
/// There is no name or there are two, or the body cannot be read.
pub(super) async fn read_name<B>(
    mut search: Search,
    body: &mut B,
    front: &mut Front,
    limits: Limits,
) -> Result<String, Box<Refusal>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let mut upload = Upload::default();
    let mut left = limits.bytes;
    loop {
        let until = upload.waits() + limits.pace.within;
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else { return Err(too_slow()) };
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|error| Box::new(Refusal::broken_body(format!("the body could not be read: {error}"))))?;
        let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
        upload.came(data.len(), limits.pace);
        let data = &data[..data.len().min(left)];
        left -= data.len();
        let found = search.feed(data);
        front.push_back(frame);
        match found {
            Found::Name(name) => return Ok(name),
            Found::Twice => return Err(search.refuse("DuplicateModel", search.twice())),
            Found::Not(why) => return Err(search.refuse("NoModelName", why)),
            Found::More if left == 0 => {
                let limit = limits.bytes;
                let why = format!("no model's name in the first {limit} bytes of the body (`peekLimit`)");
                let refusal = search.refuse("NoModelName", &why);
                return search.so_far().ok_or(refusal);
            }
            Found::More => {}
        }
    }
    // A body that is not whole is its server's business.
    let none = search.refuse("NoModelName", "the body ends before a model's name");
    search.so_far().ok_or(none)
}

fn too_slow() -> Box<Refusal> {
    let message = "the request's first bytes, which name the model, came too slowly (`stallTimeout`, `minUploadRate`)";
    Box::new(Refusal::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message).closing())
}

/// What a body is searched for.
pub(super) enum Search {
    Json(JsonModel),
    Form(Box<FormModel>),
    Grpc(GrpcModel),
}

impl Search {
    /// Begins with what is asked and what the head says of the body.
    ///
    /// # Errors
    /// The body cannot be looked into.
    pub(super) fn new(question: Question, headers: &HeaderMap) -> Result<Self, Box<Refusal>> {
        let search = match question {
            Question::GrpcModel(shape) => return Ok(Self::Grpc(GrpcModel::new(shape))),
            Question::JsonModel => {
                let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let form = content_type.and_then(FormModel::of_type);
                form.map_or_else(|| Self::Json(JsonModel::default()), |form| Self::Form(Box::new(form)))
            }
        };
        let coding = headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |coding| coding.as_bytes());
        if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") {
            return Ok(search);
        }
        Err(search.refuse("NoModelName", "the body is compressed"))
    }

    fn feed(&mut self, piece: &[u8]) -> Found {
        match self {
            Self::Json(scan) => scan.feed(piece),
            Self::Form(scan) => scan.feed(piece),
            Self::Grpc(scan) => scan.feed(piece),
        }
    }

    fn so_far(self) -> Option<String> {
        match self {
            Self::Json(scan) => scan.so_far(),
            Self::Form(scan) => scan.so_far(),
            Self::Grpc(scan) => scan.so_far(),
        }
    }

    fn twice(&self) -> &'static str {
        match self {
            Self::Json(_) => "the body has `model` twice",
            Self::Form(_) => "the form has `model` twice",
            Self::Grpc(_) => "the first message names a model twice",
        }
    }

    /// Says what is wrong, and what to do.
    fn refuse(&self, reason: &'static str, why: &str) -> Box<Refusal> {
        let place = match self {
            Self::Json(_) | Self::Form(_) => "in it, near the beginning",
            Self::Grpc(_) => "in it",
        };
        Box::new(Refusal::bad_request(reason, format!("{why}; name one model {place}, or {ADDRESS}")))
    }
}

/// What works whatever a body says.
const ADDRESS: &str = "address the service by its host or as /serving/<namespace>/<name>/";

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// Reads a body of the pieces that come every second.
    async fn read(pieces: &'static [&'static str], headers: &HeaderMap) -> Result<String, (u16, String)> {
        let comes = futures::stream::unfold(pieces.iter(), |mut rest| async move {
            let piece = rest.next()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, io::Error>(Frame::data(Bytes::from_static(piece.as_bytes()))), rest))
        });
        let limits = Limits { bytes: 100, pace: Pace { bytes: 3, within: Duration::from_secs(3) } };
        let told = |refusal: Box<Refusal>| (refusal.status.as_u16(), refusal.message);
        let search = Search::new(Question::JsonModel, headers).map_err(told)?;
        let mut body = Box::pin(StreamBody::new(comes));
        read_name(search, &mut body, &mut Front::new(), limits).await.map_err(told)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_steadily_may_take_its_time_and_what_trickles_may_not() {
        let none = HeaderMap::new();
        let steadily =
            read(&["{\"model\":\"iris\"", ",\"x\":[1", ",2,", "3,4", ",5,", "6,7", ",8,", "9]}"], &none).await;
        assert_eq!(steadily.as_deref(), Ok("iris"));
        let trickles = read(&["{\"model\":\"iris\"", " ", " ", " ", " ", " ", "}"], &none).await;
        assert_eq!(trickles.as_deref(), Ok("iris"), "three bytes in three seconds");
        let slower = read(&["{\"model\":\"iris\"", "", " ", "", "", " ", "}"], &none).await;
        assert_eq!(slower.unwrap_err().0, 408);
    }

    #[tokio::test(start_paused = true)]
    async fn every_refusal_says_what_to_do() {
        let (mut gzip, mut form) = (HeaderMap::new(), HeaderMap::new());
        gzip.insert("content-encoding", HeaderValue::from_static("gzip"));
        form.insert("content-type", HeaderValue::from_static("multipart/form-data; boundary=b"));
        let none = HeaderMap::new();
        for (pieces, headers) in [
            (&["{\"model\":\"a\",\"model\":\"b\"}"] as &[_], &none),
            (&["{\"model\":5}"], &none),
            (&["[]"], &none),
            (&["{}"], &none),
            (&["{"], &none),
            (
                &[
                    "{\"x\":\"0123456789012345678901234567890123456789\"",
                    ",\"y\":\"01234567890123456789012345678901234567890123456789\"}",
                ],
                &none,
            ),
            (&["{}"], &gzip),
            (&["--b--"], &form),
        ] {
            let (status, message) = read(pieces, headers).await.unwrap_err();
            assert!(status == 400 && message.ends_with(ADDRESS), "{message}");
        }
    }
}
