//! A model server that serves no model.
//!
//! It speaks every protocol a KServe runtime may speak (V1, V2, gRPC, OpenAI with server-sent events, WebSocket),
//! answers with what it was asked, shows what its container looks like from the inside, and misbehaves on request.
//! README.md lists the routes, flags, environment variables and request headers.

mod faults;
mod grpc;
mod inspect;
mod model;
mod openai;
mod reply;
mod routes;
mod settings;
mod v1;
mod v2;
mod websocket;
mod work;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::model::Stub;
use crate::settings::Settings;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = probe_command(&args) {
        return code;
    }
    let settings = Settings::read(&args, &|name| std::env::var(name).ok());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the kernel gives this process threads and an epoll");
    runtime.block_on(run(settings))
}

/// `stub-runtime exit N`, `sleep N` (seconds) and `eat N` (MiB, kept for a minute): something for an exec probe, or a child,
/// to be in an image that holds nothing else.
fn probe_command(args: &[String]) -> Option<ExitCode> {
    match args {
        [verb, code] if verb == "exit" => Some(ExitCode::from(code.parse().unwrap_or(2))),
        [verb, seconds] if verb == "sleep" => {
            std::thread::sleep(Duration::from_secs(seconds.parse().unwrap_or(60)));
            Some(ExitCode::SUCCESS)
        }
        [verb, mib] if verb == "eat" => {
            let _held = faults::eat(mib.parse().unwrap_or(1));
            std::thread::sleep(Duration::from_secs(60));
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

async fn run(settings: Settings) -> ExitCode {
    let mut term = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
    if let Some(line) = &settings.say {
        eprintln!("{line}");
    }
    let _held = faults::eat(settings.eat_mib);
    work::burn(settings.burn);
    faults::exit_later(&settings);

    let slow_start = tokio::time::sleep(settings.start_delay);
    tokio::select! {
        () = slow_start => {}
        () = told_to_stop(&mut term, &mut interrupt, settings.ignore_term) => return ExitCode::SUCCESS,
    }
    if settings.never_listen {
        told_to_stop(&mut term, &mut interrupt, settings.ignore_term).await;
        return ExitCode::SUCCESS;
    }

    let stub = Arc::new(Stub::new(settings));
    let mut listeners = Vec::new();
    for address in stub.settings.addresses() {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                eprintln!("stub-runtime: cannot listen on {address}: {error}");
                return ExitCode::from(3);
            }
        }
    }
    let (stop, stopping) = watch::channel(false);
    let accepting: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(accept(listener, stub.clone(), stopping.clone()))).collect();

    told_to_stop(&mut term, &mut interrupt, stub.settings.ignore_term).await;
    println!("stub-runtime: stopping");
    tokio::time::sleep(stub.settings.term_delay).await;
    stop.send_replace(true);
    for task in accepting {
        // A listener that panicked has nothing left to drain.
        let _ = task.await;
    }
    println!("stub-runtime: stopped");
    ExitCode::SUCCESS
}

/// Returns when the process should stop; a stub that ignores SIGTERM stops for SIGINT alone.
async fn told_to_stop(term: &mut Signal, interrupt: &mut Signal, ignore_term: bool) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => return,
            _ = term.recv() => {
                if !ignore_term {
                    return;
                }
                println!("stub-runtime: ignoring SIGTERM");
            }
        }
    }
}

/// Serves HTTP/1.1 and h2c on one listener until told to stop, then lets every request under way finish.
async fn accept(listener: TcpListener, stub: Arc<Stub>, mut stopping: watch::Receiver<bool>) {
    let address = listener.local_addr().map_or_else(|_| String::new(), |a: SocketAddr| a.to_string());
    println!("stub-runtime: instance {} listens on {address}", stub.instance);
    let graceful = GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file descriptors, most likely: give the others time to close.
                    eprintln!("stub-runtime: cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = set(&mut stopping) => break,
        };
        // Small messages such as tokens and probes leave at once; a socket that refuses works all the same.
        let _ = socket.set_nodelay(true);
        let stub = stub.clone();
        let service = service_fn(move |request| routes::answer(stub.clone(), request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(1024);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away, or a cut we were asked for, is no news.
            let _ = connection.await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Returns once the flag is set, or can be set no more.
async fn set(flag: &mut watch::Receiver<bool>) {
    // The guard of the answer must not live across an await of the caller.
    drop(flag.wait_for(|set| *set).await);
}
