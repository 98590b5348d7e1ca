//! `kinglet devices`, and the choice of a device.

use kinglet_tests::target::wgpu_targets;

use crate::support::{TextModel, command, kinglet, run};

#[test]
fn the_processor_and_every_adapter_are_listed() {
    let text = kinglet(&["devices"]).ok();
    assert!(text.starts_with("cpu: "), "{text}");
    let lines = kinglet(&["devices", "--json"]).ok();
    for (index, line) in lines.lines().enumerate() {
        let adapter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(adapter["index"], index, "{line}");
        let name = adapter["name"].as_str().unwrap();
        assert!(text.contains(&format!("wgpu {index}: {name}\n")), "{text}");
    }
    assert_eq!(lines.is_empty(), text.contains("no adapter"));
    assert_eq!(wgpu_targets().is_empty(), !text.contains("--adapter"));
}

#[test]
fn an_adapter_that_is_not_there_is_refused_with_those_that_are() {
    let model = TextModel::new();
    let message =
        model.run("chat", &["--prompt", "Hi", "--backend", "wgpu", "--adapter", "99"]).error(1);
    assert!(message.contains("adapter 99"), "{message}");
    for line in kinglet(&["devices", "--json"]).ok().lines() {
        let adapter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(message.contains(adapter["name"].as_str().unwrap()), "{message}");
    }
}

#[test]
fn a_capability_that_the_environment_forbids_is_found_but_not_used() {
    let mut line = command(&["devices", "--json"]);
    line.env("KINGLET_WGPU_WITHOUT", "subgroups, f16");
    let found = kinglet(&["devices", "--json"]).ok();
    let found = found.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    for (line, free) in run(line, b"").ok().lines().zip(found) {
        let adapter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(adapter["found"], free["found"], "{line}");
        for (name, has) in adapter["found"].as_object().unwrap() {
            let forbidden = ["subgroups", "f16"].contains(&name.as_str());
            assert_eq!(adapter["used"][name] == true, has == true && !forbidden, "{name}: {line}");
        }
    }
}

#[test]
fn what_is_no_capability_cannot_be_forbidden() {
    if wgpu_targets().is_empty() {
        return;
    }
    let mut line = command(&["devices"]);
    line.env("KINGLET_WGPU_WITHOUT", "subgrops");
    let message = run(line, b"").error(1);
    assert!(message.contains("subgrops") && message.contains("dot_int8"), "{message}");
}

#[test]
fn an_answer_is_the_same_on_wgpu() {
    if wgpu_targets().is_empty() {
        return;
    }
    let model = TextModel::new();
    let answer = |backend: &str| {
        let options = ["--prompt", "Hi", "-n", "4", "--temperature", "0", "--backend", backend];
        model.run("generate", &options).ok()
    };
    assert_eq!(answer("wgpu"), answer("cpu"));
}
