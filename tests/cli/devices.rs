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
fn nothing_but_ours_is_on_standard_error() {
    let model = TextModel::new();
    // No desktop session, and one that no longer exists.
    for (runtime, display) in [(None, None), (Some("/no/such/folder"), Some("wayland-0"))] {
        let with = |mut line: std::process::Command| {
            for (name, value) in [("XDG_RUNTIME_DIR", runtime), ("WAYLAND_DISPLAY", display)] {
                match value {
                    Some(value) => line.env(name, value),
                    None => line.env_remove(name),
                };
            }
            run(line, b"").ok()
        };
        with(command(&["devices"]));
        for backend in ["auto", "wgpu"] {
            if backend == "auto" || !wgpu_targets().is_empty() {
                let options = ["--prompt", "Hi", "-n", "2", "--backend", backend];
                with(model.command("generate", &options));
            }
        }
    }
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
fn a_capability_that_the_environment_forbids_is_not_used() {
    let devices = |without: &str| {
        let mut line = command(&["devices", "--json"]);
        line.env("KINGLET_WGPU_WITHOUT", without);
        run(line, b"")
    };
    for line in devices("subgroups,f16").ok().lines() {
        let adapter: serde_json::Value = serde_json::from_str(line).unwrap();
        for (name, used) in adapter["uses"].as_object().unwrap() {
            let forbidden = ["subgroups", "f16", "cooperative_matrices"].contains(&&**name);
            let expected = !forbidden && adapter["has"][name] == true;
            assert_eq!(*used, expected, "{name}: {line}");
        }
    }
    if !wgpu_targets().is_empty() {
        let message = devices("subgroups,f61").error(1);
        assert!(message.contains("f61") && message.contains("dot_int8"), "{message}");
    }
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
