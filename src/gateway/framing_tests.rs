use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 2048, lines: 8, target: 256 };

fn scan(text: &str) -> Scan {
    Framing::new(LIMITS).scan(text.as_bytes())
}

#[test]
fn well_framed_requests_pass_as_they_are() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost:a\r\nContent-Length: 3 \r\n\r\nabcGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\x01\x02\n\nanything",
        "GET http://a/b?c HTTP/1.1\r\nHost: a\r\nX: t\tab \r\n\r\n",
        "GET HTTPS://a?c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //a/\"{}|\\^[]?`{}|\\^[]?/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(scan(text), Scan::All, "{text:?}");
    }
}

#[test]
fn ambiguous_or_broken_heads_are_faults() {
    let table = [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Ambiguous),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Fault::Ambiguous),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", Fault::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Fault::TransferEncoding),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::TransferEncoding,
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Fault::Header),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Fault::Header),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\nHost: a\n\n", Fault::Line),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Fault::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Fault::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Fault::Header),
        ("GET / HTTP/1.1\r\n\r\n", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Fault::Host),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET iris-default.localhost:80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET iris HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET http://[a/b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET ?b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /a`b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET /a?\"b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("KSERVE-LOCAL-REFUSED /0 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::Version),
    ];
    for (text, fault) in table {
        assert_eq!(scan(text), Scan::Fault(0, fault), "{text:?}");
    }
}

#[test]
fn heads_over_a_limit_are_faults_before_they_are_complete() {
    let long = "a".repeat(3000);
    assert_eq!(scan(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), Scan::Fault(0, Fault::UriTooLong));
    assert_eq!(scan(&format!("GET /{long}")), Scan::Fault(0, Fault::UriTooLong));
    assert_eq!(scan(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}")), Scan::Fault(0, Fault::HeadTooLarge));
    assert_eq!(scan(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")), Scan::Fault(0, Fault::HeadTooLarge));
    let many = "x: y\r\n".repeat(9);
    assert_eq!(scan(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Scan::Fault(0, Fault::HeadTooLarge));
}

#[test]
fn broken_chunks_are_faults_where_they_break() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, at) in [
        ("3\nabc", 1),
        ("x\r\n", 0),
        ("\r\n", 0),
        ("3\r\nabcd\r\n", 6),
        ("3\r\nabc\n", 6),
        ("-1\r\n", 0),
        ("0x3\r\n", 1),
        ("3 \r\nabc", 1),
        ("1111111111111111\r\n", 15),
        ("3;a\nb\r\n", 3),
        ("0\r\nX: a\nY: b\r\n\r\n", 7),
        ("0\r\n folded\r\n\r\n", 3),
    ] {
        assert_eq!(scan(&format!("{head}{body}")), Scan::Fault(head.len() + at, Fault::Body), "{body:?}");
    }
}

proptest! {
    #[test]
    fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Framing::new(LIMITS).scan(&bytes);
    }

    /// Reading in pieces, showing again what was held, ends where reading at once ends.
    #[test]
    fn pieces_are_read_as_the_whole(cuts in proptest::collection::vec(1usize..40, 1..80), which in 0usize..4) {
        let text = [
            "POST / HTTP/1.1\r\nHost:a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        ][which].as_bytes();
        let whole = match Framing::new(LIMITS).scan(text) {
            Scan::All => (text.len(), None),
            Scan::Upto(at) => (at, None),
            Scan::Fault(at, fault) => (at, Some(fault)),
        };
        let mut framing = Framing::new(LIMITS);
        let (mut passed, mut shown, mut fault) = (0, 0, None);
        for cut in cuts.iter().chain([&text.len()]) {
            shown = (shown + cut).min(text.len());
            match framing.scan(&text[passed..shown]) {
                Scan::All => passed = shown,
                Scan::Upto(at) => passed += at,
                Scan::Fault(at, found) => {
                    passed += at;
                    fault = Some(found);
                    break;
                }
            }
        }
        prop_assert_eq!((passed, fault), whole);
    }
}
