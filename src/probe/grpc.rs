//! gRPC checks over HTTP/2 with prior knowledge: one call, its two tiny messages written and read by hand.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::drive;
use super::tcp;

/// Most of an answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Asks the standard health service; an empty name asks for the whole server.
pub(super) async fn health(addr: SocketAddr, service: &str) -> Result<(), String> {
    let answer = call(addr, "/grpc.health.v1.Health/Check", text_field(1, service)).await?;
    match first_number(&answer)? {
        1 => Ok(()),
        0 => Err("gRPC health is UNKNOWN".to_owned()),
        2 => Err("gRPC health is NOT_SERVING".to_owned()),
        3 => Err(format!("gRPC health does not know the service `{service}`")),
        other => Err(format!("gRPC health is {other}")),
    }
}

/// Asks the open inference protocol whether a model is ready.
pub(super) async fn model_ready(addr: SocketAddr, model: &str) -> Result<(), String> {
    let answer = call(addr, "/inference.GRPCInferenceService/ModelReady", text_field(1, model)).await?;
    match first_number(&answer)? {
        0 => Err(format!("gRPC says that the model `{model}` is not ready")),
        _ => Ok(()),
    }
}

/// Makes one unary call and returns the message of its answer.
async fn call(addr: SocketAddr, path: &'static str, message: Bytes) -> Result<Bytes, String> {
    let request = request(addr, path, &message)?;
    let stream = tcp::connect(addr).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| no_grpc(&error))?;
    let asking = async move {
        let response = sender.send_request(request).await.map_err(|error| no_grpc(&error))?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(format!("HTTP {} from {path}", head.status.as_u16()));
        }
        let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
        let collected = collected.map_err(|error| format!("the answer of {path} broke off: {error}"))?;
        // An answer without a message has its status in the head.
        let trailers = collected.trailers().cloned().unwrap_or(head.headers);
        check_status(path, &trailers)?;
        unframed(path, &collected.to_bytes())
    };
    drive(connection, asking).await
}

fn request(addr: SocketAddr, path: &str, message: &[u8]) -> Result<Request<Full<Bytes>>, String> {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).map_err(|_| "the name asked for is too long".to_owned())?);
    frame.put_slice(message);
    let mut request = Request::post(format!("http://{addr}{path}"))
        .version(http::Version::HTTP_2)
        .body(Full::new(frame.freeze()))
        .map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

fn check_status(path: &str, trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        "" => Err(format!("{path} was not answered by a gRPC server")),
        "12" => Err(format!("the server does not implement {path}")),
        code => Err(format!("gRPC status {code} from {path}: {}", text("grpc-message"))),
    }
}

fn unframed(path: &str, body: &[u8]) -> Result<Bytes, String> {
    let bad = || format!("the answer of {path} is not one gRPC message");
    let (head, message) = body.split_at_checked(5).ok_or_else(bad)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let whole = head[0] == 0 && u32::try_from(message.len()) == Ok(length);
    if whole { Ok(Bytes::copy_from_slice(message)) } else { Err(bad()) }
}

/// Writes one text field; nothing for an empty one, as protobuf does.
fn text_field(number: u8, text: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !text.is_empty() {
        field.put_u8(number << 3 | 2);
        let mut length = text.len();
        while length >= 0x80 {
            field.put_u8(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        field.put_u8(u8::try_from(length).unwrap_or_default());
        field.put_slice(text.as_bytes());
    }
    field.freeze()
}

/// Reads the number in field 1; absent means 0. Other fields are passed over.
fn first_number(message: &[u8]) -> Result<u64, String> {
    let bad = || "the answer is not a protobuf message".to_owned();
    let mut rest = message;
    let mut found = 0;
    while !rest.is_empty() {
        let (tag, after) = varint(rest).ok_or_else(bad)?;
        rest = match tag & 7 {
            0 => {
                let (value, after) = varint(after).ok_or_else(bad)?;
                if tag >> 3 == 1 {
                    found = value;
                }
                after
            }
            1 => after.get(8..).ok_or_else(bad)?,
            2 => {
                let (length, after) = varint(after).ok_or_else(bad)?;
                usize::try_from(length).ok().and_then(|length| after.get(length..)).ok_or_else(bad)?
            }
            5 => after.get(4..).ok_or_else(bad)?,
            _ => return Err(bad()),
        };
    }
    Ok(found)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn no_grpc(error: &hyper::Error) -> String {
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        format!("it does not speak gRPC (HTTP/2): {error}")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::StreamBody;
    use hyper::body::{Frame, Incoming};
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tasks::Tasks;

    type Frames = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

    fn reply(message: Option<&'static [u8]>, status: &'static str) -> Response<Frames> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("grpc-message", HeaderValue::from_static("because"));
        let mut frames = Vec::new();
        if let Some(message) = message {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
            framed.extend_from_slice(message);
            frames.push(Ok(Frame::data(framed.into())));
        }
        frames.push(Ok(Frame::trailers(trailers)));
        Response::new(StreamBody::new(futures::stream::iter(frames)))
    }

    /// A server that answers every call the same and hands on what it was asked.
    async fn server(
        message: Option<&'static [u8]>,
        status: &'static str,
    ) -> (SocketAddr, tokio::sync::mpsc::Receiver<(String, Bytes)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, questions) = tokio::sync::mpsc::channel(4);
        Tasks::new().spawn("test-server", async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    asked.send((path, body)).await.unwrap();
                    Ok::<_, Infallible>(reply(message, status))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The client goes away when it has its answer.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        (addr, questions)
    }

    #[tokio::test]
    async fn health_is_what_the_server_says() {
        for (message, wanted) in [
            (&[8, 1][..], Ok(())),
            (&[8, 2], Err("gRPC health is NOT_SERVING")),
            (&[], Err("gRPC health is UNKNOWN")),
            (&[8, 3], Err("gRPC health does not know the service `iris`")),
        ] {
            let (addr, mut questions) = server(Some(message), "0").await;
            assert_eq!(health(addr, "iris").await, wanted.map_err(str::to_owned));
            let (path, body) = questions.recv().await.unwrap();
            assert_eq!((path.as_str(), &body[..]), ("/grpc.health.v1.Health/Check", &b"\0\0\0\0\x06\x0a\x04iris"[..]));
        }
    }

    #[tokio::test]
    async fn a_model_is_ready_when_the_server_says_so() {
        let (addr, _questions) = server(Some(&[8, 1]), "0").await;
        assert_eq!(model_ready(addr, "iris").await, Ok(()));
        let (addr, _questions) = server(Some(&[]), "0").await;
        assert_eq!(model_ready(addr, "iris").await.unwrap_err(), "gRPC says that the model `iris` is not ready");
    }

    #[tokio::test]
    async fn a_refusal_says_which() {
        let (addr, _questions) = server(None, "12").await;
        let refused = health(addr, "").await.unwrap_err();
        assert_eq!(refused, "the server does not implement /grpc.health.v1.Health/Check");
        let (addr, _questions) = server(None, "5").await;
        let refused = model_ready(addr, "iris").await.unwrap_err();
        assert_eq!(refused, "gRPC status 5 from /inference.GRPCInferenceService/ModelReady: because");
    }

    #[tokio::test]
    async fn a_server_of_http_1_is_named_as_such() {
        use tokio::io::AsyncWriteExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Tasks::new().spawn("test-server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let failed = health(addr, "").await.unwrap_err();
        assert!(failed.starts_with("it does not speak gRPC (HTTP/2)"), "{failed}");
    }

    #[test]
    fn messages_are_read_field_by_field() {
        assert_eq!(first_number(&[8, 1]), Ok(1));
        assert_eq!(first_number(&[18, 2, b'x', b'y', 8, 0xac, 2, 25, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(300));
        for bad in [&[8][..], &[18, 9, 1], &[0x0f], &[0xff; 12]] {
            assert!(first_number(bad).is_err(), "{bad:?}");
        }
        let long = "m".repeat(300);
        assert_eq!(text_field(1, &long)[..3], [10, 0xac, 2]);
    }
}
