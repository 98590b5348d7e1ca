//! `kinglet chat` over several turns: slash commands, and what is not recomputed.

use serde_json::Value;

use crate::support::{Running, TextModel, run};

/// Starts a conversation with JSON events.
fn start(model: &TextModel, more: &[&str]) -> Running {
    let only = model.only(&["a", "b"]);
    let line = ["--interactive", "--json", "-n", "6", "--logit-bias", &only];
    Running::start(model.command("chat", &[&line[..], more].concat()))
}

fn ask(chat: &mut Running, line: &str) -> Value {
    chat.say(line);
    chat.answer()
}

/// Numbers of prompt tokens, reused and computed.
fn counts(done: &Value) -> [u64; 3] {
    ["prompt", "reused", "computed"].map(|name| done["tokens"][name].as_u64().unwrap())
}

#[test]
fn what_was_said_is_not_computed_again() {
    let model = TextModel::new();
    let mut chat = start(&model, &[]);
    let first = ask(&mut chat, "One");
    // <|user|> O n e <|end|> <|assistant|>
    assert_eq!(counts(&first), [6, 0, 6]);
    let second = ask(&mut chat, "Two");
    // The prompt and all tokens of the answer, which did not end on its own.
    assert_eq!(counts(&second), [6 + 6 + 1 + 6, 6 + 6, 1 + 6]);
    let (status, _, _) = chat.finish();
    assert!(status.success());
    // The reused state gives the same as a fresh one.
    let talk = format!(
        r#"[{{"role":"user","content":"One"}},{{"role":"assistant","content":{}}}]"#,
        first["text"]
    );
    model.write("talk.json", &talk);
    let path = model.path().join("talk.json");
    let mut fresh = start(&model, &["--load", path.to_str().unwrap()]);
    let again = ask(&mut fresh, "Two");
    assert_eq!(counts(&again), [19, 0, 19]);
    assert_eq!(again["text"], second["text"]);
}

#[test]
fn a_template_that_rewrites_the_answer_still_reuses_the_prompt() {
    let model = TextModel::new();
    let template = "{% for m in messages %}<|{{ m.role }}|>\
        {{ 'c' if m.role == 'assistant' else m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    model.write("chat_template.jinja", template);
    let mut chat = start(&model, &[]);
    assert_eq!(counts(&ask(&mut chat, "One")), [6, 0, 6]);
    assert_eq!(counts(&ask(&mut chat, "Two")), [14, 6, 8]);
    assert_eq!(counts(&ask(&mut chat, "Six")), [22, 14, 8]);
}

#[test]
fn a_template_that_begins_answers_with_what_it_later_drops_costs_nothing() {
    let model = TextModel::new();
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>THINK{% endif %}";
    model.write("chat_template.jinja", template);
    let mut chat = start(&model, &[]);
    assert_eq!(counts(&ask(&mut chat, "One")), [11, 0, 11]);
    // Both share <|user|> O n e <|end|>.
    assert_eq!(counts(&ask(&mut chat, "Two")), [24, 5, 19]);
    assert_eq!(counts(&ask(&mut chat, "Six")), [37, 18, 19]);
    assert_eq!(counts(&ask(&mut chat, "Ten")), [50, 31, 19]);
}

#[test]
fn a_later_run_reuses_an_earlier_ones_cache() {
    let model = TextModel::new();
    let cache = model.path().join("cache");
    let talk = model.path().join("talk.json");
    let [cache, talk] = [&cache, &talk].map(|path| path.to_str().unwrap());
    let mut chat = start(&model, &["--cache-dir", cache, "--save", talk]);
    let first = ask(&mut chat, "One");
    assert_eq!(counts(&first), [6, 0, 6]);
    assert!(chat.finish().0.success());
    let mut chat = start(&model, &["--cache-dir", cache, "--load", talk]);
    let second = ask(&mut chat, "Two");
    // Prompt and answer without its last token, which a prompt might tokenize differently.
    assert_eq!(counts(&second), [19, 11, 8]);
    assert!(chat.finish().0.success());
    let mut fresh = start(&model, &["--load", talk, "--cache-memory", "0"]);
    let again = ask(&mut fresh, "Two");
    assert_eq!((counts(&again), &again["text"]), ([19, 0, 19], &second["text"]));
    // Even without memory for a cache, the session itself continues.
    assert_eq!(counts(&ask(&mut fresh, "Six"))[1], 19 + 6);
    let (_, _, err) = fresh.finish();
    assert!(err.is_empty() || err.contains("cut off"), "{err}");
}

#[test]
fn what_was_left_is_come_back_to() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--system", "Be"]);
    let first = ask(&mut chat, "One");
    let second = ask(&mut chat, "Two");
    chat.say("/reset");
    ask(&mut chat, "Six");
    chat.say("/reset");
    let again = ask(&mut chat, "One");
    assert_eq!(counts(&again), [10, 10, 0], "the prompt is in the cache");
    assert_eq!(again["text"], first["text"]);
    let again = ask(&mut chat, "Two");
    assert_eq!(counts(&again), [23, 23, 0], "so is all that was said");
    assert_eq!(again["text"], second["text"]);
}

#[test]
fn an_answer_can_be_had_again() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--temperature", "1", "--seed", "1"]);
    chat.say("/retry");
    let first = ask(&mut chat, "One");
    let texts: Vec<Value> = (0..4)
        .map(|_| {
            let again = ask(&mut chat, "/retry");
            assert_eq!(counts(&again), [6, 6, 0], "nothing is computed again");
            again["text"].clone()
        })
        .collect();
    assert!(texts.iter().any(|text| *text != first["text"]), "{texts:?}");
    // The conversation contains only the last answer.
    assert_eq!(counts(&ask(&mut chat, "Two"))[0], 19);
    let (_, _, err) = chat.finish();
    assert!(err.contains("no message to answer"), "{err}");
}

#[test]
fn reset_and_system_change_the_conversation() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--system", "Be"]);
    let system = 4;
    assert_eq!(counts(&ask(&mut chat, "One"))[0], system + 6);
    assert_eq!(counts(&ask(&mut chat, "Two"))[0], system + 6 + 7 + 6);
    chat.say("/reset");
    assert_eq!(counts(&ask(&mut chat, "One"))[0], system + 6, "the system prompt stays");
    chat.say("/reset");
    chat.say("/system");
    assert_eq!(counts(&ask(&mut chat, "One")), [6, 0, 6]);
    chat.say("/reset");
    chat.say("/system abc");
    assert_eq!(counts(&ask(&mut chat, "One")), [5 + 6, 0, 5 + 6]);
}

#[test]
fn save_and_load_bring_a_conversation_back() {
    let model = TextModel::new();
    let file = model.path().join("my talk.json");
    let path = file.to_str().unwrap();
    let mut chat = start(&model, &[]);
    ask(&mut chat, "One");
    chat.say(&format!("/save {path}"));
    let second = ask(&mut chat, "Two");
    chat.say("/reset");
    chat.say(&format!("/load {path}"));
    assert_eq!(ask(&mut chat, "Two")["text"], second["text"]);
    // A conversation that can't be loaded leaves the current one.
    for (contents, part) in [("{", "invalid JSON"), ("[{\"role\":\"user\"}]", "message 0")] {
        model.write("my talk.json", contents);
        let event = ask(&mut chat, &format!("/load {path}"));
        assert_eq!(event["event"], "error");
        let message = event["message"].as_str().unwrap();
        assert!(message.contains(part) && message.contains("my talk.json"), "{message}");
    }
    let event = ask(&mut chat, "/save /no/such/folder/talk.json");
    assert!(event["message"].as_str().unwrap().contains("/no/such/folder"), "{event}");
    assert_eq!(counts(&ask(&mut chat, "Six"))[0], 19 + 7 + 6);
    let (status, out, err) = chat.finish();
    assert!(status.success() && out.is_empty(), "{out}");
    assert!(err.contains("saved 2 messages") && err.contains("loaded 2 messages"), "{err}");
}

#[test]
fn a_full_context_is_told_and_a_reset_helps() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--context", "16"]);
    assert_eq!(ask(&mut chat, "One")["stop_reason"], "max_tokens");
    let event = ask(&mut chat, "Two");
    assert_eq!(event["event"], "error");
    assert!(event["message"].as_str().unwrap().contains("/reset"), "{event}");
    chat.say("/reset");
    let done = ask(&mut chat, "123456");
    assert_eq!(
        (&done["stop_reason"], &done["tokens"]["generated"]),
        (&"max_tokens".into(), &6.into())
    );
    chat.say("/reset");
    let done = ask(&mut chat, "12345678");
    assert_eq!(
        (&done["stop_reason"], &done["tokens"]["generated"]),
        (&"context_full".into(), &5.into())
    );
}

#[test]
fn a_script_of_lines_prints_answers_only() {
    let model = TextModel::new();
    let only = model.only(&["a"]);
    let line = ["--interactive", "-n", "3", "--logit-bias", &only];
    let script = "/help\nHi \\\nthere\n\n//not a command\n/nonsense\n/stats\n/quit\nnever read\n";
    let done = run(model.command("chat", &line), script.as_bytes());
    assert_eq!((done.code, done.stdout.as_str()), (0, "aaa\naaa\n"), "{done:?}");
    for part in ["/save FILE", "unknown command /nonsense", "prompt: ", "session: ", "[cut off"] {
        assert!(done.stderr.contains(part), "{part}: {done:?}");
    }
}

#[test]
fn an_error_of_a_turn_does_not_end_the_conversation() {
    let model = TextModel::new();
    let template = "{% if messages[-1].content == 'bad' %}{{ raise_exception('never') }}{% endif %}\
        {% for m in messages %}{{ m.content }}{% endfor %}x";
    model.write("chat_template.jinja", template);
    let mut chat = start(&model, &[]);
    assert_eq!(counts(&ask(&mut chat, "One"))[0], 4);
    let event = ask(&mut chat, "bad");
    assert!(event["message"].as_str().unwrap().contains("never"), "{event}");
    assert_eq!(counts(&ask(&mut chat, "Two"))[0], 3 + 6 + 3 + 1, "what was refused is not kept");
}

#[test]
fn options_are_set_between_turns() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--seed", "1"]);
    let greedy = ask(&mut chat, "One");
    chat.say("/set temperature 1");
    chat.say("/set max_tokens=4");
    let drawn: Vec<Value> = (0..4).map(|_| ask(&mut chat, "/retry")).collect();
    assert!(drawn.iter().all(|done| done["tokens"]["generated"] == 4));
    let start_of = |done: &Value| done["text"].as_str().unwrap()[..4].to_string();
    assert!(drawn.iter().any(|done| start_of(done) != start_of(&greedy)), "{drawn:?}");
    // The same seed gives the same samples, and is the one that is printed.
    chat.say("/set seed 7");
    let first = ask(&mut chat, "/retry");
    chat.say("/set seed 7");
    assert_eq!(ask(&mut chat, "/retry")["text"], first["text"]);
    assert_eq!(first["seed"], 7);
    chat.say("/set temperature default");
    chat.say("/set max-tokens 6");
    assert_eq!(ask(&mut chat, "/retry")["text"], greedy["text"]);
    let text = greedy["text"].as_str().unwrap();
    chat.say(&format!("/set stop {}", &text[1..3]));
    let stopped = ask(&mut chat, "/retry");
    assert_eq!(stopped["stop_reason"], "stop_string");
    for (line, part) in [
        ("/set top-p 7", "top_p"),
        ("/set temperature hot", "'hot'"),
        ("/set temperatur 1", "temperature"),
        ("/set nonsense 1", "/set lists"),
    ] {
        let event = ask(&mut chat, line);
        assert!(event["message"].as_str().unwrap().contains(part), "{line}: {event}");
    }
    chat.say("/set top_p");
    chat.say("/set");
    let (status, _, err) = chat.finish();
    assert!(status.success());
    for part in
        ["temperature: 1\n", "top-p: 1\n", "max-tokens            6\n", "seed                  7\n"]
    {
        assert!(err.contains(part), "{part}: {err}");
    }
}

#[test]
fn a_template_takes_variables_between_turns() {
    let model = TextModel::new();
    model.write(
        "chat_template.jinja",
        "{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}x",
    );
    let mut chat = start(&model, &["--template-var", "mood=abc"]);
    assert_eq!(counts(&ask(&mut chat, "One"))[0], 3 + 3 + 1);
    chat.say("/reset");
    chat.say("/set template-var mood=abcde");
    assert_eq!(counts(&ask(&mut chat, "One"))[0], 5 + 3 + 1);
}

#[test]
fn messages_are_taken_back_and_changed() {
    let model = TextModel::new();
    let mut chat = start(&model, &["--system", "Be"]);
    let first = ask(&mut chat, "One");
    ask(&mut chat, "Two");
    chat.say("/undo");
    let again = ask(&mut chat, "Six");
    assert_eq!(counts(&again)[0], 4 + 6 + 7 + 6, "the first turn stays");
    let changed = ask(&mut chat, "/edit Seven");
    assert_eq!(counts(&changed)[0], 4 + 6 + 7 + 8, "it takes the place of the last message");
    chat.say("/undo");
    chat.say("/undo");
    chat.say("/undo");
    let again = ask(&mut chat, "One");
    assert_eq!(
        (counts(&again)[0], &again["text"]),
        (10, &first["text"]),
        "the system prompt stays"
    );
    chat.say("/clear");
    chat.say("/edit");
    chat.say("/edit x");
    let (status, out, err) = chat.finish();
    assert!(status.success() && out.is_empty(), "{out}");
    for part in ["removed the last 2 messages", "no message to remove", "no message to change"] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

#[test]
fn quotes_make_several_lines_one_message() {
    let model = TextModel::new();
    let mut chat = start(&model, &[]);
    chat.say("\"\"\"One");
    chat.say("/quit");
    chat.say("");
    let done = ask(&mut chat, "Two \\\"\"\"");
    assert_eq!(counts(&done)[0], 3 + "One\n/quit\n\nTwo \\".len() as u64);
    chat.say("/reset");
    chat.say("/system \"\"\"");
    chat.say("Be");
    chat.say("\"\"\"");
    assert_eq!(counts(&ask(&mut chat, "One"))[0], 4 + 6);
    assert_eq!(counts(&ask(&mut chat, "\"\"\"Two\"\"\""))[0], 10 + 7 + 6);
}

#[test]
fn another_model_continues_the_conversation() {
    let (model, other) = (TextModel::new(), TextModel::new());
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}x";
    other.write("chat_template.jinja", template);
    let mut chat = start(&model, &[]);
    let first = ask(&mut chat, "One");
    let event = ask(&mut chat, "/model /no/such/model");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("/no/such/model") && message.contains("(given to /model)"),
        "{message}"
    );
    assert_eq!(counts(&ask(&mut chat, "Two")), [6 + 6 + 1 + 6, 6 + 6, 7], "the old one stays");
    chat.say("/undo");
    chat.say(&format!("/model {}", other.dir()));
    assert_eq!(counts(&ask(&mut chat, "Two")), [3 + 6 + 3 + 1, 0, 13], "its own template");
    chat.say(&format!("/model \"{}\"", model.dir()));
    chat.say("/model");
    chat.say("/reset");
    assert_eq!(ask(&mut chat, "One")["text"], first["text"]);
    let (_, _, err) = chat.finish();
    let name = model.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(err.matches(name).count(), 2, "{err}");
}

#[test]
fn no_file_is_replaced_unless_that_is_meant() {
    let model = TextModel::new();
    let file = model.path().join("talk.json");
    let path = file.to_str().unwrap();
    let mine = "something of mine";
    model.write("talk.json", mine);
    let line = ["--prompt", "One", "-n", "2"];
    let message = model.run("chat", &[&line[..], &["--save", path]].concat()).error(1);
    assert!(
        message.contains("talk.json already exists") && message.contains("--force"),
        "{message}"
    );
    let mut chat = start(&model, &[]);
    ask(&mut chat, "One");
    let event = ask(&mut chat, &format!("/save {path}"));
    assert!(event["message"].as_str().unwrap().contains("/save!"), "{event}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), mine);
    chat.say(&format!("/save! {path}"));
    // From here on the file belongs to this conversation.
    ask(&mut chat, "Two");
    chat.say(&format!("/save {path}"));
    ask(&mut chat, "Six");
    let saved = || std::fs::read_to_string(&file).unwrap().matches("\"role\"").count();
    assert_eq!(saved(), 4);
    // A new conversation no longer owns it.
    chat.say("/reset");
    let event = ask(&mut chat, &format!("/save {path}"));
    assert_eq!(event["event"], "error");
    let (status, _, err) = chat.finish();
    assert!(status.success() && saved() == 4, "{err}");
    let run = |more: &[&str]| model.run("chat", &[&line[..], &["--save", path], more].concat());
    run(&["--load", path]).ok();
    assert_eq!(saved(), 6);
    run(&["--force"]).ok();
    assert_eq!(saved(), 2);
    model.write("talk.json", "");
    run(&[]).ok();
    assert_eq!(saved(), 2, "an empty file has nothing to lose");
}

#[test]
fn a_tilde_is_the_home_folder_and_a_missing_folder_is_named() {
    let model = TextModel::new();
    let at_home = |more: &[&str], input: &[u8]| {
        let mut command = model.command("chat", &[&["-n", "2", "--interactive"], more].concat());
        command.env("HOME", model.path());
        run(command, input)
    };
    let done = at_home(
        &["--save=~/a.json"],
        b"One\n/save ~/b.json\n/load ~/b.json\n/save ~/no/such/c.json\n",
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert!(model.path().join("a.json").is_file() && model.path().join("b.json").is_file());
    assert!(!std::path::Path::new("~").exists());
    let folder = model.path().join("no/such");
    let missing = format!("the folder {} does not exist", folder.display());
    assert!(done.stderr.contains(&missing), "{done:?}");
    assert!(!done.stderr.contains("entity not found"), "{done:?}");
    let done = at_home(&["--load=~/a.json"], b"/undo\n");
    assert!(done.stderr.contains("removed the last 2"), "{done:?}");
    let mut command = model.command("chat", &["--prompt", "One", "--save=~/no/d.json"]);
    command.env("HOME", model.path());
    let message = run(command, b"").error(1);
    let folder = model.path().join("no");
    let missing = format!("the folder {} does not exist:", folder.display());
    assert!(message.contains(&missing), "{message}");
}

#[test]
fn what_a_model_was_made_for_is_told_once_when_it_is_exceeded() {
    let model = TextModel::new();
    let config = std::fs::read_to_string(model.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 16.into();
    model.write("config.json", &config.to_string());
    let mut chat = start(&model, &["--context", "0"]);
    for text in ["One", "Two", "Six"] {
        ask(&mut chat, text);
    }
    chat.say("/reset");
    ask(&mut chat, "One");
    ask(&mut chat, "Two");
    let (_, _, err) = chat.finish();
    let told = "tokens, but the model was trained for 16";
    assert_eq!(err.matches(told).count(), 2, "once for each conversation: {err}");
    let line = ["--prompt", "a longer question", "-n", "1", "--context", "0"];
    let done = model.run("chat", &line);
    assert!(done.code == 0 && done.stderr.contains(told), "{done:?}");
    model.run("chat", &["--prompt", "One", "-n", "1"]).ok();
}
