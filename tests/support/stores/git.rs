//! Git repositories over HTTPS, served by git's own `http-backend`; one is private.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use kserve_local::tasks::Tasks;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A server of the bare repositories of a folder; `private.git` wants `me` and `hush-hush`.
pub(crate) struct GitServer {
    pub(crate) address: SocketAddr,
    /// The authority that signed its certificate.
    pub(crate) authority: PathBuf,
    pub(crate) folder: tempfile::TempDir,
    _tasks: Tasks,
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl GitServer {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let authority = folder.path().join("ca.pem");
        std::fs::write(&authority, certificate.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Tls { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let router = Router::new().fallback(backend).with_state(folder.path().to_owned());
        let tasks = Tasks::new();
        tasks.spawn("git", async move {
            let _ended = axum::serve(listener, router).await;
        });
        Self { address, authority, folder, _tasks: tasks }
    }

    /// Makes a bare repository of commits: each is a branch or tag, and its files.
    pub(crate) fn repository(&self, name: &str, script: &str) {
        let work = self.folder.path().join(format!("{name}.work"));
        std::fs::create_dir(&work).unwrap();
        let setup = "git init -q -b main . && git config user.email a@b.c && git config user.name n && git config commit.gpgsign false";
        run(&work, &format!("{setup} && {script} && git clone -q --bare . ../{name}.git"));
    }

    pub(crate) fn head(&self, name: &str, reference: &str) -> String {
        run(&self.folder.path().join(format!("{name}.git")), &format!("git rev-parse {reference}"))
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("https://{}/{name}.git", self.address)
    }
}

fn run(folder: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn backend(State(root): State<PathBuf>, request: Request) -> Response {
    let headers = request.headers().clone();
    let text = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let path = request.uri().path().to_owned();
    if path.starts_with("/private.git") && text(header::AUTHORIZATION) != "Basic bWU6aHVzaC1odXNo" {
        let refused = Response::builder().status(StatusCode::UNAUTHORIZED);
        return refused.header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"").body(Body::empty()).unwrap();
    }
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("REQUEST_METHOD", request.method().as_str())
        .env("CONTENT_TYPE", text(header::CONTENT_TYPE))
        .env("HTTP_CONTENT_ENCODING", text(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", text(header::HeaderName::from_static("git-protocol")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let body: Bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _closed_early = stdin.write_all(&body).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(output[..end].to_vec()).unwrap();
    let mut answer = Response::builder();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "Status" => answer = answer.status(value[..3].parse::<u16>().unwrap()),
            _ => answer = answer.header(name, value),
        }
    }
    answer.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
