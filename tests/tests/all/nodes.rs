//! Homes, settings, starting, stopping, finding each other again.

use std::net::TcpListener;

use ipdc_tests::node::api;
use ipdc_tests::program::Signal;
use ipdc_tests::{JobDir, Node, Program, SOON, Swarm, eventually, ipdc};

#[test]
fn a_home_holds_what_the_documentation_says_and_its_secrets_are_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::first();
    for secret in ["swarm.key", "mqtt.password"] {
        let file = node.home().join(secret);
        let mode = std::fs::metadata(&file)
            .unwrap_or_else(|e| panic!("{secret}: {e}"))
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let key = std::fs::read_to_string(node.home().join("swarm.key")).unwrap();
    assert!(key.starts_with("/key/swarm/psk/1.0.0/\n/base16/\n"), "not in Kubo's form: {key}");
    assert!(node.home().join("ipdc.toml").exists());
}

#[test]
fn init_does_not_overwrite_a_home() {
    let node = Node::first();
    let key = std::fs::read(node.home().join("swarm.key")).unwrap();
    let _ = node.cli(["init"]).run().refused(&["home"]);
    assert_eq!(std::fs::read(node.home().join("swarm.key")).unwrap(), key);
}

#[test]
fn start_without_a_swarm_says_how_to_get_one() {
    let node = Node::new();
    let _ = node.cli(["start"]).run().refused(&["ipdc init", "ipdc join"]);
}

#[test]
fn status_says_who_and_where_the_node_is() {
    let mut node = Node::first();
    let status = node.start().status();
    assert_eq!(status["peer_id"], node.peer_id());
    assert!(status["listen"][0].as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"));
    for listener in ["mqtt", "http"] {
        let address: std::net::SocketAddr = status[listener].as_str().unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() != 0, "{listener}: {address}");
    }
    let human = node.cli(["status"]).run().ok();
    assert!(human.text().contains(&node.peer_id()), "{human}");
}

#[test]
fn status_of_a_home_whose_node_does_not_run_says_so() {
    let node = Node::first();
    let _ = node.cli(["status"]).run().refused(&["ipdc start"]);
}

#[test]
fn a_home_serves_one_node_at_a_time() {
    let mut node = Node::first();
    node.start();
    let second = node.cli(["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--mqtt", "127.0.0.1:0"]);
    let _ = second.args(["--http", "127.0.0.1:0"]).run().refused(&["home"]);
    let _ = node.status();
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let free = ["/ip4/127.0.0.1/tcp/0", "127.0.0.1:0", "127.0.0.1:0"];
    for (place, used) in [(0, listen.as_str()), (1, &address), (2, &address)] {
        let mut options = free;
        options[place] = used;
        let node = Node::first();
        let [listen, mqtt, http] = options;
        let start = node.cli(["start", "--listen", listen, "--mqtt", mqtt, "--http", http]);
        let _ = start.run().refused(&["in use", &port.to_string()]);
    }
}

#[test]
fn an_unknown_setting_is_refused_with_the_nearest_known_one() {
    for (toml, place, nearest) in [
        ("[mqtt]\nlistn = \"127.0.0.1:0\"\n", "ipdc.toml:2", "listen"),
        ("\n[mqqt]\nlisten = \"127.0.0.1:0\"\n", "ipdc.toml:2", "mqtt"),
        ("[blocks]\n\nstal = \"2s\"\n", "ipdc.toml:3", "stall"),
    ] {
        let node = Node::first();
        node.configure(toml);
        let _ = node.cli(["start"]).run().refused(&[place, nearest]);
    }
    let node = Node::first();
    node.configure("[mqtt]\nlisten = 1883\n");
    let _ = node.cli(["start"]).run().refused(&["ipdc.toml:2", "listen"]);
    node.configure("[mqtt\n");
    let _ = node.cli(["start"]).run().refused(&["ipdc.toml:1"]);
}

#[test]
fn a_flag_outranks_the_environment_and_that_the_file() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (in_file, in_environment, by_flag) = (free(), free(), free());
    let served = |node: &Node| {
        eventually(SOON, "the node serves", || api(&node.home()));
        node.status()["mqtt"].as_str().unwrap().to_owned()
    };
    let node = Node::first();
    node.configure(&format!(
        "[swarm]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[mqtt]\nlisten = \"{in_file}\"\n[http]\nlisten = \"127.0.0.1:0\"\n"
    ));

    let running = node.cli(["start"]).start();
    assert_eq!(served(&node), in_file);
    drop(running);
    let running = node.cli(["start"]).env("IPDC_MQTT_LISTEN", &in_environment).start();
    assert_eq!(served(&node), in_environment);
    drop(running);
    let running =
        node.cli(["start", "--mqtt", &by_flag]).env("IPDC_MQTT_LISTEN", &in_environment).start();
    assert_eq!(served(&node), by_flag);
    drop(running);
}

#[test]
fn the_home_is_the_flags_else_the_environments_else_the_users_data_directory() {
    let node = Node::new();
    let data = node.folder().join("data");
    let ipdc = || Program::new(ipdc()).env("XDG_DATA_HOME", &data).env("HOME", node.folder());
    let _ = ipdc().args(["init"]).run().ok();
    assert!(data.join("ipdc/swarm.key").exists());
    let by_environment = node.folder().join("environment");
    let _ = ipdc().args(["init"]).env("IPDC_HOME", &by_environment).run().ok();
    assert!(by_environment.join("swarm.key").exists());
    let by_flag = node.folder().join("flag");
    let _ =
        ipdc().arg("--home").arg(&by_flag).arg("init").env("IPDC_HOME", &by_environment).run().ok();
    assert!(by_flag.join("swarm.key").exists());
}

#[test]
fn a_detached_node_outlives_its_starter_and_stops_when_told() {
    let node = Node::first();
    let options =
        ["--listen", "/ip4/127.0.0.1/tcp/0", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let _ = node.cli(["start", "--detach"]).args(options).run().ok();
    let _ = node.status();
    let _ = node.cli(["stop"]).run().ok();
    assert!(api(&node.home()).is_none(), "it still serves");
}

#[test]
fn a_node_leaves_on_a_polite_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Node::first();
        node.start();
        let running = node.take_process();
        running.signal(signal);
        let _ = running.wait(SOON).ok();
    }
}

#[test]
fn peers_show_what_each_node_is_and_can() {
    let swarm = Swarm::of(2);
    let api = swarm[0].api();
    let other = swarm[1].peer_id();
    let peer = eventually(SOON, "the other node's facts and latency", || {
        let peers = api.get("/peers").ok();
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["peer_id"] == other)?.clone();
        (peer["facts"].is_object() && peer["latency_ms"].is_number()).then_some(peer)
    });
    assert!(peer["facts"]["cpus"].as_u64() > Some(0));
    assert!(peer["facts"]["memory"].as_u64() > peer["facts"]["memory_free"].as_u64(), "{peer:#}");
    assert!(peer["facts"]["disk_free"].as_u64() > Some(0));
    assert!(peer["facts"]["runtimes"].as_array().unwrap().contains(&"wasm".into()));
    let human = swarm[0].cli(["peers"]).run().ok();
    assert!(human.text().contains(&other[other.len() - 6..]), "{human}");
    let listed = swarm[0].cli(["peers", "--json"]).run().ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[test]
fn a_node_that_comes_back_at_another_port_is_found_again() {
    let mut swarm = Swarm::of(3);
    let before = swarm[1].status()["listen"].clone();
    swarm[1].kill();
    swarm[0].wait_peers(1);
    swarm[1].start();
    assert_ne!(before, swarm[1].status()["listen"], "port 0 picked the same port again");
    swarm.wait_connected();
}

#[test]
fn nodes_find_each_other_again_when_all_come_back_at_other_ports_but_one() {
    let mut swarm = Swarm::of(3);
    let listen = swarm[0].status()["listen"][0].as_str().unwrap().to_owned();
    let address = listen.split("/p2p/").next().unwrap().to_owned();
    for node in 0..3 {
        swarm[node].kill();
    }
    swarm[0].options(&["--listen", &address, "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    for node in [2, 1, 0] {
        swarm[node].start();
    }
    swarm.wait_connected();
}

#[test]
fn a_node_that_slept_is_missed_and_comes_back_by_itself() {
    let mut swarm = Swarm::of(3);
    // A machine that sleeps: nothing runs, its connections stand and say nothing.
    swarm[1].process().signal(Signal::STOP);
    swarm[0].wait_peers(1);
    swarm[2].wait_peers(1);
    swarm[1].process().signal(Signal::CONT);
    swarm.wait_connected();
    let text = swarm[1].folder().join("text");
    std::fs::write(&text, "a b a\n").unwrap();
    let job = swarm[1].submit(JobDir::words(0, 1).path(), text.to_str().unwrap());
    let _ = swarm[1].job_done(&job);
    swarm[1].assert_counts(&job, b"a\t2\nb\t1\n");
}
