//! Ports of containers on the loopback of this machine.
//!
//! A connection to one becomes a stream to the container's node, and a sender of datagrams another. They end with the
//! container, and when this node does: nothing is remembered of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use tokio::io::{copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::agent::{DATAGRAM, read_datagram, write_datagram};
use super::wire::Ask;
use super::{RentError, Renter};
use crate::problem::Problem;
use crate::swarm::streams::BoxStream;
use crate::view::{Carried, ContainerId, ContainerView, Forward, PortRequest};

/// Ports at a time, of all containers.
const PORTS: usize = 1_024;

/// How long a sender of datagrams is remembered that sends and gets none.
const QUIET: Duration = Duration::from_secs(60);

/// Senders of datagrams to one port at a time.
const SENDERS: usize = 1_024;

/// Datagrams of one sender that wait; what is more is lost, as datagrams are.
const WAITING: usize = 64;

/// The pause when the system gives no connection, as when there is no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// What the errors of a container that is no more are called.
const GONE: [&str; 2] = ["IPDC-5811", "IPDC-5820"];

/// All ports that are had here. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Forwards {
    open: Arc<Mutex<BTreeMap<ContainerId, Vec<Open>>>>,
}

/// A port that is had here until this is dropped.
struct Open {
    forward: Forward,
    ends: CancellationToken,
    _guard: DropGuard,
}

/// A port of this machine that nobody connects to yet.
pub(super) struct Bound {
    forward: Forward,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Forwards {
    /// Takes ports of this machine.
    pub(super) async fn bind(&self, ports: &[PortRequest]) -> Result<Vec<Bound>, RentError> {
        let taken: usize = self.open().values().map(Vec::len).sum();
        if taken + ports.len() > PORTS {
            return Err(RentError::TooMany { what: "ports of containers", most: PORTS });
        }
        let mut bound = Vec::new();
        for PortRequest { port, local, carries } in ports {
            let at = local.map_or(0, NonZeroU16::get);
            let failed = |source| RentError::LocalPort { port: at, carries: *carries, source };
            let (socket, local) = bind(*carries, at).await.map_err(failed)?;
            let forward = Forward { port: *port, local, carries: *carries };
            bound.push(Bound { forward, socket });
        }
        Ok(bound)
    }

    /// Connects them to a container's; all that it has then.
    pub(super) fn start(
        &self,
        renter: &Renter,
        view: &ContainerView,
        bound: Vec<Bound>,
    ) -> Vec<Forward> {
        for Bound { forward, socket } in bound {
            let ends = CancellationToken::new();
            let port = Port {
                renter: renter.clone(),
                forwards: self.clone(),
                node: view.node,
                id: view.id,
                port: forward.port,
                ends: ends.clone(),
            };
            tokio::spawn(ends.clone().run_until_cancelled_owned(async move {
                match socket {
                    Socket::Tcp(listener) => port.carry_connections(listener).await,
                    Socket::Udp(socket) => port.carry_datagrams(socket).await,
                }
            }));
            let open = Open { forward, _guard: ends.clone().drop_guard(), ends };
            self.open().entry(view.id).or_default().push(open);
        }
        self.of(view.id)
    }

    /// Those of a container.
    pub(super) fn of(&self, id: ContainerId) -> Vec<Forward> {
        let open = self.open();
        let its = open.get(&id).map(Vec::as_slice).unwrap_or_default();
        its.iter().filter(|open| !open.ends.is_cancelled()).map(|open| open.forward).collect()
    }

    /// Lets go of those of a container.
    pub(super) fn end(&self, id: ContainerId) {
        self.open().remove(&id);
    }

    /// Lets go of all.
    pub(super) fn end_all(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Vec<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bind(carries: Carried, port: u16) -> io::Result<(Socket, SocketAddr)> {
    let at = (Ipv4Addr::LOCALHOST, port);
    Ok(match carries {
        Carried::Tcp => {
            let listener = TcpListener::bind(at).await?;
            let local = listener.local_addr()?;
            (Socket::Tcp(listener), local)
        }
        Carried::Udp => {
            let socket = UdpSocket::bind(at).await?;
            let local = socket.local_addr()?;
            (Socket::Udp(socket), local)
        }
    })
}

/// A container's port.
#[derive(Clone)]
struct Port {
    renter: Renter,
    forwards: Forwards,
    node: PeerId,
    id: ContainerId,
    port: NonZeroU16,
    /// It is had no more.
    ends: CancellationToken,
}

impl Port {
    async fn carry_connections(self, listener: TcpListener) {
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let port = self.clone();
            let ends = self.ends.clone();
            tokio::spawn(ends.run_until_cancelled_owned(port.carry(connection)));
        }
    }

    async fn carry(self, mut connection: TcpStream) {
        let Some(mut stream) = self.connect(Carried::Tcp).await else { return };
        let carried = async {
            connection.set_nodelay(true)?;
            copy_bidirectional(&mut connection, &mut stream).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(container = %self.id, %error, "a connection to a port broke");
        }
    }

    /// A stream to the port; none, when there is none, of which who connects hears only that it is closed.
    async fn connect(&self, carries: Carried) -> Option<BoxStream> {
        let ask = Ask::Port { id: self.id, port: self.port, carries };
        match self.renter.open(self.node, &ask).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                let problem = Problem::of(&error);
                tracing::info!(container = %self.id, why = problem.message, "a port was not reached");
                if GONE.contains(&problem.code.as_str()) {
                    self.forwards.end(self.id);
                }
                None
            }
        }
    }

    async fn carry_datagrams(self, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut senders: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut room = vec![0; DATAGRAM];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut room).await else {
                // It says so of a datagram before.
                continue;
            };
            let datagram = room[..len].to_vec();
            senders.retain(|_, sender| !sender.is_closed());
            if !senders.contains_key(&from) {
                if senders.len() == SENDERS {
                    continue;
                }
                let (sender, datagrams) = mpsc::channel(WAITING);
                let (port, socket) = (self.clone(), Arc::clone(&socket));
                let ends = self.ends.clone();
                let carried = async move { port.carry_of(from, datagrams, &socket).await };
                tokio::spawn(ends.run_until_cancelled_owned(carried));
                senders.insert(from, sender);
            }
            // What there is no room for is lost.
            let _ = senders[&from].try_send(datagram);
        }
    }

    /// Carries the datagrams of one sender, and those for it.
    async fn carry_of(
        self,
        sender: SocketAddr,
        mut datagrams: mpsc::Receiver<Vec<u8>>,
        socket: &UdpSocket,
    ) {
        let Some(stream) = self.connect(Carried::Udp).await else { return };
        let (mut from, mut to) = split(stream);
        let moved = AtomicU64::new(0);
        let outwards = async {
            while let Some(datagram) = datagrams.recv().await {
                write_datagram(&mut to, &datagram).await?;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            io::Result::Ok(())
        };
        let inwards = async {
            while let Some(datagram) = read_datagram(&mut from).await? {
                socket.send_to(&datagram, sender).await?;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            io::Result::Ok(())
        };
        let quiet = async {
            let mut before = None;
            while before != Some(moved.load(Ordering::Relaxed)) {
                before = Some(moved.load(Ordering::Relaxed));
                sleep(QUIET).await;
            }
        };
        tokio::select! {
            _ = outwards => {}
            _ = inwards => {}
            () = quiet => {}
        }
    }
}
