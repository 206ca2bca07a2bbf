//! What a service manager is told (`sd_notify(3)`): ready, reloading, stopping, and that we are alive.
//!
//! Without `NOTIFY_SOCKET` nothing is said to anybody.

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::reconcile::execute::chain;
use crate::store::Store;

/// Longest time one of our own listeners may take to answer before we call ourselves stuck, as a part of the watchdog's
/// period.
const PART_OF_PERIOD: u32 = 4;

/// Says that the folder was read and the listeners answer.
pub(super) async fn say_ready_when_read(store: Store) {
    let mut changes = store.subscribe();
    // The store lives as long as the daemon.
    while changes.borrow_and_update().desired_version == 0 {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Says that the settings are read again.
pub(super) fn say_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// Says that what was read again is in force.
pub(super) fn say_reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the daemon ends.
pub(super) fn say_stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("requests in flight finish; models keep running")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(error = chain(&error), "the service manager could not be told");
    }
}

/// Says that we are alive for as long as both listeners are answered; a service manager that hears nothing for its
/// period starts us again, and models go on.
pub(super) async fn watchdog(data: SocketAddr, api: SocketAddr, end: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let limit = period / PART_OF_PERIOD;
    while !end.is_cancelled() {
        if is_answered(data, limit).await && is_answered(api, limit).await {
            tell(&[NotifyState::Watchdog]);
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

/// Whether a listener answers a request, whatever it says.
async fn is_answered(address: SocketAddr, limit: Duration) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        socket.read_u8().await
    };
    matches!(tokio::time::timeout(limit, ask).await, Ok(Ok(_)))
}
