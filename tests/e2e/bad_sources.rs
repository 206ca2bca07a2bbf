//! Models that cannot be had: each is told once, within seconds, with the cause and without secrets, where users look.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use serde_json::json;

use super::daemon::{Daemon, condition, docker_or_skip, eventually_or, text};

/// Answers every request by the beginning of its target, until the process ends.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut block = [0; 4096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut block) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => request.extend_from_slice(&block[..read]),
                    }
                }
                let line = String::from_utf8_lossy(&request);
                let mut words = line.split(' ');
                let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let (status, kind, body) = answer(target);
                let sent = if method == "HEAD" { String::new() } else { body.clone() };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &sent).as_bytes());
            });
        }
    });
    address
}

fn answer(target: &str) -> (&'static str, &'static str, String) {
    const LOGIN: &str = "<!DOCTYPE html><html><body><form>Please log in</form></body></html>";
    let xml = |code: &str| {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message><Token>hush-hush</Token></Error>"
        )
    };
    let cases = [
        ("/login/", "200 OK", "text/html; charset=utf-8", LOGIN.to_owned()),
        ("/disguised/", "200 OK", "application/x-gtar", LOGIN.to_owned()),
        ("/zipped/", "200 OK", "application/zip", LOGIN.to_owned()),
        ("/octets/", "200 OK", "application/octet-stream", LOGIN.to_owned()),
        ("/private/", "403 Forbidden", "text/plain", "no".to_owned()),
        ("/who/", "401 Unauthorized", "text/plain", "no".to_owned()),
        ("/expired", "403 Forbidden", "application/xml", xml("ExpiredToken")),
        ("/nobucket", "404 Not Found", "application/xml", xml("NoSuchBucket")),
        (
            "/empty",
            "200 OK",
            "application/xml",
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_owned(),
        ),
    ];
    let is_object = target.starts_with("/empty/");
    let found = cases.into_iter().find(|(prefix, ..)| target.starts_with(prefix) && !is_object);
    found.map_or(("404 Not Found", "text/plain", "no".to_owned()), |(_, status, kind, body)| (status, kind, body))
}

fn service(name: &str, uri: &str) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name},
        "spec": {"predictor": {"containers": [{
            "name": "kserve-container", "image": "kserve-local/stub-runtime:test",
            "env": [{"name": "STORAGE_URI", "value": uri}],
        }]}},
    })
    .to_string()
}

#[test]
fn what_cannot_be_fetched_is_told_once_with_its_cause_and_without_secrets() {
    if !docker_or_skip("what_cannot_be_fetched_is_told_once_with_its_cause_and_without_secrets") {
        return;
    }
    let web = server();
    let endpoint = format!("http://{web}");
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "hush-id"),
        ("AWS_SECRET_ACCESS_KEY", "hush-secret"),
        ("HF_ENDPOINT", endpoint.as_str()),
        ("HF_TOKEN", "hush-token"),
    ];
    let daemon = Daemon::start_with(&environment, |_| {});
    let cases = [
        (
            "login",
            format!("{endpoint}/login/model.joblib?sig=hush"),
            "did not respond with 'Content-Type': 'application/octet-stream'",
        ),
        ("login-tar", format!("{endpoint}/login/model.tar.gz"), "did not respond with 'Content-Type'"),
        ("disguised", format!("{endpoint}/disguised/model.tar.gz"), "Failed to unpack archive file"),
        ("zipped", format!("{endpoint}/zipped/model.zip"), "Failed to unpack archive file"),
        ("private", format!("http://me:hush@{web}/private/model.joblib"), "HTTP access denied for"),
        ("who", format!("{endpoint}/who/model.joblib"), "HTTP authentication failed for"),
        ("gone", format!("{endpoint}/gone/model.joblib"), "HTTP resource not found at"),
        ("expired", "s3://expired/model".to_owned(), "Invalid AWS credentials. S3 said ExpiredToken."),
        ("nobucket", "s3://nobucket/model".to_owned(), "S3 bucket 'nobucket' does not exist."),
        ("nokey", "s3://empty/model".to_owned(), "No model found in s3://empty/model"),
        ("norepository", "hf://nobody/nothing".to_owned(), "HuggingFace resource 'nobody/nothing:main' not found."),
        ("claim", "pvc://nowhere/model".to_owned(), "the folder of the claim `nowhere` does not exist"),
        ("path", "/nowhere/model".to_owned(), "Local path /nowhere/model does not exist."),
        ("scheme", "s4://bucket/model".to_owned(), "StorageURI not supported"),
        ("metadata", "http://169.254.169.254/latest/meta-data".to_owned(), "nothing is fetched from `169.254.169.254`"),
    ];
    let begun = Instant::now();
    // What is malformed is an error of the file: there is no object.
    daemon.drop_file("nameless.json", &service("nameless", &format!("{endpoint}/")));
    for (name, uri, _) in &cases {
        daemon.drop_file(&format!("{name}.json"), &service(name, uri));
    }
    for (name, _, expected) in &cases {
        let found = eventually_or(
            &format!("{name} says `{expected}`"),
            || format!("{}\n{}", text(&daemon.cli(&["describe", "isvc", name]).stdout), daemon.log()),
            || {
                let object = daemon.object(name)?;
                let ready = condition(&object, "Ready")?;
                let message = ready["message"].as_str().unwrap_or_default().to_owned();
                let status = object["status"].to_string();
                (ready["status"] == "False" && (message.contains(expected) || status.contains(expected)))
                    .then_some(object)
            },
        );
        let shown = found["status"].to_string();
        assert!(!shown.contains("hush"), "{name}: {shown}");
    }
    eventually_or(
        "the malformed URI is told",
        || daemon.log(),
        || {
            let told = daemon.cli(&["describe", "isvc", "nameless"]);
            (text(&told.stdout) + &text(&told.stderr)).contains("No filename contained in URI").then_some(())
        },
    );
    assert!(begun.elapsed().as_secs() < 90, "{:?}", begun.elapsed());
    let events = daemon.cli_ok(&["events"]);
    assert!(!events.contains("hush") && !daemon.log().contains("hush"), "{events}\n{}", daemon.log());
    for (name, _, expected) in &cases {
        let about = |line: &&str| line.split_whitespace().any(|word| word.ends_with(&format!("/{name}")));
        let told = events.lines().filter(about).filter(|line| line.contains(expected)).count();
        assert!(told <= 1, "{name} is told {told} times: {events}");
    }
}
