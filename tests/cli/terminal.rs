//! `kinglet chat` and `kinglet generate` in a terminal: keys, signals, lines and colors.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::TextModel;

mod screen;

use screen::Terminal;

/// An answer that never ends by itself.
const ENDLESS: [&str; 8] = [
    "--ignore-eos",
    "--context",
    "0",
    "-n",
    "100000000",
    "--temperature",
    "1",
    "--attention-window=64",
];

/// A model that generates words of one letter, and a user's files.
struct Desk {
    model: TextModel,
    words: String,
}

impl Desk {
    fn new() -> Self {
        let model = TextModel::new();
        // Short words: none is as long as a line.
        let words = format!("{},{}=1.5", model.only(&["a", "b", "Ġ"]), model.id("Ġ"));
        Self { model, words }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.model.path().join(name)
    }

    fn command(&self, name: &str, more: &[&str]) -> Command {
        let line = [&["--logit-bias", self.words.as_str(), "--seed", "1"], more].concat();
        let mut command = self.model.command(name, &line);
        command.env("XDG_DATA_HOME", self.file("data")).env("HOME", self.model.path());
        command
    }

    /// A chat that is saved, with endless answers.
    fn chat(&self, more: &[&str]) -> Terminal {
        let save = self.file("talk.json").display().to_string();
        let line = [&["--save", save.as_str()], &ENDLESS[..], more].concat();
        Terminal::start(&self.command("chat", &line), 80)
    }

    /// The saved messages with their roles.
    #[track_caller]
    fn saved(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.file("talk.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let part = |message: &Value, name: &str| message[name].as_str().unwrap().to_string();
        let messages = value["messages"].as_array().unwrap();
        messages.iter().map(|m| (part(m, "role"), part(m, "content"))).collect()
    }

    /// The saved messages that got an answer.
    #[track_caller]
    fn assert_saved(&self, said: &[&str]) {
        let saved = self.saved();
        assert_eq!(saved.len(), 2 * said.len(), "{saved:?}");
        for (pair, text) in saved.chunks(2).zip(said) {
            assert_eq!(pair[0], ("user".to_string(), text.to_string()));
            assert!(pair[1].0 == "assistant" && !pair[1].1.is_empty(), "{pair:?}");
        }
    }

    /// The saved input history.
    #[track_caller]
    fn assert_remembered(&self, lines: &[&str]) {
        let place = if cfg!(target_os = "macos") { "Library/Application Support" } else { "data" };
        let file = self.file(place).join("kinglet/history.txt");
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), lines);
    }
}

#[test]
fn ctrl_c_stops_an_answer_and_the_chat_continues() {
    let desk = Desk::new();
    let mut chat = desk.chat(&[]);
    for text in ["One", "Two"] {
        chat.say(text);
        chat.see_words(text);
        chat.type_in("\x03");
        chat.see("[stopped]");
        chat.prompt();
        chat.say("/clear");
        chat.see("a new conversation");
        chat.prompt();
        assert!(!chat.text().contains("[stopped]"), "the screen is clear: {}", chat.text());
        chat.say("/load talk.json");
        chat.see("can't read talk.json: the file does not exist");
        chat.say("/load ~/talk.json");
        chat.see("loaded");
    }
    // Text typed meanwhile belongs to the next line and is not shown in the answer.
    chat.say("Six");
    chat.see_words("Six");
    chat.type_in("\x03typed ahead");
    chat.see("[stopped]");
    chat.see("> typed ahead");
    assert_eq!(chat.text().matches("typed").count(), 1, "{}", chat.text());
    chat.type_in("\x03");
    chat.say("/quit");
    assert_eq!(chat.end(), 0);
    assert!(chat.echoes());
    desk.assert_saved(&["One", "Two", "Six"]);
    let commands = ["/clear", "/load talk.json", "/load ~/talk.json"];
    let lines = [&["One"], &commands[..], &["Two"], &commands[..], &["Six", "/quit"]].concat();
    desk.assert_remembered(&lines);
}

#[test]
fn ctrl_c_stops_the_computing_of_a_prompt() {
    let desk = Desk::new();
    // Enough for minutes of work.
    let long = "a b ".repeat(200_000);
    let talk = serde_json::json!([
        { "role": "user", "content": long }, { "role": "assistant", "content": "a" },
    ]);
    desk.model.write("long.json", &talk.to_string());
    let mut chat = desk.chat(&["--load", "~/long.json"]);
    chat.say("One");
    chat.see("reading the prompt");
    chat.type_in("\x03");
    chat.see("[stopped]");
    chat.prompt();
    // A message without an answer is not part of the conversation.
    chat.say("/undo");
    chat.see("removed the last 2 messages");
    chat.say("Two");
    chat.see_words("Two");
    chat.signal(Signal::TERM);
    assert_eq!(chat.end(), 143);
    desk.assert_saved(&["Two"]);
    desk.assert_remembered(&["One", "/undo", "Two"]);
}

#[test]
fn two_ctrl_c_at_once_lose_nothing() {
    let desk = Desk::new();
    let mut chat = desk.chat(&[]);
    chat.say("One");
    chat.see_words("One");
    // It is random whether the second Ctrl-C comes before the first is handled: then it ends the
    // program, else it is one at the prompt, where Ctrl-D ends it.
    chat.type_in("\x03\x03\x04");
    let code = chat.end();
    assert!([0, 130].contains(&code), "{code}");
    assert!(chat.echoes());
    desk.assert_saved(&["One"]);
    desk.assert_remembered(&["One"]);
}

#[test]
fn ctrl_c_at_the_prompt_drops_the_line_and_then_ends() {
    let desk = Desk::new();
    let mut chat = desk.chat(&[]);
    chat.prompt();
    chat.type_in("never said");
    chat.see("> never said");
    chat.type_in("\x03");
    chat.prompt();
    assert!(!chat.text().contains("Ctrl-C again"), "{}", chat.text());
    chat.type_in("\"\"\"one\r");
    chat.wait("second line", |chat| chat.text().ends_with("\n|"));
    chat.type_in("\x03");
    chat.prompt();
    assert!(!chat.text().contains("Ctrl-C again"), "{}", chat.text());
    chat.type_in("\x03");
    chat.see("Ctrl-C again");
    chat.prompt();
    chat.type_in("\x03");
    assert_eq!(chat.end(), 0);
    assert!(chat.echoes());
    assert!(desk.saved().is_empty());
}

#[test]
fn ctrl_d_ends_at_the_prompt_and_after_an_answer() {
    let desk = Desk::new();
    let mut chat = desk.chat(&[]);
    chat.say("One");
    chat.see_words("One");
    // Both arrive before the next prompt.
    chat.type_in("\x03\x04");
    assert_eq!(chat.end(), 0);
    assert!(chat.echoes());
    desk.assert_saved(&["One"]);
    let path = desk.file("talk.json").display().to_string();
    let mut chat = desk.chat(&["--load", &path]);
    chat.prompt();
    chat.type_in("\x04");
    assert_eq!(chat.end(), 0);
    desk.assert_saved(&["One"]);
}

#[test]
fn sigterm_and_a_closed_terminal_lose_nothing() {
    for (answering, close) in [(true, true), (false, true), (true, false), (false, false)] {
        let desk = Desk::new();
        let mut chat = desk.chat(&[]);
        chat.say("One");
        chat.see_words("One");
        if !answering {
            chat.type_in("\x03");
            chat.see("[stopped]");
            chat.prompt();
            chat.type_in("half a line");
            chat.see("> half a line");
        }
        if close {
            assert_eq!(chat.close(), 129);
        } else {
            chat.signal(Signal::TERM);
            assert_eq!(chat.end(), 143);
            assert!(chat.echoes(), "the terminal is as it was");
        }
        desk.assert_saved(&["One"]);
        desk.assert_remembered(&["One"]);
    }
}

#[test]
fn lines_end_between_words_in_any_width() {
    let desk = Desk::new();
    let line = ["-n", "600", "--temperature", "1", "--ignore-eos"];
    let mut chat = Terminal::start(&desk.command("chat", &line), 30);
    chat.say("One");
    chat.see("[cut off");
    chat.prompt();
    let longest = |chat: &Terminal| chat.rows().iter().map(String::len).max().unwrap();
    // The line that explains how to continue is wrapped between words too.
    assert!(!chat.has_broken_line(), "{}", chat.text());
    assert!((25..=30).contains(&longest(&chat)), "{}", chat.text());
    chat.say("/clear");
    chat.see("a new conversation");
    chat.resize(17);
    chat.say("Two");
    chat.see("[cut off");
    chat.prompt();
    assert!(!chat.has_broken_line(), "{}", chat.text());
    assert!((12..=17).contains(&longest(&chat)), "{}", chat.text());
    // Without a terminal the output is the plain text. The answer exceeds the model's context,
    // which is a warning.
    let line = ["-n", "200", "--temperature", "1", "--ignore-eos"];
    let piped = desk
        .model
        .run(
            "chat",
            &[&line[..], &["--prompt", "One", "--seed", "1", "--logit-bias", &desk.words]].concat(),
        )
        .ok();
    assert_eq!(piped.trim_end_matches('\n').lines().count(), 1);
    let mut once = desk.command("generate", &[&line[..], &["--prompt", "One"]].concat());
    let mut once = Terminal::start(once.env("NO_COLOR", "1"), 30);
    assert_eq!(once.end(), 0);
    assert!(!once.has_broken_line() && (25..=30).contains(&longest(&once)), "{}", once.text());
}

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    let desk = Desk::new();
    for (name, value, coloured) in
        [("LANG", "C", true), ("NO_COLOR", "1", false), ("TERM", "dumb", false)]
    {
        let mut command = desk.command("chat", &["-n", "3", "--stats"]);
        let mut chat = Terminal::start(command.env(name, value), 80);
        chat.prompt();
        chat.type_in("/set top_p 7\r");
        chat.see("error: ");
        chat.prompt();
        chat.type_in("One\r");
        chat.see("computed at");
        chat.prompt();
        chat.type_in("\x04");
        assert_eq!(chat.end(), 0);
        let written = chat.written();
        // Those that set a colour or brightness end with m.
        let styles = written.split("\x1b[").skip(1).filter(|part| {
            part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
        });
        assert_eq!(styles.count() > 0, coloured, "{name}={value}: {written:?}");
    }
}

#[test]
fn generate_stops_at_the_first_ctrl_c() {
    let desk = Desk::new();
    let line = [&["--prompt", "One"], &ENDLESS[..]].concat();
    let mut once = Terminal::start(&desk.command("generate", &line), 40);
    once.wait("answer", |once| once.text().len() > 100);
    once.type_in("\x03");
    assert_eq!(once.end(), 130);
    assert!(once.echoes());
}

#[test]
fn tab_completes_commands_options_and_files() {
    let desk = Desk::new();
    desk.model.write("my first talk.json", r#"[{"role": "user", "content": "One"}]"#);
    let mut chat = desk.chat(&[]);
    chat.prompt();
    chat.type_in("/lo\t");
    chat.see("> /load");
    chat.type_in("~/my\t");
    chat.see("> /load ~/my first talk.json");
    chat.type_in("\r");
    chat.see("loaded 1 messages");
    chat.prompt();
    chat.type_in("/set temper\t");
    chat.see("> /set temperature");
    chat.type_in("0.5\r");
    chat.see("temperature: 0.5");
    chat.prompt();
    // The last message can be edited.
    chat.type_in("/edit\r");
    chat.wait("message", |chat| chat.text().ends_with("\n> One"));
    chat.type_in(" more");
    chat.see("> One more");
    chat.type_in("\r");
    chat.see_words("One more");
    chat.type_in("\x03");
    chat.see("[stopped]");
    chat.prompt();
    chat.type_in("/edit\r");
    chat.wait("message", |chat| chat.text().ends_with("\n> One more"));
    chat.type_in("\x03");
    chat.see("nothing changed");
    chat.prompt();
    chat.type_in("\x04");
    assert_eq!(chat.end(), 0);
    desk.assert_saved(&["One more"]);
}
