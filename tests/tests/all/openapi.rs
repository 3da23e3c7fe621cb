//! The description of the HTTP API is true: each of its operations is called on a real node, and what
//! comes back is what it says.

use std::collections::BTreeSet;

use ipdc_tests::api::{Answer, Api};
use ipdc_tests::job::{guest, words_wat};
use ipdc_tests::{Node, SOON};
use serde_json::{Value, json};

/// A peer that is nowhere.
const GUEST: &str = "12D3KooWJGr8wkETQzTQ2xBGLLz1HvhJDSdqrxNwLeQViKyycZME";

/// What is wrong with `value`, which should be as `schema` of `description` says.
fn wrong(description: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = description.pointer(name.trim_start_matches('#'));
        let target = target.unwrap_or_else(|| panic!("{name} is not there"));
        return wrong(description, target, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let each = any.iter().map(|schema| wrong(description, schema, value, at));
        return each.min_by_key(Vec::len).unwrap_or_default();
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Vec::new(),
    };
    let is = |name: &&str| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("what is a {other}?"),
    };
    if !types.iter().any(is) {
        return vec![format!("{at} is {value}, no {types:?}")];
    }
    let mut found = Vec::new();
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        found.push(format!("{at} is {value}, none of {}", schema["enum"]));
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(wrong(description, &schema["items"], item, &format!("{at}[{n}]")));
    }
    let properties = &schema["properties"];
    for (name, field) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (properties.get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => found.extend(wrong(description, schema, field, &at)),
            (None, Value::Bool(true)) => {}
            (None, other @ Value::Object(_)) => {
                found.extend(wrong(description, other, field, &at));
            }
            (None, _) => found.push(format!("{at} is not described")),
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing = required.filter(|name| value.get(name).is_none());
    found.extend(missing.map(|name| format!("{at}.{name} is missing")));
    found
}

/// Calls what is described, and checks each answer against it.
struct Caller {
    api: Api,
    description: Value,
    called: BTreeSet<(String, &'static str)>,
}

impl Caller {
    /// Calls `method` of the path `template`, with its parameters filled in as `path`.
    fn call(
        &mut self,
        (method, template): (&'static str, &str),
        path: &str,
        body: &Value,
        expected: u16,
    ) -> Answer {
        let verb = method.to_uppercase();
        let answer = match body {
            Value::Null => self.api.call_at(&verb, path, &[], ()),
            Value::String(bytes) => self.api.call_at(&verb, path, &[], bytes.as_bytes()),
            body => {
                let json = [("content-type", "application/json")];
                self.api.call_at(&verb, path, &json, body.to_string())
            }
        };
        let answer = answer.unwrap_or_else(|error| panic!("{verb} {path}: {error}"));
        self.check((method, template), path, &answer, expected);
        answer
    }

    /// Checks an answer.
    fn check(
        &mut self,
        (method, template): (&'static str, &str),
        path: &str,
        answer: &Answer,
        expected: u16,
    ) {
        let verb = method.to_uppercase();
        assert_eq!(answer.status, expected, "{verb} {path}: {answer:?}");
        let operation = &self.description["paths"][template][method];
        assert!(operation.is_object(), "{verb} {template} is not described");
        let described = operation["responses"].get(expected.to_string());
        let described = described.unwrap_or(&self.description["components"]["responses"]["Error"]);
        if let Some(json) = described["content"].get("application/json") {
            let found = wrong(&self.description, &json["schema"], &answer.json(), "answer");
            assert!(found.is_empty(), "{verb} {path}: {found:#?}\n{:#}", answer.json());
        }
        self.called.insert((template.to_owned(), method));
    }
}

#[test]
fn every_operation_that_is_described_answers_as_described() {
    let mut node = Node::first();
    node.start();
    let api = node.api();
    let description = api.call_at("GET", "/openapi.json", &[], ()).unwrap().ok();
    let mut caller = Caller { api, description, called: BTreeSet::new() };
    let none = Value::Null;
    let empty = json!({});

    caller.call(("get", "/openapi.json"), "/openapi.json", &none, 200);
    for path in ["/v1/status", "/v1/peers", "/v1/pins", "/v1/du", "/v1/jobs"] {
        caller.call(("get", path), path, &none, 200);
    }
    let bytes = json!("one two\ntwo\n");
    let added = caller.call(("post", "/v1/files"), "/v1/files?pin=false", &bytes, 200).ok();
    let file = added["cid"].as_str().unwrap();
    let dir = json!({ "entries": [{ "path": "a/b.txt", "cid": file, "size": added["size"] }] });
    let dir = caller.call(("post", "/v1/dirs"), "/v1/dirs", &dir, 200).ok();
    let dir = dir["cid"].as_str().unwrap();
    caller.call(("get", "/v1/ls/{path}"), &format!("/v1/ls/{dir}/a"), &none, 200);
    let whole = format!("/v1/cat/{dir}/a/b.txt");
    assert_eq!(caller.call(("get", "/v1/cat/{path}"), &whole, &none, 200).body, b"one two\ntwo\n");
    let car = caller.call(("get", "/v1/car/{path}"), &format!("/v1/car/{file}"), &none, 200).body;
    let imported = caller.api.call_at("POST", "/v1/cars?pin=false", &[], &car[..]).unwrap();
    caller.check(("post", "/v1/cars"), "/v1/cars", &imported, 200);
    caller.call(("post", "/v1/cars"), "/v1/cars", &json!("no CAR"), 400);
    let pin = format!("/v1/pins/{file}");
    caller.call(("put", "/v1/pins/{cid}"), &pin, &none, 200);
    caller.call(("get", "/v1/pins"), "/v1/pins", &none, 200);
    caller.call(("delete", "/v1/pins/{cid}"), &pin, &none, 200);
    let (one, python) = ("/v1/interpreters/{runtime}", "/v1/interpreters/python");
    caller.call(("put", one), python, &json!({ "cid": file }), 400);
    caller.call(("get", "/v1/interpreters"), "/v1/interpreters", &none, 200);
    caller.call(("delete", one), python, &none, 404);
    caller.call(("post", "/v1/gc"), "/v1/gc", &empty, 200);

    let toml = "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\npartitions = 1\ninput = \"input.txt\"\n";
    let files = json!({ "job.toml": toml, "words.wat": words_wat(0), "input.txt": "b a\nb\n" });
    let submission = json!({ "kind": "mr", "files": files, "key": "described" });
    let accepted = caller.call(("post", "/v1/jobs"), "/v1/jobs", &submission, 202).ok();
    let job = accepted["job"].as_str().unwrap();
    let path = format!("/v1/jobs/{job}");
    caller.call(("get", "/v1/jobs/{id}"), &format!("{path}?since=0&wait_s=1"), &none, 200);
    let task = format!("{path}/tasks/0");
    let _ = node.job_done(job);
    caller.call(("get", "/v1/jobs/{id}"), &path, &none, 200);
    caller.call(("get", "/v1/jobs"), "/v1/jobs", &none, 200);
    caller.call(("get", "/v1/jobs/{id}/logs"), &format!("{path}/logs"), &none, 200);
    caller.call(("get", "/v1/jobs/{id}/logs"), &format!("{path}/logs?task=0"), &none, 200);
    caller.call(("get", "/v1/jobs/{id}/tasks/{task}"), &task, &none, 200);
    caller.call(("post", "/v1/jobs/{id}/cancel"), &format!("{path}/cancel"), &empty, 200);
    caller.call(("get", "/v1/jobs/{id}/items"), &format!("{path}/items"), &none, 404);

    let toml = "kind = \"cl\"\nrun = \"echo.wat\"\nopen = true\n";
    let files = json!({ "job.toml": toml, "echo.wat": guest("echo.wat") });
    let submission = json!({ "kind": "cl", "files": files });
    let accepted = caller.call(("post", "/v1/jobs"), "/v1/jobs", &submission, 202).ok();
    let job = accepted["job"].as_str().unwrap();
    let path = format!("/v1/jobs/{job}");
    let _ = node.job_until(job, "it is open", |view| view["items"].is_object());
    let items = format!("{path}/items");
    caller.call(("post", "/v1/jobs/{id}/items"), &items, &json!(["one", { "x": 2 }]), 200);
    caller.call(("post", "/v1/jobs/{id}/items"), &items, &json!([""]), 409);
    let cancel = (format!("{items}/cancel"), json!({ "items": [99] }));
    caller.call(("post", "/v1/jobs/{id}/items/cancel"), &cancel.0, &cancel.1, 200);
    let (keep, files) = (("post", "/v1/jobs/{id}/files"), format!("{path}/files"));
    caller.call(keep, &files, &json!({ "files": [file] }), 200);
    caller.call(("post", "/v1/jobs/{id}/close"), &format!("{path}/close"), &empty, 200);
    let _ = node.job_done(job);
    caller.call(keep, &files, &json!({ "files": [file] }), 409);
    let lines = caller.call(("get", "/v1/jobs/{id}/items"), &items, &none, 200).body;
    let lines: Vec<Value> = String::from_utf8(lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let item = caller.description["components"]["schemas"]["Item"].clone();
    for line in &lines {
        assert_eq!(wrong(&caller.description, &item, line, "item"), [""; 0], "{line}");
    }
    caller.call(("get", "/v1/jobs/{id}"), &path, &none, 200);

    let step = "kind = \"cl\"\nrun = \"echo.wat\"\n";
    let toml = format!(
        "[[step]]\nname = \"a\"\n{step}items = \"0..2\"\n[[step]]\nname = \"b\"\n{step}\
         [[step]]\nname = \"c\"\n{step}items = {{ step = \"a\", path = \"gone\" }}\n"
    );
    let files = json!({ "job.toml": toml, "echo.wat": guest("echo.wat") });
    for _ in 0..2 {
        let submission = json!({ "files": files });
        let accepted = caller.call(("post", "/v1/jobs"), "/v1/jobs", &submission, 202).ok();
        let job = accepted["job"].as_str().unwrap();
        let first = node.job_until(job, "what follows", |view| view["next"].is_string());
        let second = node.job_done(first["next"].as_str().unwrap());
        assert_eq!(second["stopped"]["code"], "IPDC-5620");
        for view in [&first, &second] {
            let path = format!("/v1/jobs/{}", view["job"].as_str().unwrap());
            caller.call(("get", "/v1/jobs/{id}"), &path, &none, 200);
        }
    }

    caller.call(("post", "/v1/pause"), "/v1/pause", &empty, 200);
    caller.call(("post", "/v1/resume"), "/v1/resume", &empty, 200);
    // Without an engine: none of it is there, and that is answered as described.
    caller.call(("get", "/v1/containers"), "/v1/containers?group=web", &none, 200);
    let request = json!({ "image": file, "ports": [{ "port": 80 }], "env": { "A": "b" } });
    let said = caller.call(("post", "/v1/containers"), "/v1/containers", &request, 200);
    let last = String::from_utf8(said.body).unwrap();
    let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "IPDC-5815");
    let nobody = "/v1/containers/0123456789abcdef";
    caller.call(("delete", "/v1/containers/{id}"), nobody, &none, 404);
    for (what, method, body) in [
        ("extend", "post", json!({ "time_s": 60 })),
        ("logs", "get", none.clone()),
        ("ports", "post", json!({ "ports": [{ "port": 80, "carries": "udp" }] })),
    ] {
        let template = format!("/v1/containers/{{id}}/{what}");
        caller.call((method, &template), &format!("{nobody}/{what}"), &body, 404);
    }
    let exec = "/v1/containers/{id}/exec";
    let command = json!({ "command": ["true"] });
    caller.call(("post", exec), &format!("{nobody}/exec"), &command, 400);
    caller.call(("get", "/v1/images"), "/v1/images", &none, 200);
    caller.call(("post", "/v1/images"), "/v1/images", &json!({ "name": "nobody:1" }), 400);
    caller.call(("delete", "/v1/images/{cid}"), &format!("/v1/images/{file}"), &none, 200);

    let invite = json!({ "ttl_s": 60, "uses": 1, "owner": "alice" });
    let invite = caller.call(("post", "/v1/invites"), "/v1/invites", &invite, 200).ok();
    let mut member = Node::joined(invite["token"].as_str().unwrap());
    let peer = member.start().peer_id();
    node.wait_peers(1);
    caller.call(("get", "/v1/peers"), "/v1/peers", &none, 200);
    caller.call(("get", "/v1/admissions"), "/v1/admissions", &none, 200);
    let delegate = json!({ "peer_id": peer });
    caller.call(("post", "/v1/delegates"), "/v1/delegates", &delegate, 200);
    let guest = json!({ "peer_id": GUEST, "ttl_s": 60 });
    caller.call(("post", "/v1/guests"), "/v1/guests", &guest, 200);
    caller.call(("post", "/v1/rekey"), "/v1/rekey", &empty, 200);
    let revocation = json!({ "peer_id": peer });
    caller.call(("post", "/v1/revocations"), "/v1/revocations", &revocation, 200);
    caller.call(("get", "/v1/admissions"), "/v1/admissions", &none, 200);
    caller.call(("get", "/v1/audit"), "/v1/audit?since_s=3600", &none, 200);
    caller.call(("get", "/v1/status"), "/v1/status", &none, 200);

    // What is wrong is answered as described too.
    caller.call(("get", "/v1/jobs/{id}"), "/v1/jobs/zzzzzzzzzzzzzzzz", &none, 404);
    caller.call(("get", "/v1/ls/{path}"), "/v1/ls/nonsense", &none, 400);
    caller.call(("post", "/v1/jobs"), "/v1/jobs", &json!({ "kind": 7 }), 400);

    caller.call(("post", "/v1/stop"), "/v1/stop", &json!({ "force": true }), 200);
    let _ = node.take_process().wait(SOON).ok();
    let paths = caller.description["paths"].as_object().unwrap();
    let described = paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(move |method| (path.as_str(), method.as_str()))
    });
    let called =
        |(path, method): &(&str, &str)| caller.called.iter().any(|(p, m)| p == path && m == method);
    let idle: Vec<_> = described.filter(|operation| !called(operation)).collect();
    assert!(idle.is_empty(), "described and not tried here: {idle:?}");
}

#[test]
fn what_the_description_says_no_one_is_told_without_the_token() {
    let mut node = Node::first();
    let status = node.start().status();
    let api = node.api();
    let description = api.call_at("GET", "/openapi.json", &[], ()).unwrap().ok();
    let stranger = Api::new(status["http"].as_str().unwrap(), "guess");
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let answer = stranger.call_at(&method.to_uppercase(), path, &[], ()).unwrap();
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
            assert_eq!(answer.json()["error"]["code"], "IPDC-7003");
        }
    }
}
