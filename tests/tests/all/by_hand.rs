//! Containers by hand: run, looked into and ended from another node than the one they run on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ipdc_tests::{Engine, Node, Program, Ran, SOON, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// What every member may do on the node with the engine.
const OPEN: &str = "";

/// A node without an engine, of owner `owner`, and one that runs containers for others, of `ann`.
struct Two {
    engine: Engine,
    asks: Node,
    runs: Node,
}

/// None where these tests are left out. `policy` follows the settings of the node that runs containers.
fn two(policy: &str) -> Option<Two> {
    let engine = Engine::start()?;
    let mut asks = Node::first();
    asks.configure("[containers]\nengine = \"/nowhere\"\n[node]\nslots = 2\n");
    asks.start();
    let invite = asks.cli(["invite", "--owner", "ann", "--quiet"]).run().ok();
    let mut runs = Node::joined(invite.text().trim());
    runs.configure(&format!("{}{policy}", engine.settings()));
    runs.start();
    asks.wait_peers(1);
    engine.save("base:1", &asks.folder().join("base.tar"));
    let two = Two { engine, asks, runs };
    two.wait_engine();
    Some(two)
}

impl Two {
    /// Waits until the node that asks knows of the engine of the other.
    fn wait_engine(&self) {
        eventually(SOON, "the engine is told of", || {
            let peers = self.asks.api().get("/peers").ok();
            let has = |peer: &Value| peer["facts"]["engine"].is_string();
            peers.as_array().unwrap().iter().any(has).then_some(())
        });
    }

    /// Runs a container that stays, from the node without an engine; its ID.
    fn run<const N: usize>(&self, args: [&str; N]) -> String {
        let command = self.asks.cli(["container", "run", "--detach"]);
        command.args(args).run().ok().text().trim().to_owned()
    }

    /// `ipdc container ARGS` on the node without an engine.
    fn container<const N: usize>(&self, args: [&str; N]) -> Program {
        self.asks.cli(["container"]).args(args)
    }

    /// What a node says of a container; none, when it does not know it.
    fn seen(&self, node: &Node, id: &str) -> Option<Value> {
        let list = node.api().get("/containers").ok();
        list["containers"].as_array().unwrap().iter().find(|view| view["id"] == id).cloned()
    }

    fn wait_ended(&self, id: &str) -> Value {
        eventually(SOON, "the container has ended", || {
            self.seen(&self.asks, id).filter(|view| view["state"] == "ended")
        })
    }

    fn wait_no_containers(&self) {
        eventually(SOON, "no container is left", || {
            self.engine.containers().is_empty().then_some(())
        });
    }
}

/// Sleeps until it is ended.
const WAITS: [&str; 2] = ["sleep", "1000"];

#[test]
fn a_container_runs_where_there_is_an_engine_and_is_looked_into_from_where_there_is_none() {
    let Some(two) = two(OPEN) else { return };
    let script = "echo out; echo err >&2; id -u; cat /proc/net/dev | wc -l; exit 3";
    let ran = two.container(["run", "base.tar", "sh", "-c", script]).run().failed(3, &["err"]);
    let lines: Vec<_> = ran.text().lines().collect();
    assert_eq!((lines[0], lines[2]), ("out", "3"), "two headings and loopback: {ran}");
    assert_ne!(lines[1], "0", "{ran}");
    two.wait_no_containers();
    assert_eq!(two.asks.api().get("/containers").ok()["containers"], Value::Array(vec![]));

    let id = two.run(["base.tar", "sh", "-c", "echo begun; sleep 1000"]);
    let view = two.seen(&two.asks, &id).unwrap();
    assert_eq!((&view["node"], &view["state"]), (&two.runs.peer_id().into(), &"running".into()));
    assert!(view["left_s"].as_u64().unwrap() > 3_500, "an hour: {view}");
    let short = &id[..6];
    eventually(SOON, "it has said something", || {
        (two.container(["logs", short]).run().ok().text() == "begun").then_some(())
    });
    let said = two.container(["exec", short, "sh", "-c", "echo here; exit 7"]).run();
    assert_eq!(said.failed(7, &[]).text(), "here");
    let piped = two.container(["exec", "-i", short, "tr", "a-z", "A-Z"]).stdin("one\ntwo\n").run();
    assert_eq!(piped.ok().text(), "ONE\nTWO");
    let _ = two.container(["exec", short, "nobody"]).run().failed(126, &[]);
    let _ = two.container(["extend", short, "--for", "2h"]).run().ok();
    assert!(two.seen(&two.asks, &id).unwrap()["left_s"].as_u64().unwrap() > 7_000);
    let follows = two.container(["logs", "--follow", short]).start();
    eventually(SOON, "it is followed", || (follows.stdout() == "begun\n").then_some(()));
    let _ = two.container(["rm", short]).run().ok();
    let _ = follows.wait(SOON).failed(1, &["IPDC-1644", "it was removed"]);
    assert_eq!(two.seen(&two.asks, &id), None);
    let _ = two.container(["logs", short]).run().failed(4, &["IPDC-5811"]);
    two.wait_no_containers();

    let audit = two.runs.cli(["audit", "--json"]).run().ok().json();
    let rented = |entry: &&Value| entry["what"] == "rented";
    assert_eq!(audit.as_array().unwrap().iter().filter(rented).count(), 4, "{audit}");
}

/// A program that sends each datagram back, for an image.
fn echo(two: &Two) -> Vec<u8> {
    let (source, program) = ("echo.rs", "echo");
    let text = "fn main() { \
        let socket = std::net::UdpSocket::bind(\"127.0.0.1:5353\").unwrap(); \
        let mut room = [0; 65536]; \
        loop { let (n, from) = socket.recv_from(&mut room).unwrap(); socket.send_to(&room[..n], from).unwrap(); } }";
    fs::write(two.asks.folder().join(source), text).unwrap();
    let flags = ["-C", "target-feature=+crt-static", "-o", program, source];
    let _ = Program::new("rustc").dir(two.asks.folder()).args(flags).run().ok();
    fs::read(two.asks.folder().join(program)).unwrap()
}

fn local(view: &Value, n: usize) -> SocketAddr {
    view["ports"][n]["local"].as_str().unwrap().parse().unwrap()
}

#[test]
fn ports_of_a_container_are_had_on_the_loopback_of_who_asked_without_a_network() {
    let Some(two) = two(OPEN) else { return };
    two.engine.import("web:1", &[("echo", &echo(&two))]);
    two.engine.save("web:1", &two.asks.folder().join("web.tar"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:8080", taken.local_addr().unwrap().port());
    let _ = two.container(["run", "-p", &port, "web.tar"]).run().failed(5, &["IPDC-5823"]);

    let serve = "/echo & mkdir /tmp/www; head -c 3000000 /dev/zero > /tmp/www/zeros; \
                 exec httpd -f -p 127.0.0.1:8080 -h /tmp/www";
    let id = two.run(["-p", "8080", "-p", "5353/udp", "web.tar", "sh", "-c", serve]);
    let view = two.seen(&two.asks, &id).unwrap();
    let get = |at: SocketAddr| {
        let mut connection = TcpStream::connect(at).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        connection.write_all(b"GET /zeros HTTP/1.0\r\n\r\n").unwrap();
        let mut page = Vec::new();
        // One that finds nobody there is closed.
        let _ = connection.read_to_end(&mut page);
        page.len()
    };
    let at = local(&view, 0);
    assert!(at.ip().is_loopback());
    eventually(SOON, "the page is there", || (get(at) > 3_000_000).then_some(()));
    let many: Vec<_> = (0..20).map(|_| std::thread::spawn(move || get(at))).collect();
    assert!(many.into_iter().all(|one| one.join().unwrap() > 3_000_000));

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect(local(&view, 1)).unwrap();
    eventually(SOON, "a datagram comes back", || {
        socket.send(b"hello").unwrap();
        let mut room = [0; 64];
        let back = socket.recv(&mut room).ok()?;
        (room[..back] == *b"hello").then_some(())
    });

    // Later, and where nobody listens.
    let view = two.container(["port", &id, "9999", "--json"]).run().ok().json();
    assert_eq!(view["ports"].as_array().unwrap().len(), 3);
    assert_eq!(get(local(&view, 2)), 0);
    let _ = two.container(["rm", &id]).run().ok();
    eventually(SOON, "nobody listens any more", || TcpStream::connect(at).is_err().then_some(()));
}

#[test]
fn only_its_owner_and_the_user_of_its_node_touch_a_container() {
    let Some(two) = two(OPEN) else { return };
    let invite = two.asks.cli(["invite", "--owner", "bob", "--quiet"]).run().ok();
    let mut bob = Node::joined(invite.text().trim());
    bob.start();
    bob.wait_peers(2);
    let id = two.run(["base.tar", WAITS[0], WAITS[1]]);

    assert_eq!(two.seen(&bob, &id), None, "bob does not know of it");
    for (what, args) in [("exec", &["true"][..]), ("logs", &[]), ("rm", &[]), ("port", &["80"])] {
        let ran = bob.cli(["container", what, &id]).args(args).run();
        let _ = ran.failed(4, &["IPDC-5811"]);
    }
    assert!(two.seen(&two.asks, &id).is_some());
    // Who lends the machine sees what runs on it.
    let seen = two.seen(&two.runs, &id).unwrap();
    assert_eq!(seen["renter"], two.asks.peer_id());
    let _ = two.runs.cli(["stop"]).run().failed(5, &["IPDC-1621", "containers by hand: 1"]);
    assert_eq!(two.runs.cli(["container", "exec", &id, "echo", "mine"]).run().ok().text(), "mine");
    let _ = two.runs.cli(["container", "rm", &id]).run().ok();
    assert_eq!(two.seen(&two.asks, &id), None);
    two.wait_no_containers();
}

#[test]
fn a_node_runs_containers_by_hand_only_for_whom_it_names_and_as_many_as_it_says() {
    let Some(engine) = Engine::start() else { return };
    let mut node = Node::first();
    let socket = engine.socket();
    node.configure(&format!("[containers]\nengine = {socket:?}\n"));
    node.start();
    let run = |node: &Node, more: &[&str]| -> Ran {
        let command = node.cli(["container", "run", "--detach"]);
        command.args(more).args(["base:1", WAITS[0], WAITS[1]]).run()
    };
    let me = node.peer_id();
    let _ = run(&node, &[]).failed(1, &["IPDC-5815", "without the container runtime"]);
    let _ = run(&node, &["--on", &me]).failed(5, &["IPDC-5415"]);
    node.stop();
    node.configure(&format!(
        "[containers]\nengine = {socket:?}\n[policy.owners.owner]\nruntimes = [\"container\"]\n\
         containers = 1\ncontainer_time = \"2h\"\n"
    ));
    node.start();
    let _ = run(&node, &["--for", "3h", "--on", &me]).failed(5, &["IPDC-5416"]);
    let _ = run(&node, &["--root", "--on", &me]).failed(5, &["IPDC-5422"]);
    let _ = run(&node, &["--network", "--on", &me]).failed(5, &["IPDC-5421"]);
    let _ = run(&node, &["--memory", "1TiB", "--on", &me]).failed(5, &["IPDC-5416"]);
    let _ = run(&node, &["--gpu"]).failed(1, &["IPDC-5815", "without a GPU"]);
    let _ = run(&node, &["--cpus", "99999"]).failed(2, &["IPDC-5816"]);
    let first = run(&node, &[]).ok().text().trim().to_owned();
    let _ = run(&node, &["--on", &me]).failed(5, &["IPDC-5420", "1 containers by hand here"]);
    let _ =
        node.cli(["container", "extend", &first, "--for", "3h"]).run().failed(5, &["IPDC-5416"]);
    let _ = node.cli(["container", "rm", &first]).run().ok();
    let _ = run(&node, &["--on", &me]).ok();
    let refused = node.cli(["audit", "--json"]).run().ok().json();
    let is_refusal = |entry: &&Value| entry["what"] == "refused";
    assert!(refused.as_array().unwrap().iter().filter(is_refusal).count() > 3, "{refused}");
}

#[test]
fn a_container_ends_with_its_time_its_memory_its_disk_and_its_node() {
    let Some(mut two) = two("container_root = true\n") else { return };
    let timed = two.run(["--for", "2s", "base.tar", WAITS[0], WAITS[1]]);
    let ended = two.wait_ended(&timed);
    assert_eq!(ended["why"], "its time was over");
    let fill = "head -c 100000000 /dev/zero > /dev/shm/x";
    let large = two.run(["--memory", "32MiB", "base.tar", "sh", "-c", fill]);
    let ended = two.wait_ended(&large);
    let is_memory = ended["why"].as_str().is_some_and(|why| why.contains("32 MiB of memory"));
    // The shell may be told of it, or be what is ended.
    assert!(is_memory || ended["exit"] != 0, "{ended}");

    let write = "id -u; head -c 30000000 /dev/zero > /etc/zeros; sleep 1000";
    let wrote = two.run(["--root", "--disk", "10MiB", "base.tar", "sh", "-c", write]);
    let ended = two.wait_ended(&wrote);
    assert_eq!(ended["why"], "it wrote more than 10 MiB into its file system");
    assert_eq!(two.container(["logs", &wrote]).run().failed(1, &["IPDC-1644"]).text(), "0");
    two.wait_no_containers();

    let _ = two.run(["base.tar", WAITS[0], WAITS[1]]);
    assert_eq!(two.engine.containers().len(), 1);
    two.runs.kill();
    two.wait_no_containers();

    two.runs.start();
    two.asks.wait_peers(1);
    two.wait_engine();
    let watched = two.container(["run", "base.tar", WAITS[0], WAITS[1]]).start();
    eventually(SOON, "it runs", || (two.engine.containers().len() == 1).then_some(()));
    eventually(SOON, "it is watched", || watched.stderr().contains("runs on").then_some(()));
    watched.signal(Signal::INT);
    let _ = watched.wait(SOON).failed(130, &[]);
    two.wait_no_containers();
    let _ = two.run(["base.tar", WAITS[0], WAITS[1]]);
    two.runs.stop();
    assert!(two.engine.containers().is_empty());
}

#[test]
fn containers_of_a_group_are_listed_asked_and_ended_together() {
    let Some(two) = two(OPEN) else { return };
    let names = ["web", "web", "db"];
    let ids = names.map(|group| two.run(["--group", group, "base.tar", WAITS[0], WAITS[1]]));
    let listed = two.container(["ls", "--group", "web", "--quiet"]).run().ok();
    let mut listed: Vec<_> = listed.text().lines().map(str::to_owned).collect();
    listed.sort();
    let mut expected = ids[..2].to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    let said = two.container(["exec", "--group", "web", "echo", "hello"]).run().ok();
    for id in &expected {
        assert!(said.text().contains(&format!("{id} hello")), "{said}");
    }
    let _ = two.container(["exec", "--group", "web", "sh", "-c", "exit 9"]).run().failed(9, &[]);
    let _ = two.container(["rm", "--group", "web"]).run().ok();
    let left = two.container(["ls", "--quiet"]).run().ok();
    assert_eq!(left.text().trim(), ids[2]);
    let _ = two.container(["rm", "--group", "web"]).run().failed(4, &["IPDC-1645"]);
}

#[test]
fn images_are_kept_by_name_and_run_anywhere_by_cid() {
    let Some(two) = two(OPEN) else { return };
    let cid = two.runs.cli(["images", "add", "base:1"]).run().ok().text().trim().to_owned();
    let image = |node: &Node| {
        let images = node.cli(["images", "--json"]).run().ok().json();
        images.as_array().unwrap().iter().find(|image| image["cid"] == cid.as_str()).cloned()
    };
    let known = image(&two.runs).unwrap();
    assert_eq!((&known["names"][0], &known["kept"]), (&"base:1".into(), &true.into()));
    let ran = two.container(["run", &cid, "echo", "by CID"]).run().ok();
    assert_eq!(ran.text(), "by CID");
    assert!(image(&two.runs).unwrap()["loaded"].as_u64().unwrap() > 1_000_000);
    let _ = two.asks.cli(["images", "add", "base:1"]).run().failed(2, &["IPDC-5817", "no engine"]);
    let _ = two.runs.cli(["images", "rm", &cid]).run().ok();
    assert_eq!(image(&two.runs), None);
    let wrong = two.asks.folder().join("wrong.tar");
    fs::write(&wrong, "no image").unwrap();
    let _ = two.container(["run", "wrong.tar"]).run().failed(2, &["IPDC-5817"]);
}

#[test]
fn who_has_the_key_gets_in_by_ssh_and_nobody_else() {
    let Some(two) = two(OPEN) else { return };
    for name in ["mine", "other"] {
        let made = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", name]);
        let _ = made.dir(two.asks.folder()).run().ok();
    }
    let _ = two.container(["run", "--ssh-key", "mine", "base.tar"]).run().failed(2, &[".pub"]);
    // Without a command it stays.
    let id = two.run(["--ssh-key", "mine.pub", "base.tar"]);
    let view = two.seen(&two.asks, &id).unwrap();
    let at: SocketAddr = view["ssh"][0].as_str().unwrap().parse().unwrap();
    let ssh = |key: &str| {
        let options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no"];
        let options = options.iter().flat_map(|option| ["-o", option]);
        let port = at.port().to_string();
        let ssh = Program::new("ssh").args(["-F", "none", "-p", &port, "-i", key]).args(options);
        let known = two.asks.folder().join("known_hosts");
        ssh.args(["-o", &format!("UserKnownHostsFile={}", known.display())])
            .dir(two.asks.folder())
            .within(SOON)
    };
    let ran = ssh("mine").args(["me@127.0.0.1", "echo out; echo err >&2; id -u; exit 5"]).run();
    let ran = ran.failed(5, &["err"]);
    assert!(ran.text().starts_with("out\n") && !ran.text().ends_with("\n0"), "{ran}");
    let piped =
        ssh("mine").args(["me@127.0.0.1", "tr a-z A-Z"]).stdin("hello\n".repeat(50_000)).run();
    assert_eq!(piped.ok().text().lines().filter(|line| *line == "HELLO").count(), 50_000);
    let shell = ssh("mine").args(["-tt", "me@127.0.0.1"]).stdin("tty; exit\n").run().ok();
    assert!(shell.text().contains("/dev/pts/"), "{shell}");
    let _ = ssh("other").args(["me@127.0.0.1", "true"]).run().failed(255, &["Permission denied"]);
    let _ = two.container(["rm", &id]).run().ok();
    let _ = ssh("mine").args(["me@127.0.0.1", "true"]).run().failed(255, &[]);
}

#[test]
fn the_containers_of_who_is_cut_off_end() {
    let Some(two) = two(OPEN) else { return };
    let invite = two.asks.cli(["invite", "--owner", "bob", "--quiet"]).run().ok();
    let mut bob = Node::joined(invite.text().trim());
    bob.start();
    bob.wait_peers(2);
    fs::copy(two.asks.folder().join("base.tar"), bob.folder().join("base.tar")).unwrap();
    let run = bob.cli(["container", "run", "--detach", "base.tar", WAITS[0], WAITS[1]]);
    let id = run.run().ok().text().trim().to_owned();
    assert_eq!(two.seen(&two.runs, &id).unwrap()["owner"], "bob");
    let _ = two.asks.cli(["revoke", "bob"]).run().ok();
    eventually(SOON, "it has ended", || {
        two.seen(&two.runs, &id).filter(|view| view["state"] == "ended")
    });
    two.wait_no_containers();
}

#[test]
fn a_container_ends_with_its_engine_and_nothing_of_it_is_left_when_that_is_back() {
    let Some(mut two) = two(OPEN) else { return };
    let id = two.run(["base.tar", WAITS[0], WAITS[1]]);
    two.engine.kill();
    let ended = two.wait_ended(&id);
    assert!(ended["why"].as_str().unwrap().contains("container engine"), "{ended}");
    let _ = two.container(["exec", &id, "true"]).run().failed(5, &["IPDC-5820"]);
    let _ = two.container(["run", "base.tar", "true"]).run().failed(1, &["IPDC-5815"]);
    two.engine.run();
    two.wait_no_containers();
    two.wait_engine();
    assert_eq!(two.container(["run", "base.tar", "echo", "again"]).run().ok().text(), "again");
}
