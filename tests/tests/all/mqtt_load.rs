//! What crowds and slow clients leave behind in a node: nothing. Memory and file descriptors of the
//! process, before and after.

use std::time::{Duration, Instant};

use ipdc_tests::mqtt::{Connect, Message, Mqtt};
use ipdc_tests::{Node, SOON, eventually};

const MIB: u64 = 1 << 20;

fn node() -> (Node, String) {
    let mut node = Node::first();
    node.configure("[mqtt]\nanonymous = true\n");
    node.start();
    let address = Mqtt::address(&node);
    (node, address)
}

/// Waits until the node has no more descriptors than `before`, but for a few of its own.
fn assert_closed(node: &Node, before: usize) {
    eventually(SOON, format!("connections are closed; there were {before}"), || {
        (node.descriptors() <= before + 3).then_some(())
    });
}

/// Connects and leaves so many times, in each of the ways in which that is done.
fn come_and_go(address: &str, times: usize) {
    for n in 0..times {
        let version = if n % 2 == 0 { 4 } else { 5 };
        let id = if n % 4 < 2 { "same".to_owned() } else { format!("client-{n}") };
        let will = (n % 3 == 0).then(|| ("wills/x".to_owned(), "gone".to_owned(), Vec::new()));
        let mut client = Mqtt::connect(address, &Connect { will, ..Connect::new(version, &id) });
        if n % 5 == 0 {
            client.subscribe(&format!("a/{n}/+"), 1);
        }
        if n % 7 != 0 {
            client.disconnect();
        }
    }
}

#[test]
fn ten_thousand_that_come_and_go_leave_nothing_behind() {
    let (node, address) = node();
    come_and_go(&address, 2_000);
    let (memory_before, descriptors_before) = (node.memory("VmRSS"), node.descriptors());
    let since = Instant::now();
    come_and_go(&address, 10_000);
    let took = since.elapsed();
    assert_closed(&node, descriptors_before);
    let grown = node.memory("VmRSS").saturating_sub(memory_before);
    println!("10,000 in {took:?}; {} KiB more", grown >> 10);
    // What departed clients leave in the broker's tables is swept up once a minute.
    assert!(grown < 24 * MIB, "{} MiB more after 10,000", grown / MIB);
}

/// Retains so many messages, hears all of them, and takes them back.
fn retain(address: &str, messages: usize) {
    let mut publisher = Mqtt::connect(address, &Connect::new(5, "publisher"));
    let topic = |n: usize| format!("kept/{n:05}");
    for n in 0..messages {
        let message = Message::new(&topic(n), &"x".repeat(300), 1).retained();
        assert_eq!(publisher.publish(&message), 0, "{n}");
    }
    let mut late = Mqtt::connect(address, &Connect::new(4, "late"));
    late.subscribe("kept/#", 1);
    let heard: std::collections::BTreeSet<_> = (0..messages).map(|_| late.hear().topic).collect();
    assert_eq!(heard.len(), messages, "each once");
    late.disconnect();
    for n in 0..messages {
        assert_eq!(publisher.publish(&Message::new(&topic(n), "", 1).retained()), 0);
    }
    publisher.disconnect();
}

#[test]
fn five_thousand_retained_messages_reach_a_late_subscriber_and_leave_nothing_behind() {
    let (node, address) = node();
    retain(&address, 5_000);
    let (memory_before, descriptors_before) = (node.memory("VmRSS"), node.descriptors());
    for _ in 0..2 {
        retain(&address, 5_000);
    }
    assert_closed(&node, descriptors_before);
    let grown = node.memory("VmRSS").saturating_sub(memory_before);
    println!("{} KiB more after 10,000 retained messages more", grown >> 10);
    assert!(grown < 16 * MIB, "{} MiB more", grown / MIB);
    let mut late = Mqtt::connect(&address, &Connect::new(5, "later"));
    late.subscribe("kept/#", 1);
    late.publish(&Message::new("kept/live", "live", 1));
    assert_eq!(late.hear().text(), "live", "none is left");
}

#[test]
fn subscribers_that_never_read_hold_up_nobody_take_little_and_are_dropped() {
    let (node, address) = node();
    let (memory_before, descriptors_before) = (node.memory("VmRSS"), node.descriptors());
    let mut slow: Vec<_> = (0..20)
        .map(|n| {
            let mut client =
                Mqtt::connect(&address, &Connect::new(4 + n % 2, &format!("slow-{n}")));
            client.subscribe("flood", n % 3);
            client
        })
        .collect();
    let mut good = Mqtt::connect(&address, &Connect::new(5, "good"));
    good.subscribe("flood", 1);
    let mut publisher = Mqtt::connect(&address, &Connect::new(5, "publisher"));
    let (since, mut longest, mut most) = (Instant::now(), Duration::ZERO, 0);
    // Small messages for a few seconds, which fill the slow ones' lines, and then large ones for longer
    // than the ten seconds that the broker waits for them.
    for (kib, until) in [(2, 4), (200, 16)] {
        let payload = "x".repeat(kib << 10);
        while since.elapsed() < Duration::from_secs(until) {
            let asked = Instant::now();
            assert_eq!(publisher.publish(&Message::new("flood", &payload, 1)), 0);
            assert_eq!(good.hear().payload.len(), payload.len());
            longest = longest.max(asked.elapsed());
            most = most.max(node.memory("VmRSS"));
        }
    }
    let grown = most.saturating_sub(memory_before);
    println!("at worst {longest:?} and {} MiB more", grown / MIB);
    // Two seconds once for room in the slow ones' lines, and what a busy machine adds.
    assert!(longest < Duration::from_secs(5), "{longest:?} for one message");
    assert!(grown < 300 * MIB, "{} MiB more", grown / MIB);
    for client in &mut slow {
        assert!(client.ends_within(SOON), "a slow client is still there");
    }
    drop(slow);
    assert_closed(&node, descriptors_before + 2);
}

#[test]
fn a_node_that_asks_for_no_password_on_an_open_address_does_not_start() {
    let node = Node::first();
    node.configure("[mqtt]\nanonymous = true\nlisten = \"0.0.0.0:0\"\n");
    let mut node = node;
    node.options(&["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0"]);
    node.start_only();
    let ran = node.take_process().wait(SOON);
    let _ = ran.refused(&["IPDC-6002", "loopback"]);
}
