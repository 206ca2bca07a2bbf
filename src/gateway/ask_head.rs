//! How a request is written for an HTTP/1.1 backend: its head, and where its body ends. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http_body::SizeHint;

use super::headers::{Said, may_be_trailer};

/// Where a request's body ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// After so many bytes more.
    Length(u64),
    /// With the last chunk, which these trailers may follow.
    Chunked(Vec<HeaderName>),
}

impl Extent {
    /// Decides how a body is framed, and says so in the head. Whatever length the head states alone is right: `guard` and
    /// h2 have seen to that.
    pub(crate) fn decide(headers: &mut HeaderMap, body: &SizeHint, ended: bool) -> Self {
        headers.remove(header::TRANSFER_ENCODING);
        if ended {
            if stated(headers) != Some(0) {
                headers.remove(header::CONTENT_LENGTH);
            }
            return Self::Length(0);
        }
        if let Some(length) = stated(headers) {
            return Self::Length(length);
        }
        if let Some(length) = body.exact() {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            return Self::Length(length);
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        Self::Chunked(announced(headers))
    }
}

fn stated(headers: &HeaderMap) -> Option<u64> {
    let mut stated = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(one), None) = (stated.next(), stated.next()) else { return None };
    let text = one.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Trailers that the head announces and that may be trailers (RFC 9110, section 6.5.1).
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(may_be_trailer).collect()
}

/// Writes a request's head: the client's lines, then ours.
pub(crate) fn write_head(into: &mut Vec<u8>, head: &Parts, said: &Said) {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    into.reserve(head.method.as_str().len() + path.len() + 16 + 48 * head.headers.len());
    for part in [head.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        into.extend_from_slice(part.as_bytes());
    }
    write_lines(into, &head.headers);
    write_lines(into, said.lines());
    into.extend_from_slice(b"\r\n");
}

/// Writes header or trailer lines.
pub(crate) fn write_lines<'a>(into: &mut Vec<u8>, lines: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in lines {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            into.extend_from_slice(part);
        }
    }
}

/// Writes the line before a chunk.
pub(crate) fn write_chunk_size(into: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        into.push(b"0123456789abcdef"[size >> (4 * at) & 15]);
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(lines: &[(&'static str, &'static str)], length: Option<u64>) -> (Extent, String) {
        let mut head = http::Request::post("/v1/models/iris:predict?x=1").body(()).unwrap().into_parts().0;
        for (name, value) in lines {
            head.headers.append(*name, HeaderValue::from_static(value));
        }
        let hint = length.map_or(SizeHint::new(), SizeHint::with_exact);
        let extent = Extent::decide(&mut head.headers, &hint, length == Some(0));
        let mut written = Vec::new();
        write_head(&mut written, &head, &Said::default());
        (extent, String::from_utf8(written).unwrap())
    }

    #[test]
    fn a_body_is_framed_once() {
        let start = "POST /v1/models/iris:predict?x=1 HTTP/1.1\r\n";
        for (name, lines, length, extent, written) in [
            ("as stated", vec![("content-length", "3")], None, Extent::Length(3), "content-length: 3\r\n"),
            ("as known", vec![], Some(3), Extent::Length(3), "content-length: 3\r\n"),
            ("none", vec![("content-length", "0")], Some(0), Extent::Length(0), "content-length: 0\r\n"),
            ("none, twice", vec![("content-length", "0"), ("content-length", "3")], Some(0), Extent::Length(0), ""),
            ("unknown", vec![], None, Extent::Chunked(vec![]), "transfer-encoding: chunked\r\n"),
            (
                "stated twice",
                vec![("content-length", "3"), ("content-length", "4")],
                None,
                Extent::Chunked(vec![]),
                "transfer-encoding: chunked\r\n",
            ),
            (
                "no number",
                vec![("content-length", "+3")],
                None,
                Extent::Chunked(vec![]),
                "transfer-encoding: chunked\r\n",
            ),
        ] {
            assert_eq!(decided(&lines, length), (extent, format!("{start}{written}\r\n")), "{name}");
        }
    }

    #[test]
    fn only_trailers_that_are_announced_and_harmless_may_follow() {
        let (extent, _) =
            decided(&[("trailer", "X-Sum, Content-Length, X-Forwarded-For"), ("trailer", "bad name,x-time")], None);
        let names = ["x-sum", "x-time"].map(HeaderName::from_static);
        assert_eq!(extent, Extent::Chunked(names.into()));
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for (size, line) in [(0, "0\r\n"), (1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0xabcde, "abcde\r\n")] {
            let mut written = Vec::new();
            write_chunk_size(&mut written, size);
            assert_eq!(written, line.as_bytes());
        }
    }
}
