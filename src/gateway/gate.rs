//! The gate: where sandboxes hand in the listeners through which their replicas call their predictor.
//!
//! A sandbox opens a listener in the network of its replica and sends it here over a Unix socket, with the name of the
//! component it belongs to (`namespace/service/component`). From then on the connections of that listener are ours: no
//! port of this machine is opened for containers, and nothing but the component's own service is behind it. When we end,
//! the sandbox keeps the listener and hands it in again; calls made meanwhile wait in its backlog.
//!
//! Only sandboxes are given the folder of the socket, so what a sandbox says of itself is believed.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener as StdListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::ServiceKey;
use crate::tasks::Tasks;

use super::inside::Call;

/// Name of the socket in its folder.
const SOCKET: &str = "gate";
/// A sandbox says who it is as soon as it is connected.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(target_os = "linux")]
const FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const FLAGS: RecvFlags = RecvFlags::empty();

/// The socket, open.
#[derive(Debug)]
pub struct Gate {
    listener: UnixListener,
}

impl Gate {
    /// Opens the gate in a folder, which is made. What an earlier daemon left there is replaced.
    ///
    /// # Errors
    /// The folder cannot be made, or the socket cannot be bound.
    pub fn open(folder: &Utf8Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Inside the container another user looks at it, as whom nobody can be here: the folder's parent is ours alone.
        crate::home::restrict(folder, 0o711)?;
        let path = folder.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The path of a socket has a hundred bytes of room, and a home may be deeper than that.
        let handle = std::fs::File::open(folder)?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let listener = UnixListener::bind(path.as_std_path()).or_else(|_| UnixListener::bind(short))?;
        crate::home::restrict(&path, 0o666)?;
        Ok(Self { listener })
    }

    /// Takes in what sandboxes bring until `cancel`, and passes on the calls.
    pub async fn keep(self, calls: mpsc::Sender<Call>, tasks: Tasks, cancel: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                // A sandbox whose connection is lost connects again.
                accepted = self.listener.accept() => accepted,
                () = cancel.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (calls, cancel) = (calls.clone(), cancel.clone());
                    tasks.spawn_short(async move {
                        tokio::select! {
                            // Dropping the door closes our end of the listener; the sandbox keeps its own.
                            () = serve(stream, calls) => {}
                            () = cancel.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a sandbox");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Serves one sandbox's listener for as long as the sandbox is there.
async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let introduced = tokio::time::timeout(INTRODUCTION, introduction(&stream)).await;
    let (service, listener) = match introduced {
        Ok(Ok(introduced)) => introduced,
        Ok(Err(error)) => return debug!(%error, "a sandbox did not say who it is"),
        Err(_) => return debug!("a sandbox did not say who it is in time"),
    };
    debug!(%service, "a replica calls through us");
    let service = Arc::new(service);
    let mut end = [0];
    loop {
        tokio::select! {
            // What is not accepted stays in the backlog.
            accepted = listener.accept() => {
                match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                    // The gateway takes no more: it is ending.
                    Ok((socket, peer)) => {
                        if calls.send(Call { socket, peer, service: Arc::clone(&service) }).await.is_err() { return }
                    }
                    Err(error) => {
                        debug!(%error, "could not accept a call");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            // It says nothing more; that it ends is all there is to hear.
            () = ended(&stream, &mut end) => return,
        }
    }
}

async fn ended(stream: &UnixStream, space: &mut [u8]) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(space) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Receives a sandbox's name and listener.
async fn introduction(stream: &UnixStream) -> io::Result<(ServiceKey, TcpListener)> {
    let (said, descriptor) = stream.async_io(Interest::READABLE, || receive(stream)).await?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut parts = said.split('/');
    let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { return Err(wrong("it has no name")) };
    let listener = StdListener::from(descriptor.ok_or_else(|| wrong("it brought no listener"))?);
    // Anything but a listener for IP connections has no such address.
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(wrong("its listener is not within its own network"));
    }
    listener.set_nonblocking(true)?;
    Ok((ServiceKey::new(namespace, name), TcpListener::from_std(listener)?))
}

/// Reads one message with at most one descriptor.
fn receive(stream: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut text = [0; 1024];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut brought = RecvAncillaryBuffer::new(&mut room);
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut brought, FLAGS)?;
    let descriptor = brought.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&text[..received.bytes]).into_owned(), descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    fn bring(stream: &std::os::unix::net::UnixStream, name: &str, listener: &StdListener) {
        let descriptors = [listener.as_fd()];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut brought = SendAncillaryBuffer::new(&mut room);
        assert!(brought.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(stream, &[IoSlice::new(name.as_bytes())], &mut brought, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_listener_that_is_handed_in_is_served_in_the_name_of_its_service_and_closed_with_its_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        // Deeper than a socket's path may be.
        let folder = Utf8Path::from_path(folder.path()).unwrap().join("deep".repeat(30));
        let gate = Gate::open(&folder).unwrap();
        let (calls, mut called) = mpsc::channel(4);
        let (tasks, cancel) = (Tasks::new(), CancellationToken::new());
        tasks.spawn("gate", gate.keep(calls, tasks.clone(), cancel.clone()));
        let handle = std::fs::File::open(&folder).unwrap();
        let short = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let sandbox = std::os::unix::net::UnixStream::connect(short).unwrap();
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        bring(&sandbox, "default/iris/transformer", &listener);
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let call = called.recv().await.unwrap();
        assert_eq!(*call.service, ServiceKey::new("default", "iris"));
        assert_eq!(call.peer, client.local_addr().unwrap());
        drop((listener, sandbox));
        // Nobody holds it any more once the gate has noticed.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    }
}
