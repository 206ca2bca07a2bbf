//! Does the port accept a connection; also the first step of every other network check.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

/// Connects, or says why not.
pub(super) async fn connect(addr: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(addr).await.map_err(|error| reason(addr, &error))
}

/// Names an I/O failure plainly.
fn reason(addr: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by port {}", addr.port()),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => format!("no route to {addr}"),
        _ => format!("could not connect to {addr}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_port_passes_and_a_closed_one_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(connect(addr).await.is_ok());
        drop(listener);
        assert_eq!(connect(addr).await.unwrap_err(), format!("connection refused by port {}", addr.port()));
    }
}
