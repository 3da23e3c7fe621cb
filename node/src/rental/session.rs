//! A stream of another node, from what it asks to its end: orders, logs, commands, ports.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::container::LogOutput;
use futures::{StreamExt as _, TryStreamExt as _, future};
use ipdc_jobs::ids::PeerId;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional, split,
};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::io::StreamReader;

use super::agent;
use super::host::{Host, Rental, Stage};
use super::mux::Mux;
use super::wire::{ANSWER_LIMIT, ASK_LIMIT, Answer, Ask, Frame};
use super::{RentError, agent::ROLE};
use crate::containers::{Exec, ExecHandle, Said};
use crate::problem::Problem;
use crate::swarm::frame;
use crate::swarm::streams::BoxStream;

/// How long an ask may take to come.
const ASK_TIME: Duration = Duration::from_secs(10);

/// What one types on a terminal to say that there is no more: Ctrl-D.
const END_OF_TEXT: [u8; 1] = [4];

/// How often it is said how far an image has come.
const SAY: Duration = Duration::from_secs(2);

/// Serves one stream of `peer`.
pub(super) async fn serve(host: Host, peer: PeerId, mut stream: BoxStream) {
    let asked = timeout(ASK_TIME, frame::read(&mut stream, ASK_LIMIT)).await;
    let Ok(Ok(ask)) = asked else {
        tracing::debug!(%peer, "a stream for containers asked nothing that is known here");
        return;
    };
    if let Err(error) = answer(&host, peer, ask, &mut stream).await {
        tracing::debug!(%peer, %error, "a stream for containers ended");
    }
    let _ = stream.shutdown().await;
}

async fn answer(host: &Host, peer: PeerId, ask: Ask, stream: &mut BoxStream) -> io::Result<()> {
    let view = match ask {
        Ask::Run(order) => run(host, peer, *order, stream).await?,
        Ask::List => {
            return say(stream, &Answer::Containers(host.list(peer))).await;
        }
        Ask::Extend { id, time_ms } => host.extend(id, peer, Duration::from_millis(time_ms)),
        Ask::Remove { id } => host.remove(id, peer).await,
        Ask::Logs { id, follow } => match host.find(id, peer) {
            Ok(rental) => {
                say(stream, &Answer::Open).await?;
                return logs(&rental, follow, stream).await;
            }
            Err(error) => Err(error),
        },
        Ask::Exec { id, command, terminal } => {
            let begun = async {
                let (inside, _) = host.find(id, peer)?.inside()?;
                let exec = inside.exec(command, terminal.is_some()).await?;
                if let Some(size) = terminal {
                    // It may have ended already.
                    let _ = exec.handle.resize(size.rows, size.columns).await;
                }
                Ok(exec)
            };
            match begun.await {
                Ok(exec) => {
                    say(stream, &Answer::Open).await?;
                    return attend(exec, terminal.is_some(), stream).await;
                }
                Err(error) => Err(error),
            }
        }
        Ask::Port { id, port, carries } => {
            let connected = async {
                let rental = host.find(id, peer)?;
                let mux = mux(&rental).await?;
                let broken = |_| RentError::Agent { id };
                let mut inner = mux.open().await.map_err(broken)?;
                let is_there = agent::connect(&mut inner, carries, port).await.map_err(broken)?;
                // The connections live as long as what carries them.
                if is_there {
                    Ok((inner, mux))
                } else {
                    Err(RentError::NoListener { id, port, carries })
                }
            };
            match connected.await {
                Ok((mut inner, _mux)) => {
                    say(stream, &Answer::Open).await?;
                    return copy_bidirectional(stream, &mut inner).await.map(drop);
                }
                Err(error) => Err(error),
            }
        }
    };
    match view {
        Ok(view) => say(stream, &Answer::Container(Box::new(view))).await,
        Err(error) => say(stream, &Answer::Refused(Problem::of(&error))).await,
    }
}

async fn say(stream: &mut BoxStream, answer: &Answer) -> io::Result<()> {
    frame::write(stream, answer, ANSWER_LIMIT).await
}

/// Runs a container, and says how far that is. Who asked and goes away before it runs wants it no more.
async fn run(
    host: &Host,
    peer: PeerId,
    order: super::wire::Order,
    stream: &mut BoxStream,
) -> io::Result<Result<crate::view::ContainerView, RentError>> {
    let fetched = Arc::new(AtomicU64::new(0));
    let progress = {
        let fetched = Arc::clone(&fetched);
        move |bytes| fetched.store(bytes, Ordering::Relaxed)
    };
    let mut running = Box::pin(host.run(order, peer, progress));
    loop {
        match timeout(SAY, &mut running).await {
            Ok(ran) => return Ok(ran),
            Err(_) => say(stream, &Answer::Fetched(fetched.load(Ordering::Relaxed))).await?,
        }
    }
}

/// Sends what a container has written, and writes while it runs if that is asked for.
async fn logs(rental: &Rental, follow: bool, stream: &mut BoxStream) -> io::Result<()> {
    let (mut more, mut stage, mut count) = (rental.log.watch(), rental.stage(), 0);
    loop {
        more.mark_unchanged();
        let ended = match &*stage.borrow_and_update() {
            Stage::Ended { code, why } => Some((*code, why.clone())),
            _ => None,
        };
        while let Some((said, next)) = rental.log.after(count) {
            count = next;
            let frame = match said {
                Said::Out(bytes) => Frame::Bytes(bytes),
                Said::Err(bytes) => Frame::Err(bytes),
            };
            frame.write(stream).await?;
        }
        match ended {
            Some((_, Some(why))) => return Frame::Broken(why).write(stream).await,
            Some((code, None)) => return Frame::Exit(code).write(stream).await,
            None if !follow => return Frame::Eof.write(stream).await,
            None => {}
        }
        tokio::select! {
            // Its sender is in the rental.
            _ = more.changed() => {}
            _ = stage.changed() => {}
            gone = stream.read_u8() => return gone.map(drop),
        }
    }
}

/// Carries what goes into a command and comes out of it, until it has ended.
async fn attend(exec: Exec, on_terminal: bool, stream: &mut BoxStream) -> io::Result<()> {
    let Exec { mut output, input, handle } = exec;
    let (from, mut to) = split(stream);
    let inwards = feed(from, input, on_terminal, &handle);
    let outwards = async {
        while let Some(said) = output.next().await {
            match said.map_err(io::Error::other)? {
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    Frame::Bytes(message).write(&mut to).await?;
                }
                LogOutput::StdErr { message } => Frame::Err(message).write(&mut to).await?,
                LogOutput::StdIn { .. } => {}
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        ended = outwards => ended?,
        // Who looks on is gone: what the command reads has ended, and it goes on alone.
        gone = inwards => return gone,
    }
    let end = match handle.code().await {
        Ok(code) => Frame::Exit(code),
        Err(trouble) => Frame::Broken(trouble.to_string()),
    };
    end.write(&mut to).await
}

/// Gives a command what is for its stdin. Comes back only when who sends it is gone.
async fn feed(
    mut from: impl AsyncRead + Unpin,
    mut input: impl AsyncWrite + Unpin,
    on_terminal: bool,
    handle: &ExecHandle,
) -> io::Result<()> {
    while let Some(frame) = Frame::read(&mut from).await? {
        match frame {
            // That it reads no more is its own affair.
            Frame::Bytes(bytes) => drop(write(&mut input, &bytes).await),
            // A terminal that is closed ends what runs on it, before it has read all.
            Frame::Eof if on_terminal => drop(write(&mut input, &END_OF_TEXT).await),
            Frame::Eof => drop(input.shutdown().await),
            Frame::Resize(size) => drop(handle.resize(size.rows, size.columns).await),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    // It sends no more, and may still listen.
    let _ = input.shutdown().await;
    std::future::pending().await
}

async fn write(input: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    input.write_all(bytes).await?;
    input.flush().await
}

/// What connects to the ports of a container: started with the first that is asked for, and again when it is gone.
async fn mux(rental: &Rental) -> Result<Arc<Mux>, RentError> {
    let mut agent = rental.agent.lock().await;
    if let Some(mux) = agent.as_ref().filter(|mux| !mux.is_closed()) {
        return Ok(Arc::clone(mux));
    }
    let (inside, tools) = rental.inside()?;
    let command = tools.command.iter().cloned().chain([ROLE.to_owned()]).collect();
    let Exec { output, input, .. } = inside.exec(command, false).await?;
    let id = rental.id();
    let stdout = output.map_err(io::Error::other).try_filter_map(move |said| {
        future::ok(match said {
            LogOutput::StdOut { message } => Some(message),
            LogOutput::StdErr { message } => {
                tracing::debug!(container = %id, said = %message.escape_ascii(), "an agent complains");
                None
            }
            _ => None,
        })
    });
    let stdout = StreamReader::new(Box::pin(stdout));
    let mux = Arc::new(Mux::new(tokio::io::join(stdout, input).compat()));
    *agent = Some(Arc::clone(&mux));
    Ok(mux)
}
