//! Ctrl-C and readers that close the pipe.

use std::time::{Duration, Instant};

use crate::support::{Running, TextModel, command, fixture};

/// An answer that never ends by itself.
const ENDLESS: [&str; 5] = ["--ignore-eos", "--context", "0", "-n", "100000000"];

#[test]
fn ctrl_c_ends_generate_with_what_there_is() {
    let model = TextModel::new();
    let line = [&["--prompt", "Hi", "--json"], &ENDLESS[..]].concat();
    let mut running = Running::start(model.command("generate", &line));
    for _ in 0..3 {
        assert_eq!(running.event()["event"], "token");
    }
    running.interrupt();
    let done = running.answer();
    assert_eq!((&done["event"], &done["stop_reason"]), (&"done".into(), &"interrupted".into()));
    let (status, out, err) = running.finish();
    assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(130), "", ""));
}

#[test]
fn ctrl_c_stops_an_answer_and_the_conversation_continues() {
    let model = TextModel::new();
    let only = model.only(&["a", "b"]);
    let line = [&["--interactive", "--json", "--logit-bias", &only], &ENDLESS[..]].concat();
    let mut chat = Running::start(model.command("chat", &line));
    for turn in 0..2u64 {
        chat.say("Hi");
        assert_eq!(chat.event()["event"], "token");
        chat.interrupt();
        let done = chat.answer();
        assert_eq!(done["stop_reason"], "interrupted");
        let (reused, prompt) = (&done["tokens"]["reused"], &done["tokens"]["prompt"]);
        // The generated part of an answer stays in the conversation.
        assert_eq!(reused.as_u64().unwrap() > 0, turn > 0, "{done}");
        assert_eq!(prompt.as_u64().unwrap() > 5, turn > 0, "{done}");
    }
    chat.say("/quit");
    let (status, out, err) = chat.finish();
    assert_eq!((status.code(), out.as_str()), (Some(0), ""), "{err}");
    assert_eq!(err.matches("[stopped]").count(), 2, "{err}");
}

#[test]
fn ctrl_c_ends_one_answer_to_a_pipe_with_130() {
    let model = TextModel::new();
    let line = [&["--prompt", "Hi", "--json"], &ENDLESS[..]].concat();
    let mut running = Running::start(model.command("chat", &line));
    running.event();
    running.interrupt();
    assert_eq!(running.answer()["stop_reason"], "interrupted");
    assert_eq!(running.finish().0.code(), Some(130));
}

#[test]
fn ctrl_c_in_logits_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let list = folder.path().join("tokens.txt");
    std::fs::write(&list, "1 2 3 4 5 6 7 8 ".repeat(100_000)).unwrap();
    let (model, file) = (fixture("xlstm/plain"), out.join("logits.safetensors"));
    let line = [
        "logits",
        "--model",
        &model,
        "--tokens-file",
        list.to_str().unwrap(),
        "--chunk",
        "1",
        "--threads",
        "1",
        "--out",
        file.to_str().unwrap(),
    ];
    let running = Running::start(command(&line));
    let begun = Instant::now();
    while std::fs::read_dir(&out).unwrap().next().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The handler is active within a few microseconds; allow more for a loaded machine.
    std::thread::sleep(Duration::from_millis(300));
    running.interrupt();
    let (status, _, err) = running.finish();
    assert_eq!((status.code(), err.as_str()), (Some(130), ""));
    assert!(std::fs::read_dir(&out).unwrap().next().is_none(), "the temporary file is gone");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let model = TextModel::new();
    for (name, more) in [("generate", "--special"), ("chat", "--json")] {
        let line = [&["--prompt", "Hi", more], &ENDLESS[..]].concat();
        let running = Running::start(model.command(name, &line));
        let (status, err) = running.stop_reading();
        assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{name}");
    }
}
