//! HTTP checks: one connection per probe, a bounded answer.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::tcp;

/// Most of an answer that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// Longest part of a server's own words that is passed on, in characters.
const WORDS_SHOWN: usize = 500;
/// Most redirects that are followed.
const REDIRECT_LIMIT: usize = 10;

/// An answer, as far as a probe looks at it.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Option<Bytes>,
}

/// Asks a path over plain HTTP.
pub(super) async fn get(
    addr: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    expect_model_ready: bool,
) -> Result<(), String> {
    let mut path = rooted(path);
    for _ in 0..=REDIRECT_LIMIT {
        let answer = exchange(addr, &path, headers).await?;
        let next = answer.location.as_deref().filter(|_| answer.status.is_redirection() && !expect_model_ready);
        match next {
            None => return judge(&answer, &path, expect_model_ready),
            Some(location) => match on_this_host(addr, location) {
                Some(next) => path = next,
                // As in Kubernetes: it answered, and where it points to is not asked.
                None => return Ok(()),
            },
        }
    }
    Err(format!("more than {REDIRECT_LIMIT} redirects from {path}"))
}

/// Asks a path over TLS, whatever the certificate says.
pub(super) async fn get_over_tls(
    addr: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    expect_model_ready: bool,
) -> Result<(), String> {
    let path = rooted(path);
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| chain(&error))?;
    let mut request = client.get(format!("https://{addr}{path}"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut response = request.send().await.map_err(|error| chain(&error))?;
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| chain(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > BODY_LIMIT {
            break;
        }
    }
    let body = (body.len() <= BODY_LIMIT).then(|| body.into());
    judge(&Answer { status: response.status(), location: None, body }, &path, expect_model_ready)
}

/// Posts nothing to a path; any answer below 300 is good.
pub(super) async fn post(addr: SocketAddr, path: &str) -> Result<(), String> {
    let path = rooted(path);
    let mut request = request(addr, &path, &[])?;
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    let answer = send(addr, &path, request).await?;
    match (answer.status.is_success(), words(answer.body.as_deref().unwrap_or_default())) {
        (true, _) => Ok(()),
        (false, None) => Err(format!("HTTP {} from {path}", answer.status.as_u16())),
        (false, Some(words)) => Err(format!("HTTP {} from {path}: {words}", answer.status.as_u16())),
    }
}

/// Asks whether the model behind a path answers. An error means that nobody said so or otherwise.
pub(super) async fn is_ready(addr: SocketAddr, path: &str) -> Result<bool, String> {
    let path = rooted(path);
    let answer = exchange(addr, &path, &[]).await?;
    Ok(judge(&answer, &path, true).is_ok())
}

/// What a server says went wrong, in the forms of KServe's, MLServer's and Triton's errors.
fn words(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let told = ["error", "detail", "message"].iter().find_map(|field| answer.get(field)?.as_str());
    told.filter(|told| !told.is_empty()).map(|told| told.chars().take(WORDS_SHOWN).collect())
}

async fn exchange(addr: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<Answer, String> {
    send(addr, path, request(addr, path, headers)?).await
}

async fn send(addr: SocketAddr, path: &str, request: Request<Empty<Bytes>>) -> Result<Answer, String> {
    let stream = tcp::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    let asking = async move {
        let response = sender.send_request(request).await.map_err(|error| broken(path, &error))?;
        let (head, body) = response.into_parts();
        let location = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: head.status, location, body: read(body).await.map_err(|error| broken(path, &*error))? })
    };
    drive(connection, asking).await
}

/// Drives a connection until the exchange on it is over. A connection that ends first has delivered all it had, so the
/// exchange then comes to its end by itself.
pub(super) async fn drive<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        // Why it ended, the exchange says.
        _ = connection => {}
    }
    exchange.await
}

fn request(addr: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path).body(Empty::new()).map_err(|_| format!("`{path}` is not a path"))?;
    let map = request.headers_mut();
    let host = HeaderValue::try_from(addr.to_string()).map_err(|error| error.to_string())?;
    map.insert(header::HOST, host);
    map.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("kserve-local/", env!("CARGO_PKG_VERSION"), " (probe)")),
    );
    map.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let unusable = |_| format!("`{name}` is not a header");
        let name = HeaderName::try_from(name.as_str()).map_err(|error| unusable(error.to_string()))?;
        map.insert(name, HeaderValue::try_from(value.as_str()).map_err(|error| unusable(error.to_string()))?);
    }
    Ok(request)
}

/// Reads an answer up to the limit; nothing when it is longer.
async fn read(body: Incoming) -> Result<Option<Bytes>, Box<dyn Error + Send + Sync>> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(Some(collected.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(None),
        Err(error) => Err(error),
    }
}

fn judge(answer: &Answer, path: &str, expect_model_ready: bool) -> Result<(), String> {
    let status = answer.status.as_u16();
    let good = if expect_model_ready { status == 200 } else { (200..400).contains(&status) };
    if !good {
        return Err(format!("HTTP {status} from {path}"));
    }
    if expect_model_ready && says_not_ready(answer.body.as_deref().unwrap_or_default()) {
        return Err(format!("{path} says that the model is not ready"));
    }
    Ok(())
}

/// Whether a JSON answer has a `ready` that is not true; older servers write it as text.
fn says_not_ready(body: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    match answer.get("ready") {
        None => false,
        Some(Value::Bool(ready)) => !ready,
        Some(Value::String(text)) => !text.eq_ignore_ascii_case("true"),
        Some(_) => true,
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Returns the path of a redirect that stays on the host.
fn on_this_host(addr: SocketAddr, location: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let rest = location.strip_prefix("http://")?.strip_prefix(&addr.to_string())?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rooted(rest))
}

fn broken(path: &str, error: &(dyn Error + 'static)) -> String {
    format!("the answer from {path} broke off: {}", chain(error))
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tasks::Tasks;

    /// A server that gives the n-th connection the n-th answer and remembers the last request.
    async fn server(answers: Vec<String>) -> (SocketAddr, tokio::sync::watch::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, requests) = tokio::sync::watch::channel(String::new());
        Tasks::new().spawn("test-server", async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                seen.send_replace(String::from_utf8_lossy(&request[..length]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (addr, requests)
    }

    fn answer(status: &str, extra: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{extra}\r\n{body}", body.len())
    }

    async fn asked(answers: Vec<String>, expect_model_ready: bool) -> Result<(), String> {
        let (addr, _) = server(answers).await;
        get(addr, "/v1/models/iris", &[], expect_model_ready).await
    }

    #[tokio::test]
    async fn any_status_from_200_to_399_passes_a_plain_probe() {
        for (status, good) in
            [("200 OK", true), ("204 No", true), ("304 Same", true), ("404 No", false), ("503 No", false)]
        {
            assert_eq!(asked(vec![answer(status, "", "")], false).await.is_ok(), good, "{status}");
        }
        let failed = asked(vec![answer("503 Unavailable", "", "")], false).await;
        assert_eq!(failed.unwrap_err(), "HTTP 503 from /v1/models/iris");
    }

    #[tokio::test]
    async fn a_model_is_ready_when_it_says_so_or_says_nothing_else() {
        let not_ready = Err("/v1/models/iris says that the model is not ready".to_owned());
        for (body, wanted) in [
            (r#"{"name":"iris","ready":true}"#, Ok(())),
            (r#"{"name":"iris","ready":"True"}"#, Ok(())),
            (r#"{"name":"iris","ready":false}"#, not_ready.clone()),
            (r#"{"ready":"False"}"#, not_ready.clone()),
            (r#"{"ready":null}"#, not_ready),
            ("", Ok(())),
            ("OK", Ok(())),
            (r#"{"data":[]}"#, Ok(())),
        ] {
            assert_eq!(asked(vec![answer("200 OK", "", body)], true).await, wanted, "{body}");
        }
        let redirect = answer("302 Found", "location: /elsewhere\r\n", "");
        assert_eq!(asked(vec![redirect], true).await.unwrap_err(), "HTTP 302 from /v1/models/iris");
    }

    #[tokio::test]
    async fn a_redirect_is_followed_on_this_host_only() {
        let here = answer("302 Found", "location: /there\r\n", "");
        let there = answer("500 Broken", "", "");
        assert_eq!(asked(vec![here, there], false).await.unwrap_err(), "HTTP 500 from /there");
        let away = answer("302 Found", "location: http://elsewhere.example/\r\n", "");
        assert_eq!(asked(vec![away], false).await, Ok(()));
        let loops = answer("302 Found", "location: /v1/models/iris\r\n", "");
        assert!(asked(vec![loops; 11], false).await.unwrap_err().contains("more than 10 redirects"));
    }

    #[tokio::test]
    async fn an_endless_body_is_not_read_to_its_end() {
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{}", "x".repeat(BODY_LIMIT + 1));
        assert_eq!(asked(vec![long], true).await, Ok(()));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_or_is_none_says_so() {
        for broken in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "SSH-2.0-server\r\n"] {
            let failed = asked(vec![broken.to_owned()], true).await.unwrap_err();
            assert!(failed.contains("/v1/models/iris"), "{failed}");
        }
    }

    #[tokio::test]
    async fn headers_are_sent_and_a_host_replaces_the_address() {
        let (addr, requests) = server(vec![answer("200 OK", "", "")]).await;
        let headers =
            [("Host", "iris.example.com"), ("X-Token", "t")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        get(addr, "health?deep=1", &headers, false).await.unwrap();
        let request = requests.borrow().clone();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: iris.example.com\r\n") && request.contains("x-token: t\r\n"), "{request}");
        let bad = get(addr, "/", &[("bad header".to_owned(), String::new())], false).await;
        assert_eq!(bad.unwrap_err(), "`bad header` is not a header");
    }
}
