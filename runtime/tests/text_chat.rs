//! Chat templates against renderings of `transformers` (jinja2), and hostile templates.
#![cfg(feature = "chat-template")]

use kinglet::text::{
    ChatOptions, ChatTemplate, Conversation, DateTime, Message, RenderLimits, SpecialTokens,
    TextError, Tokenizer,
};
use serde_json::{Map, Value, json};

mod common;
use common::Folder;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/text/chat.json")).expect("the fixture is JSON")
}

fn special(fixture: &Value) -> SpecialTokens {
    let mut special = SpecialTokens::default();
    for (name, text) in fixture["special"].as_object().expect("an object") {
        special.set(name, text.as_str().expect("a string"));
    }
    special
}

/// The time at which the fixture was rendered.
const NOW: DateTime = DateTime { year: 2026, month: 2, day: 3, hour: 4, minute: 5, second: 6 };

fn options(json: &Value) -> ChatOptions {
    ChatOptions {
        add_generation_prompt: json["add_generation_prompt"].as_bool().expect("a bool"),
        continue_final_message: json["continue_final_message"].as_bool().unwrap_or(false),
        tools: json["tools"].as_array().cloned(),
        documents: json["documents"].as_array().cloned(),
        variables: json["variables"].as_object().cloned().unwrap_or_default(),
        now: Some(NOW),
        // As in `transformers`.
        adapt_messages: false,
        ..Default::default()
    }
}

#[test]
fn whole_templates_render_as_in_jinja2() {
    let fixture = fixture();
    let mut refused = 0;
    for rendering in fixture["renderings"].as_array().expect("a list") {
        let name = rendering[0].as_str().expect("a name");
        let source = match name {
            "inst" => include_str!("fixtures/text/chat_templates/inst.jinja"),
            "schema" => include_str!("fixtures/text/chat_templates/schema.jinja"),
            "tags" => include_str!("fixtures/text/chat_templates/tags.jinja"),
            "windows" => include_str!("fixtures/text/chat_templates/windows.jinja"),
            other => panic!("a template {other} that the test does not know"),
        };
        let template = ChatTemplate::new(source, special(&fixture)).expect("it compiles");
        let messages = &fixture["chats"][rendering[1].as_str().expect("a name")];
        let index = usize::try_from(rendering[2].as_u64().expect("an index")).expect("small");
        let options = options(&fixture["options"][index]);
        let rendered = template.render_json(messages, &options);
        match &rendering[3] {
            Value::String(expected) => {
                assert_eq!(&rendered.expect("it renders"), expected, "{rendering}");
                // The result is the same through `Message`.
                let messages: Vec<Message> =
                    serde_json::from_value(messages.clone()).expect("messages");
                assert_eq!(&template.render(&messages, &options).expect("it renders"), expected);
            }
            _ => {
                rendered.expect_err(&format!("jinja2 refuses {rendering}"));
                refused += 1;
            }
        }
    }
    assert!(refused > 3);
}

#[test]
fn each_construct_renders_as_in_jinja2() {
    let fixture = fixture();
    let lines = include_str!("fixtures/text/chat_lines.txt");
    let expected = fixture["lines"].as_array().expect("a list");
    assert_eq!(lines.lines().count(), expected.len());
    let variables = fixture["variables"].as_object().expect("an object");
    let options =
        ChatOptions { variables: variables.clone(), now: Some(NOW), ..Default::default() };
    for (line, expected) in lines.lines().zip(expected) {
        let rendered = ChatTemplate::new(&line.replace("\\n!", "\n"), special(&fixture))
            .and_then(|template| template.render_json(&json!([]), &options))
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(rendered, expected.as_str().expect("a string"), "{line}");
    }
}

fn render(source: &str) -> Result<String, TextError> {
    render_with(source, &ChatOptions::default())
}

fn render_with(source: &str, options: &ChatOptions) -> Result<String, TextError> {
    let template = ChatTemplate::new(source, SpecialTokens::default())?;
    template.render(&[Message::system("s"), Message::user("hi")], options)
}

#[test]
fn a_template_that_loops_for_ever_is_stopped() {
    let forever = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set n = namespace(x='x') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% for a in range(9999) %}{% set b = messages * 1000 %}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
        "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ '%999999999999d' | format(1) }}",
        "{{ 'x' | indent(999999999999, true) }}",
        "{{ 'x'.center(999999999999) }}",
        "{{ [1] | tojson(indent=999999999999) }}",
        "{{ ('x' * 1000000).join('y' * 1000000) }}",
        "{{ [1] | batch(999999999999, 'x') | list }}",
        "{{ [1] | slice(999999999999) | list }}",
        "{{ range(99999) | map('string') | join('x' * 100000) }}",
        "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ range(0, 9999999999999) | list }}",
    ];
    for source in forever {
        let start = std::time::Instant::now();
        let error = render(source).expect_err(source);
        let seconds = start.elapsed().as_secs_f64();
        assert!(
            matches!(
                error,
                TextError::TemplateWork { .. }
                    | TextError::TemplateOutput { .. }
                    | TextError::TemplateRender { .. }
            ),
            "{source}: {error:?}"
        );
        assert!(seconds < 20.0, "{source} took {seconds} s");
    }
    assert!(matches!(
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        Err(TextError::TemplateWork { .. })
    ));
    let limits = RenderLimits { output_bytes: 1000, ..Default::default() };
    let options = ChatOptions { limits, ..Default::default() };
    assert!(matches!(
        render_with("{{ 'x' * 1001 }}", &options),
        Err(TextError::TemplateOutput { limit: 1000 })
    ));
    assert_eq!(render_with("{{ 'x' * 1000 }}", &options).expect("just fits").len(), 1000);
}

/// minijinja doesn't limit depth, and a stack overflow would end the process.
#[test]
fn a_template_cannot_overflow_the_stack() {
    let loops = |body: &str| {
        format!(
            "{{% set n = namespace(x=[1]) %}}{{% for a in range(99999) %}}{body}{{% endfor %}}{{{{ n.x }}}}"
        )
    };
    let operators = 159;
    let mut deep = vec![
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}".to_string(),
        "{% set n = namespace() %}{% set n.n = [n] %}{{ n | tojson }}".to_string(),
        "{% set n = namespace() %}{% set m = namespace(n=n) %}{% set n.m = m %}{{ n }}".to_string(),
        "{% set n = namespace() %}{% set n.m = {'a': (n,)} %}{{ '' ~ n }}".to_string(),
        loops("{% set n.x = [n.x] %}"),
        loops("{% set n.x = {'a': n.x} %}"),
        loops("{% set n.x = (n.x,) %}"),
        loops("{% set n.x = n.x[:] %}"),
        loops("{% set n.x = n.x[::-1] %}"),
        loops("{% set n.x = n.x | map('string') %}"),
        loops("{% set n.x = n.x + [] %}"),
        loops("{% set n.x = n.x | select %}"),
        loops("{% set n.x = dict(a=n.x) %}"),
        loops("{% set n.x = n.x | batch(2) %}"),
        loops("{% set n.x = namespace(x=n.x) %}"),
        loops("{% set y = n.x %}{% set n.x = [[[[y]]]] %}"),
        "{% set x = [] %}".to_string() + &"{% set x = [x] %}".repeat(20_000) + "{{ x }}",
        "{% set x = [] %}".to_string() + &"{% set x = x[:] %}".repeat(20_000) + "{{ x }}",
        "{% set x = [] %}".to_string() + &"{% set x = namespace(a=x) %}".repeat(15_000) + "{{ x }}",
        "{% macro f(x, n) %}{{ f([x], n + 1) }}{% endmacro %}{{ f([], 0) }}".to_string(),
        "{% macro f(x, n) %}{{ f(x[:][:][:][:][:], n + 1) }}{% endmacro %}{{ f([], 0) }}".into(),
        "{% macro f(n, x=[]) %}{{ f(n + 1, x={'a': x}) }}{% endmacro %}{{ f(0) }}".to_string(),
        "{% macro f() %}{{ caller([[1]]) }}{% endmacro %}".to_string()
            + &"{% call(x) f() %}".repeat(120)
            + &"{% endcall %}".repeat(120),
        "{% if 1 %}".repeat(50_000),
        "{% for a in [1] %}".repeat(20_000),
        format!("{{{{ {} }}}}", "[".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(79), ")".repeat(79)),
        format!("{{{{ {}1{} }}}}", "[".repeat(79), "]".repeat(79)),
        format!("{{{{ {}1 }}}}", "-".repeat(operators)),
        format!("{{{{ {}1 }}}}", "not ".repeat(operators)),
        format!("{{{{ 1{} }}}}", "+1".repeat(operators)),
        format!("{{{{ 1{} }}}}", "**1".repeat(operators)),
        format!("{{{{ 1{} }}}}", "~1".repeat(operators)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(operators)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(operators / 2)),
        format!("{{{{ 1{} }}}}", " is string".repeat(operators)),
        format!("{{{{ 1{} }}}}", "<1".repeat(operators)),
        format!("{{{{ messages{} }}}}", ".a".repeat(operators)),
        format!("{{{{ messages{} }}}}", "|list".repeat(operators)),
        format!("{{{{ messages{} }}}}", "[:]".repeat(operators / 3)),
        format!("{{{{ messages{} | length }}}}", "|map('list')".repeat(operators / 3)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(200)),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(79), ")".repeat(79)),
    ];
    // In a loop of stored values, each as deep as one expression can be.
    deep.push(loops(&format!("{{% set n.x = n.x{} %}}", "[:]".repeat(50))));
    deep.push(loops(&format!("{{% set n.x = {}n.x{} %}}", "[".repeat(70), "]".repeat(70))));
    // The smallest default stacks are those of threads on macOS and iOS.
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        for source in deep {
            // It may render or fail, but must return.
            let _ = render(&source);
        }
    });
    thread.expect("a thread").join().expect("no panic");
    // These must be refused.
    for source in [
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
        "{% set n = namespace() %}{% set n.n = [{'a': n}] %}",
        &loops("{% set n.x = [n.x] %}"),
    ] {
        assert!(matches!(render(source), Err(TextError::TemplateRender { .. })), "{source}");
    }
}

#[test]
fn errors_say_what_and_where() {
    let message = |source: &str| render(source).expect_err(source).to_string();
    assert_eq!(
        message("a\n\n{% raise %}"),
        "chat template (line 3): syntax error: syntax error: unknown statement raise"
    );
    assert_eq!(
        message("a\n{{ raise_exception('Only ' ~ 1 ~ ' message!') }}"),
        "the chat template refuses this conversation: Only 1 message!"
    );
    let undefined = message("a\n{% if true %}\n{{ messages.x.y }}{% endif %}");
    assert!(undefined.contains("line 3") && undefined.contains("messages.x"), "{undefined}");
    let unclosed = message("a\n{{ 'x' ");
    assert!(unclosed.contains("line 2"), "{unclosed}");
    assert!(message("{{ [].append(1) }}").contains("append"));
    for source in
        ["{{ x y }}", "{% if %}", "{% for %}", "{{ 'a }}", "{% raw %}", "{# ", "{{", "}}{%"]
    {
        assert!(matches!(render(source), Err(TextError::TemplateSyntax { .. })), "{source}");
    }
    let template = ChatTemplate::new("{{ messages }}", SpecialTokens::default()).expect("compiles");
    let refused = template.render_json(&json!({"role": "user"}), &ChatOptions::default());
    assert!(matches!(refused, Err(TextError::Conversation { .. })));
    let refused = template.render_json(&json!(["hi"]), &ChatOptions::default());
    assert!(matches!(refused, Err(TextError::Conversation { .. })));
    let mut nested = json!(1);
    for _ in 0..1000 {
        nested = json!([nested]);
    }
    let messages = json!([{"role": "user", "content": nested}]);
    let refused = template.render_json(&messages, &ChatOptions::default());
    assert!(matches!(refused, Err(TextError::Conversation { .. })));
}

#[test]
fn a_last_message_is_continued() {
    let options = ChatOptions {
        add_generation_prompt: false,
        continue_final_message: true,
        ..Default::default()
    };
    let run = |source: &str, messages: &[Message]| {
        ChatTemplate::new(source, SpecialTokens::default())
            .and_then(|template| template.render(messages, &options))
    };
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";
    let trimmed = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";
    let messages = [Message::user("q"), Message::assistant("Well, ")];
    assert_eq!(run(plain, &messages).expect("renders"), "<user>q</><assistant>Well, ");
    assert_eq!(run(trimmed, &messages).expect("renders"), "<user>q</><assistant>Well,");
    let hidden = "{% for m in messages %}{{ m.role }}{% endfor %}";
    assert!(matches!(run(hidden, &messages), Err(TextError::Conversation { .. })));
    assert!(matches!(run(plain, &[]), Err(TextError::Conversation { .. })));
    let both = ChatOptions { add_generation_prompt: true, ..options.clone() };
    let template = ChatTemplate::new(plain, SpecialTokens::default()).expect("compiles");
    assert!(matches!(template.render(&messages, &both), Err(TextError::Conversation { .. })));
}

#[test]
fn templates_are_found_where_models_have_them() {
    let user = [Message::user("hi")];
    let run = |folder: &Folder, options: &ChatOptions| {
        ChatTemplate::from_folder(folder.path()).and_then(|t| t.render(&user, options))
    };
    let plain = ChatOptions::default();
    let folder = Folder::new("chat-places");
    assert!(matches!(run(&folder, &plain), Err(TextError::NoChatTemplate { .. })));

    folder.write("chat_template.json", r#"{"chat_template": "json {{ messages[0].content }}"}"#);
    assert_eq!(run(&folder, &plain).expect("renders"), "json hi");

    folder.write(
        "tokenizer_config.json",
        r#"{"chat_template": "config {{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
            "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>",
            "added_tokens_decoder": {}}"#,
    );
    assert_eq!(run(&folder, &plain).expect("renders"), "config <s>hi</s>");

    let named = json!({"chat_template": [
        {"name": "default", "template": "default"},
        {"name": "tool_use", "template": "tools {{ tools | length }}"},
        {"name": "rag", "template": "rag {{ documents | length }}"},
    ]});
    folder.write("tokenizer_config.json", &named.to_string());
    assert_eq!(run(&folder, &plain).expect("renders"), "default");
    let tools = ChatOptions { tools: Some(vec![json!({})]), ..Default::default() };
    assert_eq!(run(&folder, &tools).expect("renders"), "tools 1");
    let rag = ChatOptions {
        template: Some("rag".into()),
        documents: Some(vec![json!({}), json!({})]),
        ..Default::default()
    };
    assert_eq!(run(&folder, &rag).expect("renders"), "rag 2");
    let unknown = ChatOptions { template: Some("none".into()), ..Default::default() };
    match run(&folder, &unknown) {
        Err(TextError::NoSuchChatTemplate { name, available }) => {
            assert_eq!(name, "none");
            assert_eq!(available, ["default", "tool_use", "rag"]);
        }
        other => panic!("{other:?}"),
    }

    folder.write("chat_template.jinja", "file {{ messages[0].content }}\n");
    assert_eq!(run(&folder, &plain).expect("renders"), "file hi");
    folder.write("additional_chat_templates/rag.jinja", "more {{ documents | length }}");
    assert_eq!(run(&folder, &rag).expect("renders"), "more 2");

    for (file, contents) in [
        ("tokenizer_config.json", r#"{"chat_template": 5}"#),
        ("tokenizer_config.json", r#"{"chat_template": [{"name": "default"}]}"#),
        ("tokenizer_config.json", r#"{"chat_template": {"default": null}}"#),
        ("chat_template.json", r#"{"chat_template": true}"#),
    ] {
        let folder = Folder::new("chat-wrong");
        folder.write(file, contents);
        match ChatTemplate::from_folder(folder.path()) {
            Err(TextError::Field { path, .. }) => assert!(path.ends_with(file)),
            other => panic!("{contents}: {other:?}"),
        }
    }
    let folder = Folder::new("chat-wrong");
    folder.write("chat_template.jinja", "x".repeat(1 << 20).as_str());
    let error = ChatTemplate::from_folder(folder.path()).expect_err("too large");
    assert!(matches!(error, TextError::FileTooLarge { .. }), "{error}");
    folder.write_bytes("chat_template.jinja", b"\xff\xfe");
    assert!(matches!(ChatTemplate::from_folder(folder.path()), Err(TextError::Io { .. })));
}

#[test]
fn a_conversation_becomes_tokens() {
    let folder = Folder::new("conversation");
    folder.write("tokenizer.json", include_str!("fixtures/text/byte_level.json"));
    folder.write(
        "chat_template.jinja",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    );
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    let template = ChatTemplate::from_folder(folder.path()).expect("a template");
    let mut chat = Conversation::default();
    chat.messages.push(Message::user("The river"));
    let ids = chat.encode(&template, &tokenizer).expect("encodes");
    let id = |token: &str| tokenizer.token_to_id(token).expect("a token");
    assert_eq!(ids.iter().filter(|&&i| i == id("<|im_start|>")).count(), 2);
    assert_eq!(ids[0], id("<|im_start|>"));
    let text = tokenizer.decode(&ids, false).expect("decodes");
    assert_eq!(text, chat.render(&template).expect("renders"));
    assert_eq!(text, "<|im_start|>user\nThe river<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn messages_keep_all_fields() {
    let json = json!({"role": "assistant", "content": null, "tool_calls": [{"id": 1}], "a": 2});
    let message: Message = serde_json::from_value(json.clone()).expect("a message");
    assert_eq!(message.content, Some(Value::Null));
    assert_eq!(message.extra.len(), 2);
    assert_eq!(serde_json::to_value(&message).expect("JSON"), json);
    let without: Message = serde_json::from_value(json!({"role": "tool"})).expect("a message");
    assert_eq!(without, Message { role: "tool".into(), content: None, extra: Map::new() });
    let with = Message::assistant("x").with("reasoning_content", "why");
    let source = "{{ messages[0] | tojson }}{{ messages[0].thinking }}";
    let template = ChatTemplate::new(source, SpecialTokens::default()).expect("compiles");
    let rendered = template.render(&[with], &ChatOptions::default()).expect("renders");
    assert!(
        rendered.starts_with(r#"{"role": "assistant", "content": "x", "reasoning_content": "why""#)
    );
    assert!(rendered.ends_with("why"));
}

#[test]
fn messages_take_the_form_that_a_template_takes() {
    let fixture = fixture();
    let adapted = fixture["adapted"].as_array().expect("a list");
    assert!(adapted.len() > 100);
    let templates: Map<String, Value> = fixture["forms"].as_object().expect("an object").clone();
    let templates: Vec<_> = templates
        .into_iter()
        .map(|(name, source)| {
            let source = source.as_str().expect("a template");
            (name, ChatTemplate::new(source, special(&fixture)).expect("it compiles"))
        })
        .collect();
    for case in adapted {
        let (_, template) =
            templates.iter().find(|(name, _)| case[0] == **name).expect("a known template");
        let rendered = template
            .render_json(&case[1], &ChatOptions::default())
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(rendered, case[2].as_str().expect("a text"), "{case}");
        let messages: Vec<Message> = serde_json::from_value(case[1].clone()).expect("messages");
        let same = template.render(&messages, &ChatOptions::default()).expect("it renders");
        assert_eq!(same, rendered, "by way of `Message`");
    }
}

#[test]
fn what_a_template_cannot_show_is_refused() {
    let template = ChatTemplate::new(
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        SpecialTokens::default(),
    )
    .expect("it compiles");
    let run = |content: Value| {
        let messages =
            json!([{"role": "user", "content": "a"}, {"role": "user", "content": content}]);
        template.render_json(&messages, &ChatOptions::default())
    };
    for (content, wanted) in [
        (
            json!([{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {}}]),
            "image_url",
        ),
        (json!([{"type": "text"}]), "\"text\""),
        (json!([5]), "found 5"),
        (json!([{}]), "`text`"),
    ] {
        match run(content) {
            Err(TextError::Conversation { problem }) => {
                assert!(problem.contains("message 1") && problem.contains(wanted), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_template_that_fails_on_everything_says_so() {
    // Completing the messages doesn't help, so the first error is reported.
    let template = ChatTemplate::new("{{ messages[0].content + 1 }}", SpecialTokens::default());
    let template = template.expect("it compiles");
    for content in [json!("a"), json!(null), json!(5), json!(["a"])] {
        let messages = json!([{"role": "user", "content": content}]);
        let error = template.render_json(&messages, &ChatOptions::default()).expect_err("fails");
        assert!(matches!(error, TextError::TemplateRender { .. }), "{content}: {error}");
    }
}

#[test]
fn names_of_tokens_are_variables() {
    let folder = Folder::new("named");
    folder.write(
        "tokenizer_config.json",
        r#"{"eot_token": "<eot>", "extra_special_tokens": {"image_token": "<image>"},
            "added_tokens_decoder": {}, "bos_token": "<s>",
            "chat_template": "{{ bos_token }}{{ eot_token }}{{ image_token }}{{ pad_token }}"}"#,
    );
    let run = || {
        let template = ChatTemplate::from_folder(folder.path()).expect("a template");
        template.render(&[Message::user("Hi")], &ChatOptions::default()).expect("it renders")
    };
    assert_eq!(run(), "<s><eot><image>");
    // The padding token of the tokenizer has a name, too.
    folder.write("tokenizer.json", r#"{"padding": {"pad_token": "<pad>"}}"#);
    assert_eq!(run(), "<s><eot><image><pad>");
}

#[test]
fn templates_come_from_files_by_name() {
    let folder = Folder::new("files");
    let load =
        |name: &str| ChatTemplate::from_file(&folder.path().join(name), SpecialTokens::default());
    folder.write("a.jinja", "{{ messages[0].content }}");
    assert_eq!(load("a.jinja").expect("a template").names(), ["default"]);
    folder.write(
        "b.json",
        r#"{"chat_template": [{"name": "x", "template": "1"}, {"name": "y", "template": "2"}]}"#,
    );
    let template = load("b.json").expect("templates");
    assert_eq!(template.names(), ["x", "y"]);
    let options = ChatOptions { template: Some("y".into()), ..ChatOptions::default() };
    assert_eq!(template.choose(&options).expect("it is there"), "y");
    assert!(matches!(
        template.choose(&ChatOptions::default()),
        Err(TextError::NoSuchChatTemplate { available, .. }) if available == ["x", "y"]
    ));
    assert!(matches!(load("c.jinja"), Err(TextError::Io { .. })));
    assert!(matches!(load("c.json"), Err(TextError::Io { .. })));
    folder.write("d.json", "{}");
    assert!(matches!(load("d.json"), Err(TextError::Field { .. })));
}
