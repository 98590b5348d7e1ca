//! `kinglet chat` over several turns: slash commands, and what is not computed again.

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

/// Prompt, reused and computed tokens.
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
    // The last token of the answer is no part of the state yet.
    assert_eq!(counts(&second), [6 + 6 + 1 + 6, 6 + 5, 1 + 1 + 6]);
    let (status, _, _) = chat.finish();
    assert!(status.success());
    // The reused state gives what a fresh one would.
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
    // <|user|> O n e <|end|> is what both begin with.
    assert_eq!(counts(&ask(&mut chat, "Two")), [24, 5, 19]);
    assert_eq!(counts(&ask(&mut chat, "Six")), [37, 18, 19]);
    assert_eq!(counts(&ask(&mut chat, "Ten")), [50, 31, 19]);
}

#[test]
fn a_later_run_begins_where_an_earlier_one_was() {
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
    // Prompt and answer; the answer's last token was never in the state.
    assert_eq!(counts(&second), [19, 11, 8]);
    assert!(chat.finish().0.success());
    let mut fresh = start(&model, &["--load", talk, "--cache-memory", "0"]);
    let again = ask(&mut fresh, "Two");
    assert_eq!((counts(&again), &again["text"]), ([19, 0, 19], &second["text"]));
    // Without memory for it, the session itself is still gone on from.
    assert_eq!(counts(&ask(&mut fresh, "Six"))[1], 19 + 5);
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
    // The conversation has the last answer only.
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
    // A conversation that can't be loaded leaves the one that there is.
    for (contents, part) in [("{", "not JSON"), ("[{\"role\":\"user\"}]", "message 0")] {
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
    for part in ["/save FILE", "there is no command /nonsense", "prompt: ", "session: ", "[cut off"]
    {
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
