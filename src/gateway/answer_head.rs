//! How the head of an HTTP/1 backend's answer is read, and where it says that its body ends (RFC 9112, section 6.3). Pure.

use std::mem::MaybeUninit;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;

/// Where an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// A head that is complete.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    /// Status and headers.
    pub(crate) response: Response<()>,
    pub(crate) ending: Ending,
    /// Whether another request may follow on the connection.
    pub(crate) keeps: bool,
    /// Its length in bytes.
    pub(crate) len: usize,
}

/// Why what a backend says is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    /// It does not look like HTTP/1.
    #[error("the backend's answer is not HTTP/1: {0}")]
    Head(httparse::Error),
    /// More than may be.
    #[error("the head of the backend's answer is too large")]
    TooLarge,
    /// A length that is no number, several that differ, or a transfer coding in HTTP/1.0.
    #[error("the backend's answer does not say how long it is")]
    Length,
    /// Nobody asked for that.
    #[error("the backend's answer has a transfer coding other than `chunked`")]
    Coding,
    /// Broken chunks.
    #[error("the chunks of the backend's answer are malformed")]
    Chunk,
}

/// Largest head of an answer.
pub(crate) const MAX_HEAD: usize = 400 << 10;
/// Most answers have fewer header lines.
const USUAL_LINES: usize = 48;

/// Reads a head. None means that it is not complete. `to_head` says that it answers a request with that method.
pub(crate) fn read_head(bytes: &[u8], most_lines: usize, to_head: bool) -> Result<Option<AnswerHead>, Nonsense> {
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_LINES];
    match read_lines(bytes, &mut usual, to_head) {
        Err(Nonsense::Head(httparse::Error::TooManyHeaders)) if most_lines > USUAL_LINES => {
            let mut many = vec![MaybeUninit::uninit(); most_lines];
            read_lines(bytes, &mut many, to_head)
        }
        Ok(None) if bytes.len() > MAX_HEAD => Err(Nonsense::TooLarge),
        read => read,
    }
}

fn read_lines<'a>(
    bytes: &'a [u8],
    lines: &mut [MaybeUninit<httparse::Header<'a>>],
    to_head: bool,
) -> Result<Option<AnswerHead>, Nonsense> {
    let mut seen = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut seen, bytes, lines);
    let httparse::Status::Complete(len) = parsed.map_err(Nonsense::Head)? else { return Ok(None) };
    let status = seen.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Nonsense::Head(httparse::Error::Status))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    let reason = seen.reason.filter(|reason| Some(*reason) != status.canonical_reason() && !reason.is_empty());
    if let Some(Ok(reason)) = reason.map(|reason| ReasonPhrase::try_from(reason.as_bytes())) {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    headers.reserve(seen.headers.len());
    for line in seen.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Nonsense::Head(httparse::Error::HeaderName)) };
        headers.append(name, value);
    }
    let is_11 = seen.version == Some(1);
    let ending = ending(status, headers, is_11, to_head)?;
    if status == StatusCode::NO_CONTENT {
        // It has none (RFC 9110, section 8.6), and HTTP/2 clients take any other for a broken answer.
        headers.remove(header::CONTENT_LENGTH);
    }
    let keeps = keeps(headers, is_11) && ending != Ending::Close && status != StatusCode::SWITCHING_PROTOCOLS;
    Ok(Some(AnswerHead { response, ending, keeps, len }))
}

fn ending(status: StatusCode, headers: &HeaderMap, is_11: bool, to_head: bool) -> Result<Ending, Nonsense> {
    if to_head || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        return Ok(Ending::Length(0));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return if is_11 { coded_ending(headers) } else { Err(Nonsense::Length) };
    }
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        // The same length may be said several times.
        for one in value.as_bytes().split(|byte| *byte == b',') {
            let one = number(one.trim_ascii()).ok_or(Nonsense::Length)?;
            if length.replace(one).is_some_and(|before| before != one) {
                return Err(Nonsense::Length);
            }
        }
    }
    Ok(length.map_or(Ending::Close, Ending::Length))
}

/// A coding ends here, as the field that names it does: any other than chunks would reach the client as content.
fn coded_ending(headers: &HeaderMap) -> Result<Ending, Nonsense> {
    let lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut ending = Ending::Close;
    for coding in codings.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")) {
        if ending == Ending::Chunked || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Nonsense::Coding);
        }
        ending = Ending::Chunked;
    }
    Ok(ending)
}

fn number(digits: &[u8]) -> Option<u64> {
    let right = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    right.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// HTTP/1.1 keeps a connection unless it says otherwise, HTTP/1.0 only when it says so. Closing has the last word.
fn keeps(headers: &HeaderMap, is_11: bool) -> bool {
    let mut keeps = is_11;
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<AnswerHead>, Nonsense> {
        read_head(text.as_bytes(), 256, false)
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let nothing = Ending::Length(0);
        for (lines, ending, keeps) in [
            ("1.1 200 OK\r\nContent-Length: 5\r\n", Ending::Length(5), true),
            ("1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n", Ending::Length(5), true),
            ("1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n", Ending::Length(5), false),
            (
                "1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nConnection: keep-alive\r\n",
                Ending::Length(5),
                false,
            ),
            ("1.0 200 OK\r\nContent-Length: 5\r\n", Ending::Length(5), false),
            ("1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n", Ending::Length(5), true),
            ("1.1 200 OK\r\nTransfer-Encoding: identity, Chunked\r\nContent-Length: 5\r\n", Ending::Chunked, true),
            ("1.1 200 OK\r\nTransfer-Encoding: identity\r\n", Ending::Close, false),
            ("1.1 200 OK\r\n", Ending::Close, false),
            ("1.0 200 OK\r\nConnection: keep-alive\r\n", Ending::Close, false),
            ("1.1 204 No Content\r\nContent-Length: 5\r\n", nothing, true),
            ("1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n", nothing, true),
            ("1.1 101 Switching Protocols\r\nUpgrade: x\r\n", nothing, false),
        ] {
            let text = format!("HTTP/{lines}\r\n");
            let head = read(&format!("{text}more")).unwrap().unwrap();
            assert_eq!((head.ending, head.keeps, head.len), (ending, keeps, text.len()), "{text}");
        }
        let to_head = read_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 256, true).unwrap().unwrap();
        assert_eq!((to_head.ending, to_head.keeps), (nothing, true));
        assert_eq!(to_head.response.headers()["content-length"], "5");
        let nothing = read("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
        assert!(nothing.response.headers().is_empty());
    }

    #[test]
    fn what_is_no_answer_is_told_apart_from_what_is_none_yet() {
        for text in ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n"] {
            assert!(read(text).unwrap().is_none(), "{text}");
        }
        for (lines, nonsense) in [
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Nonsense::Length),
            ("Content-Length: 5, 6\r\n", Nonsense::Length),
            ("Content-Length: -5\r\n", Nonsense::Length),
            ("Content-Length: \r\n", Nonsense::Length),
            ("Transfer-Encoding: gzip, chunked\r\n", Nonsense::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", Nonsense::Coding),
            ("Transfer-Encoding: chunked, chunked\r\n", Nonsense::Coding),
            ("Content-Length: 99999999999999999999\r\n", Nonsense::Length),
            ("a b: c\r\n", Nonsense::Head(httparse::Error::HeaderName)),
            (" folded\r\n", Nonsense::Head(httparse::Error::HeaderName)),
        ] {
            assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n")).unwrap_err(), nonsense, "{lines}");
        }
        assert_eq!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err(), Nonsense::Length);
        assert_eq!(read("SSH-2.0-OpenSSH\r\n").unwrap_err(), Nonsense::Head(httparse::Error::Version));
        assert_eq!(read("HTTP/1.1 999999 x\r\n\r\n").unwrap_err(), Nonsense::Head(httparse::Error::Status));
    }

    #[test]
    fn heads_may_be_long_but_not_endless() {
        let lines = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
        assert_eq!(read(&lines(256)).unwrap().unwrap().response.headers().get_all("x").iter().count(), 256);
        assert_eq!(read(&lines(257)).unwrap_err(), Nonsense::Head(httparse::Error::TooManyHeaders));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD));
        assert_eq!(read(&endless).unwrap_err(), Nonsense::TooLarge);
    }

    #[test]
    fn a_reason_of_the_backends_own_is_kept() {
        let head = read("HTTP/1.1 200 Fine\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.response.extensions().get::<ReasonPhrase>().map(ReasonPhrase::as_bytes), Some(&b"Fine"[..]));
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap().response.extensions().is_empty());
    }
}
