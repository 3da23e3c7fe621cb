//! Containers by hand, on this node and on others: `container run`, `ls`, `logs`, `exec`, `port`, `extend`, `rm`.

use std::io::{self, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::future::join_all;
use ipdc_jobs::ids::{FileRef, PeerId};
use serde::Serialize;
use tokio::io::AsyncRead;

use super::Session;
use super::error::CliError;
use super::output::{Answer, harmless, put_table, size, span, table, write_stdout};
use super::progress::Progress;
use super::terminal::{self, Terminal};
use crate::api::client::{Client, Meter};
use crate::config::Size;
use crate::interrupt::Interrupts;
use crate::rental::Frame;
use crate::view::{
    AddQuery, Carried, ContainerList, ContainerRequest, ContainerState, ContainerView, ExecRequest,
    Forward, PortRequest, PortsRequest, Starting,
};

/// Run containers on nodes of the swarm, and look after them
#[derive(Debug, Subcommand)]
pub(super) enum Container {
    /// Run one, and show what it writes; it is gone when it ends, or with Ctrl-C
    Run(Box<RunContainer>),
    /// List yours, wherever they run, and all that run on this node
    Ls(List),
    /// Show what one wrote
    Logs(Logs),
    /// Run a command in one, or in each of a group
    Exec(ExecIn),
    /// Have ports of one on this machine's loopback
    Port(Port),
    /// Let one run for longer, or for less long
    Extend(Extend),
    /// End some, and forget them
    Rm(Remove),
}

impl Container {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self {
            Container::Run(run) => run.run(session).await,
            Container::Ls(list) => list.run(session).await,
            Container::Logs(logs) => logs.run(session).await,
            Container::Exec(exec) => exec.run(session).await,
            Container::Port(port) => port.run(session).await,
            Container::Extend(extend) => extend.run(session).await,
            Container::Rm(remove) => remove.run(session).await,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunContainer {
    /// An image of this machine's engine, a file as `docker save` writes it, or a CID of `ipdc images`
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The command, in place of the image's own
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// The node that it runs on; else the first that has what it takes
    #[arg(long, value_name = "PEER")]
    on: Option<PeerId>,
    /// A label that its node must have; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Processors; 1 if it is not said
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory: `512MiB` if it is not said
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// One GPU
    #[arg(long, conflicts_with = "gpus")]
    gpu: bool,
    /// So many GPUs
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// Memory that each GPU must have
    #[arg(long, value_name = "SIZE")]
    gpu_memory: Option<Size>,
    /// A port of it that is to be had on this machine's loopback: `80`, `8080:80`, `53/udp`; may be repeated
    #[arg(short = 'p', long = "port", value_name = "[LOCAL:]PORT[/udp]")]
    ports: Vec<PortArg>,
    /// Let who has a key of this file, a public one, in by SSH; without a command the container waits for that
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// A variable of its environment; may be repeated
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How long it may run: `1h` if it is not said
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Have its node's network
    #[arg(long)]
    network: bool,
    /// Run as the image's user, root if that is it, in a file system that it can write
    #[arg(long)]
    root: bool,
    /// With --root, how much it may write there: `1GiB` if it is not said
    #[arg(long, value_name = "SIZE", requires = "root")]
    disk: Option<Size>,
    /// A name for containers that belong together
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Print its ID as soon as it runs, and leave
    #[arg(short, long)]
    detach: bool,
}

impl RunContainer {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let progress = Progress::new(session.output);
        let mut interrupts = Interrupts::listen();
        let detach = self.detach;
        let started = async {
            let request = self.request(&client, &progress).await?;
            progress.say("looking for a node");
            let tell = |said: &Starting| match said {
                Starting::Asked(peer) => progress.say(format!("asking {peer}")),
                Starting::Fetched(bytes) => {
                    progress.say(format!("its image comes to the node: {}", size(*bytes)));
                }
                Starting::Container(_) | Starting::Error(_) => {}
            };
            Ok::<_, CliError>(client.run_container(&request, tell).await?)
        };
        let view = interrupts.unless(started).await??;
        drop(progress);
        for way in ways(&view) {
            session.output.note(way);
        }
        if detach {
            return session.output.put(&view);
        }
        let id = view.id.to_string();
        session.output.note(format!("container {id} runs on {}", view.node));
        let ended =
            interrupts.unless(async { print(client.container_logs(&id, true).await?).await });
        let ended = ended.await;
        // Nobody needs it any more, however it ended.
        let removed = client.remove_container(&id).await;
        let ended = ended??;
        removed?;
        ended.into_result()
    }

    async fn request(
        self,
        client: &Client,
        progress: &Progress,
    ) -> Result<ContainerRequest, CliError> {
        let gpus = self.gpus.unwrap_or(u32::from(self.gpu));
        Ok(ContainerRequest {
            archive: archive(client, &self.image, progress).await?,
            image: self.image,
            command: self.command,
            env: self.env.into_iter().collect(),
            on: self.on,
            labels: self.labels,
            cpus: self.cpus,
            gpus,
            gpu_memory: self.gpu_memory.map_or(0, Size::bytes),
            memory: self.memory.map(Size::bytes),
            disk: self.disk.map(Size::bytes),
            time_s: self.time.map(|time| time.as_secs()),
            network: self.network,
            root: self.root,
            group: self.group,
            ports: self.ports.into_iter().map(|PortArg(port)| port).collect(),
            ssh_keys: self.ssh_key.map(keys).transpose()?,
        })
    }
}

/// The file that an image is in, given to the node; none, when it is named otherwise.
pub(super) async fn archive(
    client: &Client,
    image: &str,
    progress: &Progress,
) -> Result<Option<FileRef>, CliError> {
    let path = Path::new(image);
    if !path.is_file() {
        return Ok(None);
    }
    let file = tokio::fs::File::open(path).await.map_err(CliError::file("open", path))?;
    let len = file.metadata().await.map_err(CliError::file("read", path))?.len();
    let meter = Meter::default();
    let added = client.add_file(file, AddQuery { pin: false }, &meter);
    let added = progress.during("adding the image", &meter, Some(len), added).await?;
    Ok(Some(FileRef { cid: added.cid, len: added.size }))
}

/// The keys in a file.
fn keys(path: PathBuf) -> Result<String, CliError> {
    std::fs::read_to_string(&path).map_err(CliError::file("read", path))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a variable is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A port as it is written on the command line.
#[derive(Debug, Clone, Copy)]
struct PortArg(PortRequest);

impl FromStr for PortArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a port is written 80, 8080:80 or 53/udp, and is 1 to 65535";
        let (ports, carries) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Carried::Tcp),
            Some((ports, "udp")) => (ports, Carried::Udp),
            Some(_) => return Err(FORM),
        };
        let number = |text: &str| text.parse::<NonZeroU16>().map_err(|_| FORM);
        let (local, port) = match ports.split_once(':') {
            None => (None, number(ports)?),
            Some((local, port)) => (Some(number(local)?), number(port)?),
        };
        Ok(PortArg(PortRequest { port, local, carries }))
    }
}

/// What is had of a container on this machine.
fn ways(view: &ContainerView) -> Vec<String> {
    let ports = view.ports.iter().map(|Forward { port, local, carries }| {
        format!("port {port}/{carries} of it is at {local} here")
    });
    let ssh = view.ssh.iter();
    let ssh = ssh.map(|local| format!("ssh -p {} ipdc@{}", local.port(), local.ip()));
    ports.chain(ssh).collect()
}

impl Answer for ContainerView {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.id)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let list = session.client()?.containers(self.group).await?;
        for silent in &list.silent {
            session.output.note(format!("{} was not heard: {}", silent.peer, silent.why));
        }
        session.output.put(&list)
    }
}

impl Answer for ContainerList {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let headings =
            ["CONTAINER", "NODE", "OWNER", "IMAGE", "COMMAND", "GROUP", "STATE", "LEFT", "PORTS"];
        let mut rows = table(&headings);
        for view in &self.containers {
            let ssh = view.ssh.iter().map(|local| format!("{local}->ssh"));
            let ports = view.ports.iter();
            let ports =
                ports.map(|Forward { port, local, carries }| format!("{local}->{port}/{carries}"));
            rows.add_row([
                view.id.to_string(),
                view.node.to_string(),
                harmless(&view.owner),
                harmless(&view.image),
                harmless(&view.command.join(" ")),
                view.group.clone().unwrap_or_default(),
                state(view),
                match view.state {
                    ContainerState::Ended => String::new(),
                    _ => span(Duration::from_secs(view.left_s)),
                },
                ports.chain(ssh).collect::<Vec<_>>().join(" "),
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.containers.iter().try_for_each(|view| writeln!(to, "{}", view.id))
    }
}

/// `running`, `ended (exit code 3)`, `ended: its time was over`.
fn state(view: &ContainerView) -> String {
    match (&view.why, view.exit) {
        (Some(why), _) => format!("{}: {}", view.state, harmless(why)),
        (None, Some(code)) => format!("{} (exit code {code})", view.state),
        (None, None) => view.state.to_string(),
    }
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The container's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: String,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        // How it ended is not how this command did.
        print(session.client()?.container_logs(&self.id, self.follow).await?).await.map(drop)
    }
}

/// How a command in a container ended.
enum End {
    /// It runs on.
    NotYet,
    /// With this exit code, if it ended by itself.
    Exit(Option<i64>),
}

impl End {
    fn into_result(self) -> Result<(), CliError> {
        match self {
            End::NotYet | End::Exit(Some(0)) => Ok(()),
            End::Exit(code) => {
                let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                Err(CliError::Command { code })
            }
        }
    }
}

/// Writes frames where they belong.
async fn print(mut frames: impl AsyncRead + Unpin) -> Result<End, CliError> {
    while let Some(frame) = Frame::read(&mut frames).await.map_err(CliError::Frames)? {
        match frame {
            Frame::Bytes(bytes) => write_stdout(&bytes)?,
            Frame::Err(bytes) => {
                let mut stderr = io::stderr().lock();
                // What nobody can read is no reason to fail.
                let _ = stderr.write_all(&bytes).and_then(|()| stderr.flush());
            }
            Frame::Eof => return Ok(End::NotYet),
            Frame::Exit(code) => return Ok(End::Exit(code)),
            Frame::Broken(why) => return Err(CliError::ContainerEnded { why }),
            Frame::Resize(_) => {}
        }
    }
    Err(CliError::Frames(io::ErrorKind::UnexpectedEof.into()))
}

#[derive(Debug, Args)]
pub(super) struct ExecIn {
    /// The container's ID, or as much of its beginning as no other has; not with --group
    #[arg(value_name = "ID", required_unless_present = "group")]
    id: Option<String>,
    /// The command
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Give it this command's stdin
    #[arg(short, long)]
    interactive: bool,
    /// Run it on a terminal, which is this one
    #[arg(short, long)]
    terminal: bool,
    /// In each container of this group that runs, each line with its container's ID before it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["interactive", "terminal"])]
    group: Option<String>,
}

impl ExecIn {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        if let Some(group) = self.group {
            // What would be the ID is the command's first word.
            let command: Vec<_> = self.id.into_iter().chain(self.command).collect();
            return exec_in_group(&client, group, command).await;
        }
        let id = self.id.unwrap_or_default();
        let terminal = self.terminal.then(Terminal::take).transpose()?;
        let request =
            ExecRequest { command: self.command, terminal: terminal.as_ref().map(Terminal::size) };
        let connection = client.exec(&id, &request).await?;
        let (frames, to) = tokio::io::split(connection);
        let ended = tokio::select! {
            ended = print(frames) => ended,
            broken = terminal::send(to, self.interactive || self.terminal, terminal.is_some()) => {
                Err(CliError::Frames(broken))
            }
        };
        // The terminal is as it was before anything more is said.
        drop(terminal);
        ended?.into_result()
    }
}

/// Runs a command in each container of a group at the same time.
async fn exec_in_group(
    client: &Client,
    group: String,
    command: Vec<String>,
) -> Result<(), CliError> {
    let list = client.containers(Some(group.clone())).await?;
    let running = list.containers.iter().filter(|view| view.state == ContainerState::Running);
    let ids: Vec<String> = running.map(|view| view.id.to_string()).collect();
    if ids.is_empty() {
        return Err(CliError::NoGroup { group });
    }
    let request = ExecRequest { command, terminal: None };
    let ended = join_all(ids.iter().map(|id| exec_in_one(client, id, &request))).await;
    let mut worst = 0;
    for ended in ended {
        worst = worst.max(ended?);
    }
    End::Exit(Some(worst)).into_result()
}

/// Runs a command in one container, and prints its lines with the container's ID.
async fn exec_in_one(client: &Client, id: &str, request: &ExecRequest) -> Result<i64, CliError> {
    let mut frames = client.exec(id, request).await?;
    Frame::Eof.write(&mut frames).await.map_err(CliError::Frames)?;
    let mut rest = Vec::new();
    let put = |line: &[u8]| {
        let line = harmless(&String::from_utf8_lossy(line));
        write_stdout(format!("{id} {line}\n").as_bytes())
    };
    let code = loop {
        match Frame::read(&mut frames).await.map_err(CliError::Frames)? {
            Some(Frame::Bytes(bytes) | Frame::Err(bytes)) => {
                rest.extend_from_slice(&bytes);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    put(&line[..end])?;
                }
            }
            Some(Frame::Exit(code)) => break code.unwrap_or(1),
            Some(Frame::Broken(why)) => {
                put(why.as_bytes())?;
                break 1;
            }
            Some(_) => {}
            None => return Err(CliError::Frames(io::ErrorKind::UnexpectedEof.into())),
        }
    };
    if !rest.is_empty() {
        put(&rest)?;
    }
    Ok(code)
}

#[derive(Debug, Args)]
pub(super) struct Port {
    /// The container's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: String,
    /// Its port: `80`, `8080:80`, `53/udp`; without one, those that are had now are shown
    #[arg(value_name = "[LOCAL:]PORT[/udp]")]
    ports: Vec<PortArg>,
    /// Let who has a key of this file, a public one, in by SSH
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
}

impl Port {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let ports = self.ports.into_iter().map(|PortArg(port)| port).collect();
        let request = PortsRequest { ports, ssh_keys: self.ssh_key.map(keys).transpose()? };
        let view = session.client()?.forward_ports(&self.id, &request).await?;
        session.output.put(&Ways(view))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Ways(ContainerView);

impl Answer for Ways {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        ways(&self.0).iter().try_for_each(|way| writeln!(to, "{way}"))
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        let ports = self.0.ports.iter().map(|forward| forward.local);
        ports.chain(self.0.ssh.iter().copied()).try_for_each(|local| writeln!(to, "{local}"))
    }
}

#[derive(Debug, Args)]
pub(super) struct Extend {
    /// The container's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: String,
    /// How long it may run from now on: `30m`, `8h`
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Duration,
}

impl Extend {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let view = session.client()?.extend_container(&self.id, self.time.as_secs()).await?;
        session.output.put(&view)
    }
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The IDs of containers, or as much of their beginnings as no other has
    #[arg(value_name = "ID", required_unless_present = "group")]
    ids: Vec<String>,
    /// All of this group
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    group: Option<String>,
}

impl Remove {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let ids = match self.group {
            None => self.ids,
            Some(group) => {
                let list = client.containers(Some(group.clone())).await?;
                let ids: Vec<_> = list.containers.iter().map(|view| view.id.to_string()).collect();
                if ids.is_empty() {
                    return Err(CliError::NoGroup { group });
                }
                ids
            }
        };
        let mut removed = Vec::new();
        for done in join_all(ids.iter().map(|id| client.remove_container(id))).await {
            removed.push(done?);
        }
        session.output.put(&Removed(removed))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Removed(Vec<ContainerView>);

impl Answer for Removed {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|view| writeln!(to, "{}", view.id))
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_people_know_them() {
        let port = |text: &str| text.parse::<PortArg>().map(|PortArg(port)| port);
        let number = |n| NonZeroU16::new(n).unwrap();
        let plain = PortRequest { port: number(80), local: None, carries: Carried::Tcp };
        assert_eq!(port("80"), Ok(plain));
        assert_eq!(port("80/tcp"), Ok(plain));
        assert_eq!(port("8080:80"), Ok(PortRequest { local: Some(number(8080)), ..plain }));
        let udp = PortRequest { port: number(53), carries: Carried::Udp, ..plain };
        assert_eq!(port("53/udp"), Ok(udp));
        for wrong in ["", "0", "65536", "80/sctp", "a:80", ":80", "0:80", "1.2.3.4:80:80"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
