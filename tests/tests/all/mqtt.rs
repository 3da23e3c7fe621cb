//! Jobs from any MQTT client: `mosquitto_pub`, `mosquitto_sub` and paho-mqtt, as `docs/mqtt.md` shows.

use std::time::Duration;

use ipdc_tests::job::{guest, many_splits, words_wat};
use ipdc_tests::{JobDir, Node, Program, Ran, Running, SOON, eventually, root};
use serde_json::{Value, json};

const TOML: &str =
    "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\npartitions = 1\n";

/// A node's MQTT listener, and the word for it.
struct Mqtt {
    port: String,
    password: String,
}

impl Mqtt {
    fn of(node: &Node) -> Self {
        let address = node.status()["mqtt"].as_str().unwrap().to_owned();
        let password = std::fs::read_to_string(node.home().join("mqtt.password")).unwrap();
        Mqtt { port: address.rsplit(':').next().unwrap().into(), password: password.trim().into() }
    }

    fn client(&self, program: &str) -> Program {
        let to = ["-V", "mqttv5", "-h", "127.0.0.1", "-p", &self.port];
        Program::new(program).args(to).args(["-u", "ipdc", "-P", &self.password, "-q", "1"])
    }

    fn publish(&self, topic: &str, message: &str) -> Ran {
        self.client("mosquitto_pub").args(["-t", topic, "-s"]).stdin(message).run()
    }

    /// A subscriber that prints a message a line.
    fn subscribe(&self, topic: &str) -> Running {
        self.client("mosquitto_sub").args(["-t", topic]).start()
    }

    /// The first message on `topic` that is as `wanted`; retained ones come at once.
    fn until(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let subscriber = self.subscribe(topic);
        let bound = ipdc_tests::JOB;
        eventually(bound, format!("a message on {topic}\n{subscriber}"), || {
            let heard = subscriber.stdout();
            heard
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(|message| wanted(message))
        })
    }

    /// Submits with this key; gives what the submissions' topic retains for it.
    fn submit(&self, key: &str, mut submission: Value) -> Value {
        submission["key"] = key.into();
        let _ = self.publish("ipdc/v1/jobs/submit", &submission.to_string()).ok();
        self.until(&format!("ipdc/v1/submissions/{key}"), |_| true)
    }
}

#[test]
fn a_job_is_submitted_by_cid_and_followed_to_its_result() {
    let mut node = Node::first();
    node.start();
    let (input, expected) = many_splits(node.folder(), 3);
    let (job, input) = (node.add(JobDir::words(0, 1).path()), node.add(&input));
    let mqtt = Mqtt::of(&node);
    let accepted = mqtt.submit("by-cid", json!({ "kind": "mr", "job": job, "input": input }));
    let job = accepted["job"].as_str().unwrap_or_else(|| panic!("not accepted: {accepted:#}"));
    let done = mqtt.until(&format!("ipdc/v1/jobs/{job}"), |message| message["state"] == "done");
    assert!(done["result"].as_str().unwrap().starts_with("baf"), "{done:#}");
    node.assert_counts(job, &expected);
}

#[test]
fn a_small_job_is_submitted_whole_in_the_message() {
    let mut node = Node::first();
    node.start();
    let mqtt = Mqtt::of(&node);
    let toml = format!("{TOML}input = \"input.txt\"\n");
    let files = json!({ "job.toml": toml, "words.wat": words_wat(0), "input.txt": "b a\nb\n" });
    let accepted = mqtt.submit("inline", json!({ "kind": "mr", "files": files }));
    let job = accepted["job"].as_str().unwrap_or_else(|| panic!("not accepted: {accepted:#}"));
    let _ = mqtt.until(&format!("ipdc/v1/jobs/{job}"), |message| message["state"] == "done");
    node.assert_counts(job, b"a\t1\nb\t2\n");
}

#[test]
fn a_job_is_cancelled_by_a_message() {
    let mut node = Node::first();
    node.start();
    let mqtt = Mqtt::of(&node);
    let toml = "kind = \"mr\"\ninput = \"input.txt\"\nmap = \"forever.wat\"\nreduce = \"sum\"\npartitions = 1\n";
    let files =
        json!({ "job.toml": toml, "forever.wat": guest("forever.wat"), "input.txt": "b a\nb\n" });
    let accepted = mqtt.submit("for ever", json!({ "kind": "mr", "files": files }));
    let job = accepted["job"].as_str().unwrap_or_else(|| panic!("not accepted: {accepted:#}"));
    let topic = format!("ipdc/v1/jobs/{job}");
    let _ = mqtt.until(&topic, |message| message["state"] == "running");
    let _ = mqtt.publish(&format!("{topic}/cancel"), "{}").ok();
    let _ = mqtt.until(&topic, |message| message["state"] == "cancelled");
}

#[test]
fn a_wrong_password_is_refused() {
    let mut node = Node::first();
    node.start();
    let mut mqtt = Mqtt::of(&node);
    let right = std::mem::replace(&mut mqtt.password, "guess".into());
    let ran = mqtt.publish("ipdc/v1/jobs/submit", "{}");
    assert!(!ran.status.success(), "{ran}");
    let _ = ran.says(&["password"]);
    let anonymous =
        Program::new("mosquitto_pub").args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &mqtt.port]);
    let ran = anonymous.args(["-t", "ipdc/v1/jobs/submit", "-m", "{}"]).run();
    assert!(!ran.status.success(), "{ran}");
    mqtt.password = right;
    let _ = mqtt.publish("a/topic/of/mine", "hello").ok();
}

#[test]
fn broken_json_is_answered_with_what_is_wrong_and_harms_nothing() {
    let mut node = Node::first();
    node.start();
    let mqtt = Mqtt::of(&node);
    for broken in ["{", "", "[]", "null", "\u{0}\u{1}", "{\"kind\": 7}"] {
        let answered = ask(&mqtt, broken);
        assert_eq!(answered["correlated"], true, "{answered:#}");
        let code = answered["payload"]["error"]["code"].as_str();
        assert!(code.is_some_and(|code| code.starts_with("IPDC-")), "`{broken}`: {answered:#}");
    }
    let refused = mqtt.submit("refused", json!({ "kind": "nokind", "files": {} }));
    assert!(refused["error"]["message"].is_string(), "{refused:#}");
    assert_eq!(node.api().get("/jobs").ok(), json!([]));
}

/// Submits by paho-mqtt, with a response topic and correlation data.
fn ask(mqtt: &Mqtt, submission: &str) -> Value {
    let python = root().join("target/venv/bin/python");
    assert!(python.exists(), "{} is not there: `make setup-paho` makes it", python.display());
    let script = root().join("tests/mqtt/submit.py");
    // An argument holds no NUL.
    let submission = submission.replace('\0', "\u{2}");
    let asked = Program::new(python).arg(script).args([&mqtt.port, &mqtt.password, &submission]);
    asked.within(SOON * 2).run().ok().json()
}

#[test]
fn paho_gets_the_answer_on_its_response_topic_with_its_correlation_data() {
    let mut node = Node::first();
    node.start();
    let mqtt = Mqtt::of(&node);
    let toml = format!("{TOML}input = \"input.txt\"\n");
    let files = json!({ "job.toml": toml, "words.wat": words_wat(0), "input.txt": "b a\nb\n" });
    let answered = ask(&mqtt, &json!({ "kind": "mr", "files": files }).to_string());
    assert_eq!(answered["correlated"], true);
    let job =
        answered["payload"]["job"].as_str().unwrap_or_else(|| panic!("not accepted: {answered:#}"));
    let _ = node.job_done(job);
}

#[test]
fn presence_is_retained_and_says_when_a_node_leaves() {
    let mut node = Node::first();
    let id = node.start().peer_id();
    let mqtt = Mqtt::of(&node);
    let presence = mqtt.until(&format!("ipdc/v1/node/{id}"), |_| true);
    assert!(presence.is_object(), "{presence}");
}

#[test]
fn old_clients_are_served_too() {
    let mut node = Node::first();
    node.start();
    let mqtt = Mqtt::of(&node);
    for version in ["mqttv311", "mqttv5"] {
        let to = [
            "-V",
            version,
            "-h",
            "127.0.0.1",
            "-p",
            &mqtt.port,
            "-u",
            "ipdc",
            "-P",
            &mqtt.password,
        ];
        let subscriber = Program::new("mosquitto_sub")
            .args(to)
            .args(["-t", "mine", "-C", "1", "-W", "30"])
            .start();
        eventually(SOON, "the message is heard", || {
            let _ = Program::new("mosquitto_pub")
                .args(to)
                .args(["-t", "mine", "-m", "hello"])
                .run()
                .ok();
            subscriber.stdout().contains("hello").then_some(())
        });
        let _ = subscriber.wait(Duration::from_secs(30)).ok();
    }
}
