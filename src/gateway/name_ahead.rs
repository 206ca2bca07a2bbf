//! Reads a request's body ahead until the model's name is found in it.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::peek::{Found, GrpcName, JsonModel};
use super::refusal::Refusal;
use super::route::Question;
use super::worker::Front;

/// Reads at most `limit` bytes; what was read is in `front`.
///
/// # Errors
/// There is no name, or the body cannot be read.
pub(super) async fn read_name(
    question: Question,
    body: &mut Incoming,
    front: &mut Front,
    limit: usize,
) -> Result<String, Box<Refusal>> {
    let mut search = Search::new(question);
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Box::new(Refusal::broken_body(format!("the body could not be read: {error}"))))?;
        let found = frame.data_ref().map_or(Found::More, |data| search.feed(data));
        seen += frame.data_ref().map_or(0, Bytes::len);
        front.push_back(frame);
        match found {
            Found::Name(name) => return Ok(name),
            Found::Twice => return Err(Box::new(Refusal::bad_request("DuplicateModel", "the body has `model` twice"))),
            Found::Not(why) => return Err(Box::new(Refusal::bad_request("NoModelName", why))),
            Found::More if seen > limit => {
                let message = format!("no model's name in the first {limit} bytes of the body; put it first");
                return Err(Box::new(Refusal::bad_request("NoModelName", message)));
            }
            Found::More => {}
        }
    }
    Err(Box::new(Refusal::bad_request("NoModelName", "the body ends before a model's name")))
}

enum Search {
    Json(JsonModel),
    Grpc(GrpcName, BytesMut),
}

impl Search {
    fn new(question: Question) -> Self {
        match question {
            Question::JsonModel => Self::Json(JsonModel::default()),
            Question::GrpcModel(shape) => Self::Grpc(shape, BytesMut::new()),
        }
    }

    fn feed(&mut self, piece: &[u8]) -> Found {
        match self {
            Self::Json(scan) => scan.feed(piece),
            Self::Grpc(shape, seen) => {
                seen.extend_from_slice(piece);
                shape.look(seen)
            }
        }
    }
}
