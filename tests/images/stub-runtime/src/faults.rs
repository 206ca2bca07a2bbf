//! Misbehaving on request.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};

use crate::model::Stub;
use crate::reply::{self, Reply};
use crate::settings::Settings;
use crate::work;

/// What one request asks for in its `x-stub-*` headers.
#[derive(Debug, Default)]
pub struct Faults {
    pub delay: Option<Duration>,
    pub hang: bool,
    pub status: Option<u16>,
    pub exit: Option<u8>,
    pub cut: Option<Cut>,
    /// Break off a stream after so many chunks.
    pub cut_after: Option<u64>,
    pub chunks: Option<u64>,
    pub chunk_delay: Duration,
    pub eat_mib: usize,
    pub child_eat_mib: usize,
    pub burn: Duration,
    answer_headers: Vec<(HeaderName, HeaderValue)>,
}

/// Where the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// No byte of an answer is sent.
    Before,
    /// The head is sent, and nothing of the body.
    Head,
    /// Half of the body is sent.
    Half,
}

impl Faults {
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            delay: number(headers, "x-stub-delay-ms").map(Duration::from_millis),
            hang: headers.contains_key("x-stub-hang"),
            status: number(headers, "x-stub-status").and_then(|status| u16::try_from(status).ok()),
            exit: number(headers, "x-stub-exit").and_then(|code| u8::try_from(code).ok()),
            cut: match text(headers, "x-stub-cut") {
                None => None,
                Some("head") => Some(Cut::Head),
                Some("half") => Some(Cut::Half),
                Some(_) => Some(Cut::Before),
            },
            cut_after: number(headers, "x-stub-cut-after"),
            chunks: number(headers, "x-stub-chunks"),
            chunk_delay: Duration::from_millis(number(headers, "x-stub-chunk-delay-ms").unwrap_or(0)),
            eat_mib: number(headers, "x-stub-eat-mib").and_then(|mib| usize::try_from(mib).ok()).unwrap_or(0),
            child_eat_mib: number(headers, "x-stub-child-eat-mib")
                .and_then(|mib| usize::try_from(mib).ok())
                .unwrap_or(0),
            burn: Duration::from_millis(number(headers, "x-stub-burn-ms").unwrap_or(0)),
            answer_headers: headers
                .get_all("x-stub-header")
                .iter()
                .filter_map(|value| value.to_str().ok()?.split_once(':'))
                .filter_map(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)))
                .collect(),
        }
    }

    /// Does what comes before an answer. `Err` cuts the connection, `Ok(Some(…))` is the answer.
    pub async fn before_answer(&self, stub: &Stub, inference: bool) -> io::Result<Option<Reply>> {
        if inference {
            let nth = stub.count_inference();
            if stub.settings.exit_at_request == Some(nth) {
                exit(stub.settings.exit_code, "STUB_EXIT_AT_REQUEST");
            }
        }
        if let Some(code) = self.exit {
            exit(code, "x-stub-exit");
        }
        keep(eat(self.eat_mib));
        if self.child_eat_mib > 0 {
            eprintln!("stub-runtime: the child ended: {}", work::child_that_eats(self.child_eat_mib).await);
        }
        if !self.burn.is_zero() {
            let time = self.burn;
            // A burn that panicked has burnt enough.
            let _ = tokio::task::spawn_blocking(move || work::burn(time)).await;
        }
        let default = if inference { stub.settings.delay } else { Duration::ZERO };
        reply::pause(self.delay.unwrap_or(default)).await;
        if self.hang {
            std::future::pending::<()>().await;
        }
        if self.cut == Some(Cut::Before) {
            return Err(reply::cut());
        }
        Ok(self.status.and_then(|status| StatusCode::from_u16(status).ok()).map(|status| {
            let mut answer = reply::error(status, format!("status {status}, as the request asked"));
            if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            answer
        }))
    }

    /// Does what comes after the answer is known: extra headers, and cutting it short.
    pub async fn after_answer(&self, mut answer: Reply) -> Reply {
        for (name, value) in &self.answer_headers {
            answer.headers_mut().append(name.clone(), value.clone());
        }
        let Some(keep_bytes) = self.cut.map(|cut| if cut == Cut::Head { 0 } else { usize::MAX }) else {
            return answer;
        };
        let (head, body) = answer.into_parts();
        let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let kept = whole.slice(..keep_bytes.min(whole.len() / 2));
        let body = reply::stream("application/octet-stream", move |mut sender| async move {
            // The reader may be gone already, which is a cut as well.
            let _ = sender.send_data(kept).await;
            reply::break_off(sender).await;
        });
        Reply::from_parts(head, body.into_body())
    }
}

/// Takes and touches memory; it stays taken while the result lives.
pub fn eat(mib: usize) -> Vec<Bytes> {
    (0..mib).map(|_| Bytes::from(vec![1_u8; 1 << 20])).collect()
}

fn keep(eaten: Vec<Bytes>) {
    static EATEN: Mutex<Vec<Bytes>> = Mutex::new(Vec::new());
    EATEN.lock().expect("no holder of this lock panics").extend(eaten);
}

pub fn exit_later(settings: &Settings) {
    let (Some(after), code) = (settings.exit_after, settings.exit_code) else {
        return;
    };
    if after.is_zero() {
        exit(code, "STUB_EXIT_CODE");
    }
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        exit(code, "STUB_EXIT_AFTER_MS");
    });
}

pub fn exit(code: u8, why: &str) -> ! {
    eprintln!("stub-runtime: exiting with code {code}, as {why} asks");
    std::process::exit(i32::from(code))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}
