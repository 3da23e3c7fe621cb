//! Ports of containers on the loopback of this machine.
//!
//! A connection to one becomes a stream to the container's node, and a sender of datagrams another; one for SSH is
//! served here. They end with the container, and when this node does: nothing is remembered of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::agent::{DATAGRAM, read_datagram, write_datagram};
use super::ssh::Ssh;
use super::wire::Ask;
use super::{RentError, Renter};
use crate::problem::Problem;
use crate::swarm::streams::BoxStream;
use crate::view::{Carried, ContainerId, ContainerView, Forward, PortRequest};

/// Ports at a time, of all containers.
const PORTS: usize = 1_024;

/// Connections to one port at a time; the next one waits.
const CONNECTIONS: usize = 512;

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
    local: SocketAddr,
    /// The container's port; none, a way in for SSH.
    of: Option<(NonZeroU16, Carried)>,
    ends: CancellationToken,
    _guard: DropGuard,
}

/// A port of this machine that nobody connects to yet.
pub(super) struct Bound {
    local: SocketAddr,
    way: Way,
}

/// Where a port of this machine leads.
enum Way {
    Tcp(TcpListener, NonZeroU16),
    Udp(UdpSocket, NonZeroU16),
    Ssh(TcpListener, Ssh),
}

impl Forwards {
    /// Takes ports of this machine, and one for SSH if that is asked for.
    pub(super) async fn bind(
        &self,
        ports: &[PortRequest],
        ssh: Option<Ssh>,
    ) -> Result<Vec<Bound>, RentError> {
        let taken: usize = self.open().values().map(Vec::len).sum();
        if taken + ports.len() > PORTS {
            return Err(RentError::TooMany { what: "ports of containers", most: PORTS });
        }
        let mut bound = Vec::new();
        for PortRequest { port, local, carries } in ports {
            let at = local.map_or(0, NonZeroU16::get);
            let way = async {
                let at = (Ipv4Addr::LOCALHOST, at);
                Ok(match carries {
                    Carried::Tcp => Way::Tcp(TcpListener::bind(at).await?, *port),
                    Carried::Udp => Way::Udp(UdpSocket::bind(at).await?, *port),
                })
            };
            bound.push(Bound::new(way.await, at, *carries)?);
        }
        if let Some(ssh) = ssh {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let way = listener.map(|listener| Way::Ssh(listener, ssh));
            bound.push(Bound::new(way, 0, Carried::Tcp)?);
        }
        Ok(bound)
    }

    /// Connects them to a container's.
    pub(super) fn start(&self, renter: &Renter, view: &ContainerView, bound: Vec<Bound>) {
        for Bound { local, way } in bound {
            let ends = CancellationToken::new();
            let place = Place {
                renter: renter.clone(),
                forwards: self.clone(),
                view: view.clone(),
                ends: ends.clone(),
            };
            let of = match &way {
                Way::Tcp(_, port) => Some((*port, Carried::Tcp)),
                Way::Udp(_, port) => Some((*port, Carried::Udp)),
                Way::Ssh(..) => None,
            };
            tokio::spawn(ends.clone().run_until_cancelled_owned(async move {
                match way {
                    Way::Tcp(listener, port) => {
                        let carry = |place: Place, connection| place.carry(connection, port);
                        place.take_connections(listener, carry).await;
                    }
                    Way::Ssh(listener, ssh) => {
                        let serve = |place: Place, connection| {
                            ssh.clone().serve(place.renter, place.view, connection)
                        };
                        place.take_connections(listener, serve).await;
                    }
                    Way::Udp(socket, port) => place.carry_datagrams(socket, port).await,
                }
            }));
            let open = Open { local, of, _guard: ends.clone().drop_guard(), ends };
            self.open().entry(view.id).or_default().push(open);
        }
    }

    /// Says in `view` which of the container's there are.
    pub(super) fn show(&self, view: &mut ContainerView) {
        (view.ports, view.ssh) = (Vec::new(), Vec::new());
        let open = self.open();
        let its = open.get(&view.id).map(Vec::as_slice).unwrap_or_default();
        for Open { local, of, .. } in its.iter().filter(|open| !open.ends.is_cancelled()) {
            match of {
                Some((port, carries)) => {
                    let (port, carries) = (*port, *carries);
                    view.ports.push(Forward { port, local: *local, carries });
                }
                None => view.ssh.push(*local),
            }
        }
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

impl Bound {
    /// The port that `way` has; `asked` is the one that was asked for.
    fn new(way: io::Result<Way>, asked: u16, carries: Carried) -> Result<Bound, RentError> {
        let bound = way.and_then(|way| {
            let local = match &way {
                Way::Tcp(listener, _) | Way::Ssh(listener, _) => listener.local_addr()?,
                Way::Udp(socket, _) => socket.local_addr()?,
            };
            Ok(Bound { local, way })
        });
        bound.map_err(|source| RentError::LocalPort { port: asked, carries, source })
    }
}

/// A container, for its ports.
#[derive(Clone)]
struct Place {
    renter: Renter,
    forwards: Forwards,
    view: ContainerView,
    /// This port is had no more.
    ends: CancellationToken,
}

impl Place {
    async fn take_connections<S>(self, listener: TcpListener, serve: impl Fn(Place, TcpStream) -> S)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((connection, _)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let served = serve(self.clone(), connection);
            let served = async move {
                served.await;
                drop(place);
            };
            tokio::spawn(self.ends.clone().run_until_cancelled_owned(served));
        }
    }

    async fn carry(self, mut connection: TcpStream, port: NonZeroU16) {
        let Some(mut stream) = self.connect(Carried::Tcp, port).await else { return };
        let carried = async {
            connection.set_nodelay(true)?;
            copy_bidirectional(&mut connection, &mut stream).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(container = %self.view.id, %error, "a connection to a port broke");
        }
    }

    /// A stream to the port; none, when there is none, of which who connects hears only that it is closed.
    async fn connect(&self, carries: Carried, port: NonZeroU16) -> Option<BoxStream> {
        let id = self.view.id;
        match self.renter.open(self.view.node, &Ask::Port { id, port, carries }).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                let problem = Problem::of(&error);
                tracing::info!(container = %id, why = problem.message, "a port was not reached");
                if GONE.contains(&problem.code.as_str()) {
                    self.forwards.end(id);
                }
                None
            }
        }
    }

    async fn carry_datagrams(self, socket: UdpSocket, port: NonZeroU16) {
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
                let (place, socket) = (self.clone(), Arc::clone(&socket));
                let carried = async move {
                    if let Some(stream) = place.connect(Carried::Udp, port).await {
                        carry_of(from, datagrams, &socket, stream).await;
                    }
                };
                tokio::spawn(self.ends.clone().run_until_cancelled_owned(carried));
                senders.insert(from, sender);
            }
            // What there is no room for is lost.
            let _ = senders[&from].try_send(datagram);
        }
    }
}

/// Carries the datagrams of one sender, and those for it.
async fn carry_of(
    sender: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    socket: &UdpSocket,
    stream: BoxStream,
) {
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
