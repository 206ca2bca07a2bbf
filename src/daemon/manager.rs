//! What a service manager is told (`sd_notify(3)`): ready, reloading, stopping, and that we are alive.
//!
//! Without `NOTIFY_SOCKET` nothing is said to anybody.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as SocketName;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::gateway::Gateway;
use crate::store::Store;

/// Longest time one of our own listeners may take to answer before we call ourselves stuck, as a part of the watchdog's
/// period.
const PART_OF_PERIOD: u32 = 4;
/// Longest time the service manager may take to take what it is told.
const LONGEST_TELLING: Duration = Duration::from_secs(2);

/// Says that the folder was read and the listeners answer.
pub(super) async fn say_ready_when_read(store: Store) {
    let mut changes = store.subscribe();
    // The store lives as long as the daemon.
    while changes.borrow_and_update().desired_version == 0 {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]).await;
}

/// Says that the settings are read again.
pub(super) async fn say_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]).await,
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// Says that what was read again is in force.
pub(super) async fn say_reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]).await;
}

/// Says that the daemon ends.
pub(super) async fn say_stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("requests in flight finish; models keep running")]).await;
}

async fn tell(states: &[NotifyState<'_>]) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    match tokio::time::timeout(LONGEST_TELLING, send(address.as_bytes(), message.as_bytes())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "the service manager could not be told"),
        Err(_) => warn!("the service manager does not take what it is told"),
    }
}

/// Sends one datagram to a socket that a path names, or, on Linux, a name that begins with `@`.
async fn send(address: &[u8], message: &[u8]) -> io::Result<()> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.connect_addr(&named(address)?)?;
    // A manager that is busy does not take datagrams for a while: that must not hold up the thread requests are served on.
    socket.set_nonblocking(true)?;
    tokio::net::UnixDatagram::from_std(socket)?.send(message).await.map(drop)
}

fn named(address: &[u8]) -> io::Result<SocketName> {
    #[cfg(target_os = "linux")]
    if let Some(name) = address.strip_prefix(b"@") {
        return <SocketName as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketName::from_pathname(std::ffi::OsStr::from_bytes(address))
}

/// Says that we are alive for as long as both listeners are answered; a service manager that hears nothing for its
/// period starts us again, and models go on.
pub(super) async fn watchdog(gateway: Arc<Gateway>, data: SocketAddr, api: SocketAddr, end: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let limit = period / PART_OF_PERIOD;
    while !end.is_cancelled() {
        if turns(&gateway, data, limit).await && is_answered(api, limit).await {
            tell(&[NotifyState::Watchdog]).await;
        } else {
            warn!("a listener does not answer; the service manager is not told that all is well");
        }
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(limit) => {}
            () = end.cancelled() => {}
        }
    }
}

/// Whether the data path turns. One without a free place answers nobody new, us included; the next daemon would meet the
/// same crowd, so then its workers are asked instead.
async fn turns(gateway: &Gateway, data: SocketAddr, limit: Duration) -> bool {
    let full = tokio::time::timeout(limit, gateway.is_merely_full()).await;
    full.unwrap_or(false) || is_answered(data, limit).await
}

/// Whether a listener answers a request, whatever it says.
async fn is_answered(address: SocketAddr, limit: Duration) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        socket.read_u8().await
    };
    matches!(tokio::time::timeout(limit, ask).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::GatewayConfig;
    use crate::tasks::Tasks;
    use crate::traffic::TrafficBoard;

    #[tokio::test]
    async fn a_data_path_whose_places_are_all_taken_is_not_dead() {
        let config = GatewayConfig { max_connections: 1, workers: 1, ..GatewayConfig::default() };
        let gateway = Arc::new(Gateway::new(Arc::default(), TrafficBoard::default(), config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let data = listener.local_addr().unwrap();
        let (tasks, end) = (Tasks::new(), CancellationToken::new());
        let served = tasks.spawn("gateway", {
            let (gateway, tasks, end) = (Arc::clone(&gateway), tasks.clone(), end.clone());
            async move { gateway.serve(listener, &tasks, end).await }
        });
        let limit = Duration::from_secs(5);
        assert!(turns(&gateway, data, limit).await, "there is room");
        let mut idle = TcpStream::connect(data).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert_eq!(idle.read_u8().await.unwrap(), b'H', "it has the only place now");
        assert!(!is_answered(data, Duration::from_millis(50)).await, "nobody else is answered");
        assert!(turns(&gateway, data, Duration::from_secs(1)).await);
        drop(idle);
        end.cancel();
        served.await.unwrap().unwrap();
        assert!(!turns(&gateway, data, Duration::from_secs(1)).await, "it has ended");
    }

    #[tokio::test]
    async fn a_manager_that_takes_nothing_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let address = path.as_os_str().as_bytes();
        send(address, b"READY=1\n").await.unwrap();
        let mut read = [0; 64];
        let length = manager.recv(&mut read).unwrap();
        assert_eq!(&read[..length], b"READY=1\n");
        // Nobody reads any more: its queue is full after a few.
        let full = async {
            for _ in 0..100_000 {
                send(address, b"WATCHDOG=1\n").await.unwrap();
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(500), full).await.is_err(), "it waits, and can be given up");
    }
}
