//! Where a forwarded port leads: to a replica's first running container, as the gateway reaches it, or to the gateway.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::failure::Failure;
use crate::api::meta;
use crate::engine::{ContainerEngine, Reach};
use crate::plan::pods::{ContainerViewState, PodView};

/// Port of a component's Service, which leads to the port its container serves on.
const SERVICE_PORT: u16 = 80;

/// A pod's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pod: String,
    way: Way,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// To a replica, as the gateway reaches it.
    Replica(Reach),
    /// To the gateway itself, whatever the port.
    Gateway(SocketAddr),
}

impl Target {
    /// Finds out how a replica is reached.
    ///
    /// # Errors
    /// None of its containers runs, or the engine does not answer.
    pub async fn of(pod: &PodView, engine: &dyn ContainerEngine) -> Result<Self, Failure> {
        let running = |container: &&crate::plan::pods::ContainerView| {
            !container.init && matches!(container.state, ContainerViewState::Running { .. })
        };
        let ids: Vec<&str> = pod.containers.iter().filter(running).filter_map(|found| found.id.as_deref()).collect();
        let listed = engine.list().await.map_err(|error| Failure::unavailable(error.to_string()))?;
        let mut own = listed.into_iter().filter(|container| ids.contains(&container.id.0.as_str()));
        // Containers of one replica share the network of its first one, which alone can be reached.
        let reach = own.find(|container| container.reach != Reach::None).map(|container| container.reach);
        let reach = reach.ok_or_else(|| {
            Failure::bad_request(format!(
                "unable to forward port because pod is not running. Current status={} ({})",
                pod.phase, pod.status
            ))
        })?;
        Ok(Self { pod: pod.name.clone(), way: Way::Replica(reach) })
    }

    /// The gateway, under the name of a pod.
    pub fn gateway(pod: &str, address: SocketAddr) -> Self {
        Self { pod: pod.to_owned(), way: Way::Gateway(address) }
    }

    /// Connects to a port.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        match self.direct(port).await {
            // kubectl passes the port of a Service without addresses on as it is.
            Err(_) if port == SERVICE_PORT => self.direct(meta::DEFAULT_CONTAINER_PORT).await,
            outcome => outcome,
        }
    }

    async fn direct(&self, port: u16) -> io::Result<TcpStream> {
        let address = match &self.way {
            Way::Replica(reach) => reach.socket_address(port).ok_or(io::ErrorKind::AddrNotAvailable)?,
            Way::Gateway(address) => *address,
        };
        TcpStream::connect(address).await
    }

    /// Says why a port could not be forwarded.
    pub fn refusal(&self, port: u16, error: &io::Error) -> String {
        let pod = &self.pod;
        match &self.way {
            Way::Replica(Reach::Published(ports)) if !ports.contains_key(&port) => {
                let open: Vec<String> = ports.keys().map(u16::to_string).collect();
                format!("port {port} of pod {pod} is not open on this machine; these are: {}", open.join(", "))
            }
            _ => format!("could not connect to port {port} of pod {pod}: {error}"),
        }
    }
}
