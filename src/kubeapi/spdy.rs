//! Frames of SPDY/3.1, as far as `kubectl port-forward` speaks it: streams, their headers and data, pings.
//!
//! Facts are from draft-mbelshe-httpbis-spdy-00. Flow control is not part of it: the other side has none either, and
//! the connection's own holds for all streams together.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bytes before every frame's body.
const HEAD: usize = 8;
/// Version in control frames.
const VERSION: u16 = 3;
/// Largest control frame, and largest block of headers once unpacked.
const CONTROL_LIMIT: usize = 64 << 10;
/// Largest data frame that is read.
const DATA_LIMIT: usize = 1 << 20;
/// Flag of a frame after which its sender says no more on the stream.
const FIN: u8 = 1;

/// Words both sides know before the first header, each with its length in front (§2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges \
    age allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// Text both sides know, after the words.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-\
    8859-1,utf-,*,enq=0.";

/// Names and values.
pub type Headers = BTreeMap<String, String>;

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// A control frame of another version.
    #[error("SPDY version {0} is not spoken")]
    Version(u16),
    /// More than anybody needs.
    #[error("a SPDY frame of {0} bytes is too large")]
    TooLarge(usize),
    /// It ends too early, or its headers cannot be unpacked.
    #[error("a damaged SPDY frame")]
    Damaged,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The other side opens a stream.
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether its opener says nothing on it.
        last: bool,
    },
    /// A stream that was opened is taken.
    Accept {
        /// Its number.
        stream: u32,
    },
    /// Bytes on a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether no more follow.
        last: bool,
    },
    /// A stream ends at once.
    Reset {
        /// Its number.
        stream: u32,
        /// Why (§2.6.3): 3 is a refusal.
        status: u32,
    },
    /// To be sent back.
    Ping(u32),
    /// Nothing that matters here.
    Other,
}

/// Takes frames off bytes, and puts them on; headers are packed with all that went before on the connection.
pub struct Codec {
    unpack: Decompress,
    pack: Compress,
    dictionary: Vec<u8>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec")
    }
}

impl Codec {
    /// Begins a connection.
    ///
    /// # Errors
    /// The packer does not take the dictionary.
    pub fn new() -> Result<Self, SpdyError> {
        let dictionary = dictionary();
        let mut pack = Compress::new(Compression::fast(), true);
        pack.set_dictionary(&dictionary).map_err(|_| SpdyError::Damaged)?;
        Ok(Self { unpack: Decompress::new(true), pack, dictionary })
    }

    /// Takes the next frame off a buffer; `None` when it is not all there.
    ///
    /// # Errors
    /// What is there is no frame.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let mut head = &head[..];
        let first = head.get_u32();
        let second = head.get_u32();
        let (control, flags, length) = (first >> 31 == 1, second.to_be_bytes()[0], (second & 0x00ff_ffff) as usize);
        if length > if control { CONTROL_LIMIT } else { DATA_LIMIT } {
            return Err(SpdyError::TooLarge(length));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        let body = buffer.split_to(length).freeze();
        if !control {
            return Ok(Some(Frame::Data { stream: first, bytes: body, last: flags & FIN != 0 }));
        }
        let [high, low, ..] = first.to_be_bytes();
        let version = u16::from_be_bytes([high, low]) & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        self.control(first & 0xffff, flags, body).map(Some)
    }

    fn control(&mut self, kind: u32, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
        let mut number = || body.try_get_u32().map_err(|_| SpdyError::Damaged);
        Ok(match kind {
            1 => {
                let stream = number()? & 0x7fff_ffff;
                number()?;
                body.try_get_u16().map_err(|_| SpdyError::Damaged)?;
                Frame::Open { stream, headers: self.headers(&body)?, last: flags & FIN != 0 }
            }
            2 => {
                let stream = number()?;
                self.headers(&body)?;
                Frame::Accept { stream }
            }
            3 => Frame::Reset { stream: number()?, status: number()? },
            6 => Frame::Ping(number()?),
            // Headers are unpacked even when nobody wants them: the next ones build on them.
            8 => {
                number()?;
                self.headers(&body)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let block = self.unpacked(packed)?;
        let text = |block: &mut &[u8]| {
            let length = block.try_get_u32().map_err(|_| SpdyError::Damaged)? as usize;
            let (text, rest) = block.split_at_checked(length).ok_or(SpdyError::Damaged)?;
            *block = rest;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        let mut block = &block[..];
        let count = block.try_get_u32().map_err(|_| SpdyError::Damaged)?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            headers.insert(name, text(&mut block)?);
        }
        Ok(headers)
    }

    fn unpacked(&mut self, packed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::with_capacity(1 << 10);
        let mut left = packed;
        loop {
            let before = (self.unpack.total_in(), self.unpack.total_out());
            let outcome = self.unpack.decompress_vec(left, &mut block, FlushDecompress::Sync);
            let read = usize::try_from(self.unpack.total_in() - before.0).unwrap_or(usize::MAX);
            left = left.get(read..).ok_or(SpdyError::Damaged)?;
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.unpack.set_dictionary(&self.dictionary).map_err(|_| SpdyError::Damaged)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError::Damaged),
                Ok(_) => {}
            }
            let still = before == (self.unpack.total_in(), self.unpack.total_out());
            if left.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            if still && block.len() < block.capacity() || block.len() > CONTROL_LIMIT {
                return Err(SpdyError::Damaged);
            }
            block.reserve(1 << 10);
        }
    }

    /// Puts a frame on a buffer.
    ///
    /// # Errors
    /// Its headers cannot be packed.
    pub fn encode(&mut self, frame: &Frame, buffer: &mut BytesMut) -> Result<(), SpdyError> {
        match frame {
            Frame::Open { stream, headers, last } => {
                let block = self.packed(headers)?;
                head(buffer, 1, u8::from(*last), 10 + block.len());
                buffer.put_u32(*stream);
                buffer.put_u32(0);
                buffer.put_u16(0);
                buffer.put_slice(&block);
            }
            Frame::Accept { stream } => {
                let block = self.packed(&Headers::new())?;
                head(buffer, 2, 0, 4 + block.len());
                buffer.put_u32(*stream);
                buffer.put_slice(&block);
            }
            Frame::Data { stream, bytes, last } => {
                buffer.put_u32(stream & 0x7fff_ffff);
                buffer.put_u32(flags_and_length(u8::from(*last), bytes.len()));
                buffer.put_slice(bytes);
            }
            Frame::Reset { stream, status } => {
                head(buffer, 3, 0, 8);
                buffer.put_u32(*stream);
                buffer.put_u32(*status);
            }
            Frame::Ping(number) => {
                head(buffer, 6, 0, 4);
                buffer.put_u32(*number);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn packed(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::new();
        block.put_u32(u32::try_from(headers.len()).unwrap_or_default());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(u32::try_from(text.len()).unwrap_or_default());
            block.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(block.len() + 64);
        let mut left = &block[..];
        loop {
            let before = self.pack.total_in();
            self.pack.compress_vec(left, &mut packed, FlushCompress::Sync).map_err(|_| SpdyError::Damaged)?;
            let read = usize::try_from(self.pack.total_in() - before).unwrap_or(usize::MAX);
            left = left.get(read..).ok_or(SpdyError::Damaged)?;
            if left.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(256);
        }
    }
}

fn head(buffer: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    buffer.put_u16(0x8000 | VERSION);
    buffer.put_u16(kind);
    buffer.put_u32(flags_and_length(flags, length));
}

/// Lengths are bounded by what is put into frames, far below 24 bits.
fn flags_and_length(flags: u8, length: usize) -> u32 {
    u32::from(flags) << 24 | u32::try_from(length).unwrap_or_default() & 0x00ff_ffff
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        dictionary.put_u32(u32::try_from(word.len()).unwrap_or_default());
        dictionary.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    dictionary.extend(TEXT.bytes());
    dictionary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(stream: u32) -> Frame {
        let headers = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Frame::Open { stream, headers, last: false }
    }

    #[test]
    fn the_dictionary_is_the_one_everybody_has() {
        let mut decompressor = Decompress::new(true);
        let mut codec = Codec::new().unwrap();
        let packed = codec.packed(&Headers::new()).unwrap();
        let error = decompressor.decompress_vec(&packed, &mut Vec::with_capacity(64), FlushDecompress::Sync);
        assert_eq!(error.unwrap_err().needs_dictionary(), Some(0xe3c6_a7c2));
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let (mut sender, mut receiver) = (Codec::new().unwrap(), Codec::new().unwrap());
        let frames = [
            open(1),
            open(3),
            Frame::Accept { stream: 1 },
            Frame::Data { stream: 1, bytes: Bytes::from(vec![7; 40_000]), last: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), last: true },
            Frame::Reset { stream: 3, status: 3 },
            Frame::Ping(9),
            open(5),
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            sender.encode(frame, &mut wire).unwrap();
        }
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for part in wire.chunks(7) {
            buffer.extend_from_slice(part);
            while let Some(frame) = receiver.decode(&mut buffer).unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, frames);
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let decode = |bytes: &[u8]| Codec::new().unwrap().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        assert_eq!(decode(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), Err(SpdyError::TooLarge(0x00ff_0000)));
        assert_eq!(decode(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]), Err(SpdyError::Damaged));
        let mut noise = vec![0x80, 3, 0, 1, 0, 0, 0, 18, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        noise.extend([0x42; 8]);
        assert_eq!(decode(&noise), Err(SpdyError::Damaged));
        assert_eq!(decode(b"GET / HT"), Err(SpdyError::TooLarge(0x0020_4854)));
        assert_eq!(decode(&[0, 0, 0, 1, 0, 0, 0, 9, 1]), Ok(None));
    }
}
