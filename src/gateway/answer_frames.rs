//! The body of an HTTP/1 backend's answer, taken out of what was read from its connection. Pure.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use super::answer_head::{Ending, Nonsense};
use super::headers::may_be_trailer;

/// Follows one answer's body.
#[derive(Debug)]
pub(crate) struct Frames(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// The line before a chunk is next.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The line end behind a chunk is next.
    ChunkEnd,
    Trailers,
    /// Everything that comes.
    Close,
    Ended,
}

/// Longest line before a chunk.
const MAX_SIZE_LINE: usize = 4 << 10;
/// Trailers of an answer, in lines and bytes.
const MAX_TRAILERS: usize = 64;
const MAX_TRAILER_BYTES: usize = 16 << 10;
/// Smaller pieces are copied, so that the buffer they came in can be used again.
const COPIED: usize = 1 << 10;

impl Frames {
    pub(crate) fn new(ending: Ending) -> Self {
        Self(match ending {
            Ending::Length(0) => State::Ended,
            Ending::Length(length) => State::Length(length),
            Ending::Chunked => State::Size,
            Ending::Close => State::Close,
        })
    }

    /// Returns whether the answer is whole.
    pub(crate) fn ended(&self) -> bool {
        self.0 == State::Ended
    }

    /// Returns how many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// The connection has ended. Returns whether the answer has, too.
    pub(crate) fn close(&mut self) -> bool {
        if self.0 == State::Close {
            self.0 = State::Ended;
        }
        self.ended()
    }

    /// Takes the next piece. None means that the answer has ended, or that more must be read.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Nonsense> {
        loop {
            match self.0 {
                _ if read.is_empty() => return Ok(None),
                State::Ended => return Ok(None),
                State::Close => return Ok(Some(Frame::data(take(read, u64::MAX)))),
                State::Length(left) => {
                    let piece = take(read, left);
                    let left = left - piece.len() as u64;
                    self.0 = if left == 0 { State::Ended } else { State::Length(left) };
                    return Ok(Some(Frame::data(piece)));
                }
                State::Chunk(left) => {
                    let piece = take(read, left);
                    let left = left - piece.len() as u64;
                    self.0 = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Some(Frame::data(piece)));
                }
                State::ChunkEnd => {
                    if !b"\r\n".starts_with(&read[..read.len().min(2)]) {
                        return Err(Nonsense::Chunk);
                    }
                    if read.len() < 2 {
                        return Ok(None);
                    }
                    read.advance(2);
                    self.0 = State::Size;
                }
                State::Size => {
                    let Some(line) = line_end(read, MAX_SIZE_LINE)? else { return Ok(None) };
                    let size = chunk_size(&read[..line])?;
                    read.advance(line + 2);
                    self.0 = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Trailers => {
                    let Some((len, trailers)) = read_trailers(read)? else { return Ok(None) };
                    read.advance(len);
                    self.0 = State::Ended;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
            }
        }
    }
}

fn take(read: &mut BytesMut, most: u64) -> Bytes {
    let len = usize::try_from(most).map_or(read.len(), |most| most.min(read.len()));
    if len <= COPIED {
        let piece = Bytes::copy_from_slice(&read[..len]);
        read.advance(len);
        return piece;
    }
    read.split_to(len).freeze()
}

/// Returns where a line ends that must end with CR LF.
fn line_end(read: &[u8], most: usize) -> Result<Option<usize>, Nonsense> {
    match memchr::memchr(b'\n', read) {
        Some(end) if end > 0 && end <= most && read[end - 1] == b'\r' => Ok(Some(end - 1)),
        None if read.len() <= most => Ok(None),
        _ => Err(Nonsense::Chunk),
    }
}

/// Some servers fill the line up with blanks.
fn chunk_size(line: &[u8]) -> Result<u64, Nonsense> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if !(1..=15).contains(&digits) || !(rest.is_empty() || rest[0] == b';') || rest.contains(&b'\r') {
        return Err(Nonsense::Chunk);
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or_default());
    Ok(line[..digits].iter().fold(0, |size, byte| size << 4 | digit(byte)))
}

/// Returns the trailers and how long they are; none when they are not complete.
fn read_trailers(read: &[u8]) -> Result<Option<(usize, HeaderMap)>, Nonsense> {
    if read.starts_with(b"\r\n") {
        return Ok(Some((2, HeaderMap::new())));
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    match httparse::parse_headers(read, &mut lines) {
        Ok(httparse::Status::Complete((len, lines))) if len <= MAX_TRAILER_BYTES => {
            let mut trailers = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Nonsense::Chunk)?;
                let value = HeaderValue::from_bytes(line.value).map_err(|_| Nonsense::Chunk)?;
                // HTTP/2 clients take a length that comes then for a broken answer.
                if may_be_trailer(&name) {
                    trailers.append(name, value);
                }
            }
            Ok(Some((len, trailers)))
        }
        Ok(httparse::Status::Partial) if read.len() <= MAX_TRAILER_BYTES => Ok(None),
        _ => Err(Nonsense::Chunk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer that comes in steps of so many bytes: its data, its trailers, whether it ended, and what is left.
    fn read(ending: Ending, wire: &str, step: usize) -> Result<(String, Vec<String>, bool, String), Nonsense> {
        let (mut frames, mut buffer) = (Frames::new(ending), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), Vec::new());
        for part in wire.as_bytes().chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(frame) = frames.next(&mut buffer)? {
                match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => {
                        let lines = frame.into_trailers().unwrap();
                        trailers
                            .extend(lines.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())));
                    }
                }
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&data), trailers, frames.ended(), text(&buffer)))
    }

    #[test]
    fn answers_are_the_same_however_they_are_cut() {
        let chunks = "3\r\nabc\r\nA ;x=\"y\"\r\n0123456789\r\n0\r\n";
        for step in [1, 2, 3, 7, 1000] {
            let ended = |data: &str, trailers: &[&str], rest: &str| {
                Ok((data.to_owned(), trailers.iter().map(|&one| one.to_owned()).collect(), true, rest.to_owned()))
            };
            assert_eq!(read(Ending::Length(3), "abcmore", step), ended("abc", &[], "more"), "{step}");
            assert_eq!(read(Ending::Length(0), "more", step), ended("", &[], "more"), "{step}");
            let (data, plain) = ("abc0123456789", format!("{chunks}\r\nmore"));
            assert_eq!(read(Ending::Chunked, &plain, step), ended(data, &[], "more"), "{step}");
            let trailing = format!("{chunks}X-Sum: 1\r\nContent-Length: 9\r\nX-Sum: 2\r\n\r\n");
            assert_eq!(read(Ending::Chunked, &trailing, step), ended(data, &["x-sum=1", "x-sum=2"], ""), "{step}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_has_not_ended() {
        for (ending, wire) in [
            (Ending::Length(4), "abc"),
            (Ending::Chunked, "3\r\nabc\r\n"),
            (Ending::Chunked, "3\r\nabc\r\n0\r\n"),
            (Ending::Chunked, "3\r\nabc\r\n0\r\nx: y\r\n"),
        ] {
            let (data, _, ended, _) = read(ending, wire, 1000).unwrap();
            assert_eq!((data.as_str(), ended), ("abc", false), "{wire}");
            assert!(!Frames::new(ending).close());
        }
        let mut until_close = Frames::new(Ending::Close);
        assert!(until_close.next(&mut BytesMut::from("abc")).unwrap().is_some());
        assert!(!until_close.ended() && until_close.close());
    }

    #[test]
    fn malformed_chunks_are_not_guessed_at() {
        let (long_line, endless) = (format!("1;{}", "x".repeat(MAX_SIZE_LINE)), "x: y\r\n".repeat(MAX_TRAILERS + 1));
        for wire in [
            "x\r\n",
            "\r\n",
            ";x\r\n",
            "-1\r\n",
            "1 1\r\n",
            "3\nabc",
            "1;\r\r\n",
            "1000000000000000\r\n",
            "3\r\nabcd",
            "3\r\nabc\n",
            "0\r\n: y\r\n\r\n",
            long_line.as_str(),
            &format!("0\r\n{endless}\r\n"),
            &format!("0\r\nx: {}", "y".repeat(MAX_TRAILER_BYTES)),
        ] {
            for step in [1, 1 << 20] {
                assert_eq!(read(Ending::Chunked, wire, step), Err(Nonsense::Chunk), "{wire:.20}");
            }
        }
    }

    #[test]
    fn large_pieces_are_not_copied() {
        let mut buffer = BytesMut::from(vec![b'x'; 2 * COPIED].as_slice());
        let start = buffer.as_ptr();
        let piece = Frames::new(Ending::Close).next(&mut buffer).unwrap().unwrap().into_data().unwrap();
        assert_eq!((piece.as_ptr(), piece.len()), (start, 2 * COPIED));
    }
}
