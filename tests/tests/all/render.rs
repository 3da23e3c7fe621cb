//! Renderings: frames in containers of a real engine.

use std::fs;

use ipdc_tests::engine::next_second;
use ipdc_tests::job::rows;
use ipdc_tests::{Engine, JOB, JobDir, Node, Program, SOON, eventually, root};
use serde_json::Value;

/// A node that runs containers by an engine of its own; none where these tests are left out.
fn with_engine() -> Option<(Engine, Node)> {
    let engine = Engine::start()?;
    let mut node = Node::first();
    node.configure(&engine.settings());
    node.start();
    Some((engine, node))
}

/// A node as [`with_engine`], whose policy lets containers have a network.
fn with_network() -> Option<(Engine, Node)> {
    let (engine, mut node) = with_engine()?;
    node.stop();
    node.configure(&format!("{}network = true\n", engine.settings()));
    node.start();
    Some((engine, node))
}

/// A job of these frames: `script` is run by a shell for each, and leaves `N.txt`.
fn frames(frames: &str, script: &str, more: &str) -> JobDir {
    let script = Value::from(script);
    JobDir::new(&format!(
        "kind = \"render\"\nimage = \"base:1\"\ncommand = {script}\nframes = \"{frames}\"\n\
         outputs = [\"{{frame}}.txt\"]\n{more}"
    ))
}

/// The lines of the result of a job that is saved in the node's folder.
fn results(node: &Node) -> Vec<Value> {
    rows(&fs::read_to_string(node.folder().join("result/results.jsonl")).unwrap())
}

/// Runs a job and saves its result in `result`.
fn run(node: &Node, job: &JobDir) -> ipdc_tests::Ran {
    let path = job.path().to_str().unwrap();
    node.cli(["run", "render", path, "--out", "result"]).within(JOB).run()
}

/// Runs a job whose frames fail; the error of the first.
fn failed(node: &Node, job: &JobDir) -> String {
    let ran = run(node, job).failed(6, &[]);
    let _ = fs::remove_dir_all(node.folder().join("failed"));
    fs::rename(node.folder().join("result"), node.folder().join("failed")).unwrap();
    let text = fs::read_to_string(node.folder().join("failed/results.jsonl")).unwrap();
    let first = rows(&text).remove(0);
    assert_eq!(first["status"], "failed", "{ran}");
    format!(
        "{} {}",
        first["error"]["code"].as_str().unwrap(),
        first["error"]["message"].as_str().unwrap()
    )
}

#[test]
fn frames_are_rendered_in_containers_and_assembled_and_the_same_again_starts_none() {
    let Some((engine, mut node)) = with_engine() else { return };
    assert!(node.status()["containers"]["engine"].as_str().unwrap().starts_with("Docker "));
    let assemble = "[assemble]\ncommand = \"cat /job/frames/?.txt > /out/film.txt\"\noutputs = [\"film.txt\"]\n";
    let job = frames(
        "1-5x2,4",
        "echo frame {frame}; cat /job/scene > /out/{frame}.txt; echo {frame} >> /out/{frame}.txt",
        assemble,
    )
    .file("scene", "a sphere\n");
    let _ = run(&node, &job).ok();
    let result = node.folder().join("result");
    let film = "a sphere\n1\na sphere\n3\na sphere\n4\na sphere\n5\n";
    assert_eq!(fs::read_to_string(result.join("film.txt")).unwrap(), film);
    assert_eq!(fs::read_to_string(result.join("frames/4.txt")).unwrap(), "a sphere\n4\n");
    let results = results(&node);
    let items: Vec<_> = results.iter().map(|row| row["item"].as_str().unwrap()).collect();
    assert_eq!(items, ["1", "3", "4", "5"]);
    assert!(results.iter().all(|row| row["status"] == "done"), "{results:?}");

    let since = next_second();
    fs::remove_dir_all(&result).unwrap();
    let _ = run(&node, &job).ok();
    assert_eq!(fs::read_to_string(result.join("film.txt")).unwrap(), film);
    assert_eq!(engine.made_since(since), 0, "all was remembered");
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
    node.stop();
    let left = fs::read_dir(node.home().join("containers")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of /job and /out");
}

#[test]
fn a_container_has_no_rights_no_network_and_writes_nowhere_but_in_out_and_tmp() {
    let Some((_engine, node)) = with_engine() else { return };
    let script = r#"
        exec > /out/1.txt
        id -u; id -g
        grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\t'
        ls /sys/class/net
        for place in / /job /bin /etc; do touch $place/x 2>/dev/null && echo "wrote in $place"; done
        touch /tmp/x && echo "wrote in /tmp"
        mknod /tmp/disk b 8 0 2>/dev/null && echo "made a device"
        mount -t tmpfs none /tmp 2>/dev/null && echo "mounted"
        ls /job
    "#;
    let job = frames("1", script, "").file("scene", "");
    let _ = run(&node, &job).ok();
    let said = fs::read_to_string(node.folder().join("result/frames/1.txt")).unwrap();
    let mut lines = said.lines();
    assert_ne!(lines.next(), Some("0"), "{said}");
    assert_ne!(lines.next(), Some("0"), "{said}");
    let rest: Vec<_> = lines.collect();
    let expected = [
        "CapEff:0000000000000000",
        "CapBnd:0000000000000000",
        "NoNewPrivs:1",
        "lo",
        "wrote in /tmp",
        "scene",
    ];
    assert_eq!(rest, expected, "{said}");
}

#[test]
fn frames_that_fail_say_why_and_the_others_are_kept() {
    let Some((engine, node)) = with_engine() else { return };
    let assemble =
        "[assemble]\ncommand = \"cat /job/frames/* > /out/film\"\noutputs = [\"film\"]\n";
    let script =
        "test {frame} != 2 || { echo out of paint >&2; exit 3; }; echo {frame} > /out/{frame}.txt";
    let _ = run(&node, &frames("1-3", script, assemble)).failed(6, &["1 of the 3 items"]);
    let rows = results(&node);
    let status: Vec<_> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["done", "failed", "done"]);
    let error = rows[1]["error"]["message"].as_str().unwrap();
    assert!(error.contains("exit code 3") && error.contains("out of paint"), "{error}");
    assert!(!node.folder().join("result/film").exists(), "a film without all its frames is none");
    fs::remove_dir_all(node.folder().join("result")).unwrap();

    let limits = |limits: &str| format!("[limits]\n{limits}\n");
    for (script, more, words) in [
        ("true {frame}", String::new(), ["IPDC-5702", "left no `1.txt`", "it left nothing"]),
        (
            "touch /out/other{frame}",
            String::new(),
            ["IPDC-5702", "left no `1.txt`", "it left other1"],
        ),
        (
            "ln -s /etc/passwd /out/{frame}.txt",
            String::new(),
            ["IPDC-5323", "`1.txt`", "neither a file"],
        ),
        ("mkfifo /out/{frame}.txt", String::new(), ["IPDC-5323", "`1.txt`", "neither a file"]),
        ("sh -c 'kill -SEGV $$'; exit $?", String::new(), ["IPDC-5318", "signal", "11"]),
        ("sleep 600 {frame}", limits("time = \"1s\""), ["IPDC-5302", "1000 ms", "limits.time"]),
        (
            "yes {frame} | head -c 99m > /out/{frame}.txt",
            limits("output = \"1MiB\""),
            ["IPDC-53", "", ""],
        ),
        (
            "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/out/$n bs=1M count=1; done; sleep 60 {frame}",
            limits("output = \"2MiB\""),
            ["IPDC-5404", "2 MiB", "limits.output"],
        ),
        (
            "dd if=/dev/zero of=/tmp/x bs=1M count=64; echo {frame} > /out/{frame}.txt; awk 'BEGIN { while (1) x = x \"more and more\" }'",
            limits("memory = \"32MiB\""),
            ["IPDC-5303", "32 MiB", "limits.memory"],
        ),
    ] {
        let error = failed(&node, &frames("1", script, &more));
        assert!(words.iter().all(|word| error.contains(word)), "{script}: {error}");
    }
    let absent = "kind = \"render\"\nimage = \"base:1\"\ncommand = [\"/bin/paint\", \"{frame}\"]\nframes = \"1\"\noutputs = [\"1.txt\"]\n";
    let error = failed(&node, &JobDir::new(absent));
    assert!(error.contains("IPDC-5804") && error.contains("/bin/paint"), "{error}");
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
}

#[test]
fn what_is_wrong_with_a_rendering_is_said_with_its_line_before_anything_runs() {
    let Some((_engine, node)) = with_engine() else { return };
    for (toml, words) in [
        (
            "kind = \"render\"\nimage = \"absent:7\"\ncommand = \"true {frame}\"\nframes = \"1-2\"\noutputs = [\"{frame}\"]\n",
            &["job.toml:2:", "absent:7", "docker images"][..],
        ),
        (
            "kind = \"render\"\nimage = \"base:1\"\ncommand = \"true\"\nframes = \"2-1\"\noutputs = []\nframe = 1\n",
            &[
                "job.toml:4:",
                "ends before it begins",
                "job.toml:5:",
                "expected 1 to 64",
                "job.toml:6:",
                "did you mean `frames`",
            ][..],
        ),
        (
            "kind = \"render\"\nimage = \"base:1\"\ncommand = \"true\"\nframes = \"1-2\"\noutputs = [\"a.png\"]\n",
            &["job.toml:3:", "the same for every frame", "job.toml:5:"][..],
        ),
        (
            "kind = \"render\"\nimage = \"scene\"\ncommand = \"true {frame}\"\nframes = \"1\"\noutputs = [\"a.png\"]\n",
            &["job.toml:2:", "no image as `docker save` writes it"][..],
        ),
    ] {
        let job = JobDir::new(toml).file("scene", "no image");
        let _ = node.cli(["run", "render", job.path().to_str().unwrap()]).run().refused(words);
    }
}

#[test]
fn an_image_reaches_a_node_that_lacks_it_and_may_come_from_a_file_or_a_dockerfile() {
    let Some((engine, mut node)) = with_engine() else { return };
    let Some(other_engine) = Engine::start() else { return };
    engine.import("paint:1", &[("colour", b"blue\n")]);
    let mut other = Node::joined(&node.invite(1));
    other.configure(&other_engine.settings());
    other.start();
    node.wait_peers(1);
    // Nothing runs where the image is.
    let _ = node.cli(["pause"]).run().ok();
    let job = |image: &str| {
        JobDir::new(&format!(
            "kind = \"render\"\nimage = \"{image}\"\ncommand = \"cat /colour > /out/1.txt\"\n\
             frames = \"1\"\noutputs = [\"1.txt\"]\n"
        ))
    };
    let colour = |job: &JobDir| {
        let _ = run(&node, job).ok();
        let colour = fs::read_to_string(node.folder().join("result/frames/1.txt")).unwrap();
        fs::remove_dir_all(node.folder().join("result")).unwrap();
        colour
    };
    assert_eq!(colour(&job("paint:1")), "blue\n");
    let images = other_engine.docker(["images", "ipdc/image"]).run().ok();
    assert!(images.text().contains("bafy"), "{images}");
    // Of the same layers: another way to the same image.
    let saved = job("image.tar");
    let archive = saved.path().join("image.tar");
    let _ = engine.docker(["save", "--output", archive.to_str().unwrap(), "paint:1"]).run().ok();
    assert_eq!(colour(&saved), "blue\n");
    let built = job("Dockerfile")
        .file("Dockerfile", "FROM paint:1\nCOPY colour /colour\n")
        .file("colour", "red\n");
    assert_eq!(colour(&built), "red\n");
    node.stop();
    other.stop();
}

#[test]
fn without_an_engine_a_node_says_so_and_a_rendering_is_refused_at_once() {
    let mut node = Node::first();
    node.configure(
        "[containers]\nengine = \"/nowhere/docker.sock\"\n[policy]\nmembers = [\"wasm\", \"container\"]\n",
    );
    node.start();
    let status = node.cli(["status"]).run().ok();
    let words = ["none: there is no engine at /nowhere/docker.sock", "apt install docker.io"];
    assert!(words.iter().all(|word| status.text().contains(word)), "{status}");
    let peers = node.cli(["peers", "--json"]).run().ok().json();
    assert_eq!(peers[0]["facts"]["engine"], Value::Null);
    assert!(!peers[0]["facts"]["runtimes"].as_array().unwrap().contains(&"container".into()));
    let job = frames("1", "true", "");
    let path = job.path().to_str().unwrap();
    let _ = node.cli(["run", "render", path]).run().refused(&["base:1", "apt install docker.io"]);
}

#[test]
fn a_network_is_there_where_job_and_policy_say_so_and_what_came_of_it_is_not_remembered() {
    let Some((engine, node)) = with_network() else { return };
    let since = next_second();
    let job = frames("1", "ls /sys/class/net > /out/1.txt", "[resources]\nnetwork = true\n");
    for _ in 0..2 {
        let _ = run(&node, &job).ok();
        let said = fs::read_to_string(node.folder().join("result/frames/1.txt")).unwrap();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
        fs::remove_dir_all(node.folder().join("result")).unwrap();
    }
    assert_eq!(engine.made_since(since), 2);
}

#[test]
fn what_a_rendering_asks_for_and_nobody_has_is_told() {
    let Some((engine, node)) = with_engine() else { return };
    for (resources, lack) in [
        ("gpus = 1", "a GPU"),
        ("gpus = 2\ngpu_memory = \"40GiB\"", "2 GPUs with 40 GiB"),
        ("cpus = 1000", "1000 processors"),
        ("network = true", "the right to have a network in a container"),
    ] {
        let job = frames("1", "true", &format!("[resources]\n{resources}\n"));
        let id = node.detach(&job);
        let view = node.job_until(&id, "why it waits", |view| view["waiting"].is_string());
        let waiting = view["waiting"].as_str().unwrap();
        assert!(waiting.contains(lack), "{resources}: {waiting}");
        let _ = node.cli(["job", "cancel", &id]).run().ok();
    }
    // What there is is given, and no more.
    let job = frames("1", "sleep 60", "[resources]\ncpus = 1\n[limits]\nmemory = \"64MiB\"\n");
    let id = node.detach(&job);
    let container = eventually(SOON, "it runs", || engine.containers().pop());
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}";
    let limits = engine.docker(["inspect", "--format", format, &container]).run().ok();
    assert_eq!(limits.text(), "67108864 67108864 4096 1000000000");
    let _ = node.cli(["job", "cancel", &id]).run().ok();
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
}

#[test]
fn when_the_node_is_killed_its_containers_are_removed() {
    let Some((engine, mut node)) = with_engine() else { return };
    let job = frames("1-2", "sleep 600 {frame}", "");
    let _ = node.detach(&job);
    eventually(SOON, "two containers run", || (engine.containers().len() == 2).then_some(()));
    node.kill();
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_containers_leave_nothing_behind() {
    let Some((engine, mut node)) = with_engine() else { return };
    let job = frames("1-1000", "echo {frame} > /out/{frame}.txt", "");
    let before = node.descriptors();
    let ran = node.cli(["run", "render", job.path().to_str().unwrap()]).within(4 * JOB).run();
    let _ = ran.ok();
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
    eventually(SOON, "no descriptor is left open", || {
        (node.descriptors() <= before + 4).then_some(())
    });
    let folders = || fs::read_dir(node.home().join("containers")).unwrap().count();
    eventually(SOON, "but one folder is left, that of /job", || (folders() <= 1).then_some(()));
    node.stop();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let left = mounts.lines().filter(|line| {
        line.contains("/overlay2/") && line.contains(engine.folder().to_str().unwrap())
    });
    assert_eq!(left.count(), 0, "{mounts}");
}

#[test]
fn a_rendering_outlives_the_death_of_its_containers_and_of_the_engine() {
    let Some((mut engine, node)) = with_engine() else { return };
    let job = frames("1-2", "sleep 15; echo {frame} > /out/{frame}.txt", "");
    let id = node.detach(&job);
    eventually(SOON, "two containers run", || (engine.containers().len() == 2).then_some(()));
    let first = engine.containers().remove(0);
    let _ = engine.docker(["kill", &first]).run().ok();
    eventually(SOON, "it is tried again", || {
        let now = engine.containers();
        (now.len() == 2 && !now.contains(&first)).then_some(())
    });
    engine.kill();
    let why = || node.status()["containers"]["why"].as_str().map(str::to_owned);
    eventually(SOON, "the node says that there is no engine", why);
    engine.run();
    let view = node.job_done(&id);
    assert_eq!(view["items"]["done"], 2, "{view}");
    eventually(SOON, "no container is left", || engine.containers().is_empty().then_some(()));
}

#[test]
fn an_engine_that_hangs_is_seen_and_its_frames_wait_until_it_goes_on() {
    let Some((engine, node)) = with_engine() else { return };
    let job = frames("1-2", "sleep 2; echo {frame} > /out/{frame}.txt", "");
    let id = node.detach(&job);
    eventually(SOON, "two containers run", || (engine.containers().len() == 2).then_some(()));
    engine.hang(true);
    let why = eventually(SOON, "the node says that the engine hangs", || {
        node.status()["containers"]["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("said nothing for 5 s"), "{why}");
    engine.hang(false);
    let view = node.job_done(&id);
    assert_eq!(view["items"]["done"], 2, "{view}");
}

#[test]
#[ignore = "takes minutes"]
fn an_image_may_take_longer_to_build_than_any_other_answer() {
    let Some((_engine, node)) = with_engine() else { return };
    let job = JobDir::new(
        "kind = \"render\"\nimage = \"Dockerfile\"\ncommand = \"cp /built /out/1.txt\"\nframes = \"1\"\noutputs = [\"1.txt\"]\n",
    );
    let job = job.file("Dockerfile", "FROM base:1\nRUN sleep 130 && echo slowly > /built\n");
    let _ = run(&node, &job).ok();
    let built = fs::read_to_string(node.folder().join("result/frames/1.txt")).unwrap();
    assert_eq!(built, "slowly\n");
}

/// Runs an example whose image is built of Debian's packages; the result.
fn example(name: &str, video: &str) {
    let Some(engine) = Engine::online() else { return };
    let archive = root().join("target/docker/debian.tar");
    let _ = Program::new(root().join("tools/debian-image")).arg(&archive).within(JOB).run().ok();
    let archive = archive.to_str().unwrap();
    let _ = engine.docker(["import", archive, "debian:bookworm-slim"]).within(JOB).run().ok();
    let mut node = Node::first();
    node.configure(&engine.settings().replace("[policy]", "build_network = \"host\"\n[policy]"));
    node.start();
    let example = root().join("examples").join(name);
    let run = node.cli(["run", "render", example.to_str().unwrap(), "--out", "film"]);
    let _ = run.within(4 * JOB).run().ok();
    let film = node.folder().join("film");
    assert!(fs::metadata(film.join(video)).unwrap().len() > 10_000);
    assert_eq!(fs::read_dir(film.join("frames")).unwrap().count(), 24);
    let results = rows(&fs::read_to_string(film.join("results.jsonl")).unwrap());
    let cid =
        |row: &Value| row["files"].as_object().unwrap().values().next().unwrap()["cid"].clone();
    let cids: std::collections::BTreeSet<String> =
        results.iter().map(|row| cid(row).to_string()).collect();
    assert_eq!(cids.len(), 24, "each frame is another");
}

#[test]
#[ignore = "installs POV-Ray and ffmpeg in an image"]
fn povray_renders_marbles_and_a_video_of_them() {
    example("povray", "marbles.mp4");
}

#[test]
#[ignore = "installs Blender in an image, 2.6 GB"]
fn blender_renders_a_knot_and_a_video_of_it() {
    example("blender", "knot.mp4");
}
