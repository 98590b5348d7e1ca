//! Answers of a device whose steps run ahead of the printed text equal the CPU's.

use kinglet_tests::target::wgpu_targets;
use serde_json::{Value, json};

use crate::support::{Running, TextModel};

/// Options that select the tests' device; `None` if there is none.
fn device() -> Option<Vec<String>> {
    let adapter = wgpu_targets().into_iter().next()?.options.adapter?;
    // In single precision, so that a seed gives the same tokens.
    let adapter = adapter.to_string();
    let line = ["--backend", "wgpu", "--adapter", &adapter, "--activations", "f32"];
    Some(line.map(String::from).to_vec())
}

/// The parts on which two backends must agree.
fn answer(done: &Value) -> Value {
    let counts = &done["tokens"];
    json!([done["text"], done["ids"], done["stop_reason"], done["stop_token"], counts])
}

#[test]
fn wherever_an_answer_ends() {
    let Some(device) = device() else { return };
    let device: Vec<&str> = device.iter().map(String::as_str).collect();
    let model = TextModel::new();
    let line =
        ["--prompt", "Hello", "--temperature", "1", "--top-k", "30", "--seed", "4", "--json"];
    let run = |backend: &[&str], more: &[&str]| {
        let done = model.run("generate", &[&line[..], more, backend].concat()).events().pop();
        answer(&done.unwrap())
    };
    let all = run(&["--backend", "cpu"], &["-n", "30", "--ignore-eos"]);
    let ids: Vec<u64> = all[1].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 30);
    assert_eq!(run(&device, &["-n", "30", "--ignore-eos"]), all);
    // Stop strings that appear with the first token, within the first steps ahead, and later.
    let text = all[0].as_str().unwrap();
    for at in [0, 2, 3, 9, 20] {
        let stop: String = text.chars().skip(at).take(2).collect();
        let more = ["-n", "30", "--ignore-eos", "--stop", &stop];
        let expected = run(&["--backend", "cpu"], &more);
        assert_eq!(expected[2], "stop_string", "{text:?} has {stop:?}");
        assert_eq!(run(&device, &more), expected, "{stop:?}");
    }
    // The end token, which every seed generates at some point or never; and limits.
    for more in [["-n", "100"], ["-n", "3"], ["--context", "12"]] {
        assert_eq!(run(&device, &more), run(&["--backend", "cpu"], &more), "{more:?}");
    }
}

#[test]
fn a_conversation_continues_where_an_answer_ended() {
    let Some(device) = device() else { return };
    let model = TextModel::new();
    let line = ["--interactive", "--json", "-n", "9", "--temperature", "0.8", "--seed", "2"];
    let talk = |backend: &[&str]| {
        let mut chat = Running::start(model.command("chat", &[&line[..], backend].concat()));
        let answers: Vec<Value> = ["One", "Two", "Three"]
            .iter()
            .map(|said| {
                chat.say(said);
                answer(&chat.answer())
            })
            .collect();
        assert!(chat.finish().0.success());
        answers
    };
    let device: Vec<&str> = device.iter().map(String::as_str).collect();
    let answers = talk(&device);
    assert_eq!(answers, talk(&["--backend", "cpu"]));
    assert!(answers[2][4]["reused"].as_u64().unwrap() > 10, "{answers:?}");
}
