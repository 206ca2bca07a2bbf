//! The two listeners: our own, or those a service manager opened for us and keeps open while we restart.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::Settings;

/// Sockets a service manager passed on (`sd_listen_fds(3)`). They stay open while the daemon is restarted, so that a client
/// that connects in between waits instead of being refused.
#[derive(Debug, Default)]
pub struct Inherited(Vec<std::net::TcpListener>);

impl Inherited {
    /// Takes what the service manager passed on. Has to be called before threads are started, for it forgets the variables
    /// that say so, lest the programs we start believe the sockets are theirs.
    ///
    /// # Errors
    /// Something that was passed on is no listening TCP socket.
    pub fn take() -> std::io::Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let sockets: Result<Vec<_>, _> = (0..passed.len()).map(|index| passed.take_tcp_listener(index)).collect();
        Ok(Self(sockets?.into_iter().flatten().collect()))
    }
}

/// What the daemon listens on.
pub(super) struct Listeners {
    /// Predictions.
    pub(super) data: TcpListener,
    /// The API.
    pub(super) api: TcpListener,
}

impl Listeners {
    /// Takes the inherited sockets that the settings name, and opens what is missing.
    ///
    /// # Errors
    /// An address is taken or not ours; a socket was inherited that the settings do not name.
    pub(super) async fn open(settings: &Settings, inherited: Inherited) -> Result<Self, StartError> {
        let mut inherited = inherited.0;
        let data = open(settings.listen, "predictions", "--listen", &mut inherited).await?;
        let api = open(settings.api_listen, "the API", "--api-listen", &mut inherited).await?;
        match inherited.first().and_then(|socket| socket.local_addr().ok()) {
            Some(address) => Err(StartError::Inherited { address, data: settings.listen, api: settings.api_listen }),
            None => Ok(Self { data, api }),
        }
    }
}

async fn open(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
    inherited: &mut Vec<std::net::TcpListener>,
) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address, what, flag, source };
    let Some(ours) = inherited.iter().position(|socket| socket.local_addr().is_ok_and(|found| found == address)) else {
        return TcpListener::bind(address).await.map_err(failed);
    };
    let socket = inherited.swap_remove(ours);
    socket.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(socket).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inherited_socket_is_used_for_the_address_it_listens_on() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut inherited = vec![socket];
        let listener = open(address, "predictions", "--listen", &mut inherited).await.unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        assert!(inherited.is_empty());
    }

    #[tokio::test]
    async fn another_socket_is_left_alone() {
        let mut inherited = vec![std::net::TcpListener::bind("127.0.0.1:0").unwrap()];
        let free = "127.0.0.1:0".parse().unwrap();
        open(free, "predictions", "--listen", &mut inherited).await.unwrap();
        assert_eq!(inherited.len(), 1);
    }
}
