//! Where HTTP/1 messages begin and end, read as strictly as a proxy must (RFC 9112). Pure.
//!
//! hyper is laxer than a proxy may be: it takes a request with both `Content-Length` and `Transfer-Encoding`, bare line
//! feeds, repeated lengths. Whoever stands behind us might read those differently, so they are faults here. This reads
//! along with hyper and never changes a byte.

/// Limits of a request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head.
    pub(crate) bytes: usize,
    /// Header lines.
    pub(crate) lines: usize,
    /// Bytes of the request's target.
    pub(crate) target: usize,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request line is not `METHOD target HTTP/1.x`.
    RequestLine,
    /// A version we do not speak.
    Version,
    /// The target is longer than the limit.
    UriTooLong,
    /// The head is larger than the limit, in bytes or lines.
    HeadTooLarge,
    /// A line does not end as it must, or is folded.
    Line,
    /// A header's name or value has bytes that are not allowed.
    Header,
    /// `Content-Length` is repeated or not a number.
    ContentLength,
    /// `Transfer-Encoding` is repeated, unknown, or not allowed in this version.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    Ambiguous,
    /// No `Host`, or several.
    Host,
    /// The head did not come in time.
    Timeout,
    /// The body's framing is broken.
    Body,
}

impl Fault {
    pub(crate) const ALL: [Self; 12] = [
        Self::RequestLine,
        Self::Version,
        Self::UriTooLong,
        Self::HeadTooLarge,
        Self::Line,
        Self::Header,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::Ambiguous,
        Self::Host,
        Self::Timeout,
        Self::Body,
    ];
}

/// What may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Everything.
    All,
    /// That many bytes; the rest is the beginning of a head and must be shown again, with more.
    Upto(usize),
    /// That many bytes; what follows must not be read by anyone.
    Fault(usize, Fault),
}

/// Follows one connection's requests.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    limits: HeadLimits,
    /// Complete heads so far.
    heads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    Chunk(Chunk),
    /// Not ours to read: HTTP/2, or whatever comes after a request for an upgrade.
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size { digits: u8, value: u64 },
    Extension { len: u16, value: u64 },
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart { seen: u16 },
    Trailer { seen: u16 },
    TrailerLf { seen: u16 },
    EndLf,
}

const MAX_EXTENSION: u16 = 1024;
const MAX_TRAILERS: u16 = 16 << 10;

impl Framing {
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self { state: State::Head, limits, heads: 0 }
    }

    /// Reads nothing; for HTTP/2.
    pub(crate) fn opaque() -> Self {
        Self { state: State::Opaque, limits: HeadLimits { bytes: 0, lines: 0, target: 0 }, heads: 0 }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Returns whether a new request would begin with the next byte.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::Head
    }

    /// Returns how many requests have begun.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// Reads on.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Opaque => return Scan::All,
                State::Head => match read_head(rest, self.limits) {
                    Ok(Some((len, next))) => {
                        self.state = next;
                        self.heads += 1;
                        at += len;
                    }
                    Ok(None) => return Scan::Upto(at),
                    Err(fault) => return Scan::Fault(at, fault),
                },
                State::Body(left) => {
                    let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - take as u64;
                    self.state = if left == 0 { State::Head } else { State::Body(left) };
                    at += take;
                }
                State::Chunk(Chunk::Data(left)) => {
                    let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - take as u64;
                    self.state = State::Chunk(if left == 0 { Chunk::DataCr } else { Chunk::Data(left) });
                    at += take;
                }
                State::Chunk(chunk) => match chunk.next(rest[0]) {
                    Some(next) => {
                        self.state = next;
                        at += 1;
                    }
                    None => return Scan::Fault(at, Fault::Body),
                },
            }
        }
        Scan::All
    }
}

impl Chunk {
    const START: Self = Self::Size { digits: 0, value: 0 };

    fn next(self, byte: u8) -> Option<State> {
        Some(State::Chunk(match (self, byte) {
            (Self::Size { digits, value }, byte) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16)?;
                Self::Size { digits: digits + 1, value: value << 4 | u64::from(digit) }
            }
            (Self::Size { digits: 1.., value }, b'\r') => Self::SizeEnd(value),
            (Self::Size { digits: 1.., value }, b';') => Self::Extension { len: 0, value },
            (Self::Extension { value, .. }, b'\r') => Self::SizeEnd(value),
            (Self::Extension { len: 0..MAX_EXTENSION, .. }, b'\n' | 0) => return None,
            (Self::Extension { len: len @ 0..MAX_EXTENSION, value }, _) => Self::Extension { len: len + 1, value },
            (Self::SizeEnd(0), b'\n') => Self::TrailerStart { seen: 0 },
            (Self::SizeEnd(value), b'\n') => Self::Data(value),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::START,
            (Self::TrailerStart { .. }, b'\r') => Self::EndLf,
            (Self::TrailerStart { .. }, b' ' | b'\t' | b'\n' | 0) => return None,
            (Self::TrailerStart { seen } | Self::Trailer { seen }, byte) if seen < MAX_TRAILERS => match byte {
                b'\r' => Self::TrailerLf { seen },
                b'\n' | 0 => return None,
                _ => Self::Trailer { seen: seen + 1 },
            },
            (Self::TrailerLf { seen }, b'\n') => Self::TrailerStart { seen },
            (Self::EndLf, b'\n') => return Some(State::Head),
            _ => return None,
        }))
    }
}

/// What the header lines say about the message.
#[derive(Default)]
struct Facts {
    content_length: Option<u64>,
    chunked: bool,
    hosts: usize,
    upgrade: bool,
}

/// Reads a head from its first byte. None means that it is not complete.
fn read_head(bytes: &[u8], limits: HeadLimits) -> Result<Option<(usize, State)>, Fault> {
    let mut at = 0;
    // Empty lines before a request are tolerated by the standard.
    while bytes[at..].starts_with(b"\r\n") && at < 4 {
        at += 2;
    }
    let Some((line, len)) = next_line(&bytes[at..])? else { return incomplete(bytes, at, limits) };
    let (connect, http_11) = request_line(line, limits)?;
    at += len;
    let mut facts = Facts::default();
    let mut lines = 0;
    loop {
        let Some((line, len)) = next_line(&bytes[at..])? else { return incomplete(bytes, 0, limits) };
        at += len;
        if at > limits.bytes {
            return Err(Fault::HeadTooLarge);
        }
        if line.is_empty() {
            break;
        }
        lines += 1;
        if lines > limits.lines {
            return Err(Fault::HeadTooLarge);
        }
        header_line(line, http_11, &mut facts)?;
    }
    if facts.hosts > 1 || (http_11 && facts.hosts == 0) {
        return Err(Fault::Host);
    }
    let next = match facts {
        Facts { content_length: Some(_), chunked: true, .. } => return Err(Fault::Ambiguous),
        Facts { upgrade, .. } if connect || (upgrade && http_11) => State::Opaque,
        Facts { chunked: true, .. } => State::Chunk(Chunk::START),
        Facts { content_length: Some(length @ 1..), .. } => State::Body(length),
        _ => State::Head,
    };
    Ok(Some((at, next)))
}

fn incomplete(bytes: &[u8], line: usize, limits: HeadLimits) -> Result<Option<(usize, State)>, Fault> {
    // The longest method and version, and spaces, take less than 64 bytes of a request line.
    let endless_target = line > 0 || !bytes.contains(&b'\n');
    if endless_target && bytes.len() - line > limits.target + 64 {
        return Err(Fault::UriTooLong);
    }
    if bytes.len() > limits.bytes {
        return Err(Fault::HeadTooLarge);
    }
    Ok(None)
}

/// Returns the line without its end, and its length with it.
fn next_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Fault> {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
    match bytes[..end].split_last() {
        Some((b'\r', line)) => Ok(Some((line, end + 1))),
        _ => Err(Fault::Line),
    }
}

fn request_line(line: &[u8], limits: HeadLimits) -> Result<(bool, bool), Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::RequestLine);
    };
    if target.len() > limits.target {
        return Err(Fault::UriTooLong);
    }
    if !is_token(method) || method.len() > 32 || method == REFUSED_METHOD || !is_target(method, target) {
        return Err(Fault::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok((method == b"CONNECT", true)),
        b"HTTP/1.0" => Ok((method == b"CONNECT", false)),
        version if version.starts_with(b"HTTP/") => Err(Fault::Version),
        _ => Err(Fault::RequestLine),
    }
}

/// Whether a target has one of the forms of RFC 9112, section 3.2, in characters that hyper takes, too: its own answer to
/// others would say nothing.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    let clean = |byte: &u8| byte.is_ascii_graphic() && !b"#<>".contains(byte);
    if !target.iter().all(clean) {
        return false;
    }
    match target {
        [b'/', ..] => {
            let path = memchr::memchr(b'?', target).unwrap_or(target.len());
            !target[..path].contains(&b'`') && !target[path..].contains(&b'"')
        }
        b"*" => method == b"OPTIONS",
        // Of a proxy to anywhere; it is told that we are none.
        _ if method == b"CONNECT" => http::uri::Authority::try_from(target).is_ok(),
        _ => http::Uri::try_from(target).is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|host| host.as_str() != "")
        }),
    }
}

/// The method of the request that stands in for a faulty one; see `guard`. Not for clients.
pub(crate) const REFUSED_METHOD: &[u8] = b"KSERVE-LOCAL-REFUSED";

fn header_line(line: &[u8], http_11: bool, facts: &mut Facts) -> Result<(), Fault> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(Fault::Line);
    }
    let colon = memchr::memchr(b':', line).ok_or(Fault::Header)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let forbidden = |byte: u8| byte < b' ' && byte != b'\t' || byte == 0x7f;
    // Without a way out of the loop it is done for many bytes at once.
    if !is_token(name) || value.iter().fold(false, |any, byte| any | forbidden(*byte)) {
        return Err(Fault::Header);
    }
    // Only five names matter; their lengths tell most others apart.
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => facts.hosts += 1,
        7 if name.eq_ignore_ascii_case(b"upgrade") => facts.upgrade = true,
        14 if name.eq_ignore_ascii_case(b"content-length") => {
            if facts.content_length.is_some() {
                return Err(Fault::ContentLength);
            }
            facts.content_length = Some(number(value).ok_or(Fault::ContentLength)?);
        }
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
            if facts.chunked || !http_11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::TransferEncoding);
            }
            facts.chunked = true;
        }
        _ => {}
    }
    Ok(())
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Bytes of names and methods (RFC 9110 §5.6.2).
const TOKEN: [bool; 256] = {
    let (mut table, marks) = ([false; 256], b"!#$%&'*+-.^_`|~");
    let mut at = 0;
    while at < 128 {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
