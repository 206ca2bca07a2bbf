//! Reads a request's body ahead until it is known which model it names.
//!
//! What routes a request must be what its server sees in it. So everything is looked at that could name another model: the
//! JSON object to its end, the first gRPC message to its end, but no more than the limit.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::peek::{Found, JsonModel};
use super::peek_grpc::GrpcModel;
use super::refusal::Refusal;
use super::route::Question;
use super::worker::Front;

/// Looks at the first `limit` bytes, or fewer when the name is known before; what was read is in `front`.
///
/// # Errors
/// There is no name or there are two, or the body cannot be read.
pub(super) async fn read_name(
    question: Question,
    body: &mut Incoming,
    front: &mut Front,
    limit: usize,
) -> Result<String, Box<Refusal>> {
    let mut search = Search::new(question);
    let mut left = limit;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Box::new(Refusal::broken_body(format!("the body could not be read: {error}"))))?;
        let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
        let data = &data[..data.len().min(left)];
        left -= data.len();
        let found = search.feed(data);
        front.push_back(frame);
        match found {
            Found::Name(name) => return Ok(name),
            Found::Twice => return Err(Box::new(Refusal::bad_request("DuplicateModel", search.twice()))),
            Found::Not(why) => return Err(Box::new(Refusal::bad_request("NoModelName", why))),
            Found::More if left == 0 => {
                let message = format!("no model's name in the first {limit} bytes of the body; put it first");
                return search.so_far().ok_or_else(|| Box::new(Refusal::bad_request("NoModelName", message)));
            }
            Found::More => {}
        }
    }
    // A body that is not whole is its server's business.
    let none = || Box::new(Refusal::bad_request("NoModelName", "the body ends before a model's name"));
    search.so_far().ok_or_else(none)
}

enum Search {
    Json(JsonModel),
    Grpc(GrpcModel),
}

impl Search {
    fn new(question: Question) -> Self {
        match question {
            Question::JsonModel => Self::Json(JsonModel::default()),
            Question::GrpcModel(shape) => Self::Grpc(GrpcModel::new(shape)),
        }
    }

    fn feed(&mut self, piece: &[u8]) -> Found {
        match self {
            Self::Json(scan) => scan.feed(piece),
            Self::Grpc(scan) => scan.feed(piece),
        }
    }

    fn so_far(self) -> Option<String> {
        match self {
            Self::Json(scan) => scan.so_far(),
            Self::Grpc(scan) => scan.so_far(),
        }
    }

    fn twice(&self) -> &'static str {
        match self {
            Self::Json(_) => "the body has `model` twice",
            Self::Grpc(_) => "the first message names a model twice",
        }
    }
}
