//! Where messages end among the tokens of a conversation, which is what a later prompt shares with
//! an earlier one.
#![cfg(feature = "chat-template")]

use kinglet::text::{ChatTemplate, Conversation, EncodeOptions, Message, SpecialTokens, Tokenizer};

mod common;
use common::Folder;

fn tokenizers() -> Vec<Tokenizer> {
    let sources = [
        include_str!("fixtures/text/byte_level.json"),
        include_str!("fixtures/text/byte_fallback.json"),
        include_str!("fixtures/text/metaspace.json"),
    ];
    let folder = Folder::new("conversation");
    let open = |source: &&str| {
        folder.write("tokenizer.json", source);
        Tokenizer::from_folder(folder.path()).expect("it loads")
    };
    sources.iter().map(open).collect()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, SpecialTokens::default()).expect("it compiles")
}

fn talk(count: usize) -> Conversation {
    let said = ["Be brief, please.", "How far is the moon?", "Very far. Héllo €!", "And the sun?"];
    let roles = ["system", "user", "assistant"];
    let messages = (0..count).map(|i| {
        let role = if i == 0 { roles[0] } else { roles[1 + (i + 1) % 2] };
        Message::new(role, said[i % said.len()])
    });
    Conversation { messages: messages.collect(), ..Conversation::default() }
}

const TAGS: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}[assistant] <think>\n{% endif %}";

#[test]
fn boundaries_are_where_the_messages_end() {
    let template = template(TAGS);
    for tokenizer in tokenizers() {
        for count in 1..9 {
            let talk = talk(count);
            let prompt = talk.prompt(&template, &tokenizer).expect("a prompt");
            assert_eq!(prompt.tokens, talk.encode(&template, &tokenizer).expect("tokens"));
            assert!(prompt.boundaries.is_sorted_by(|a, b| a < b));
            assert!(prompt.boundaries.iter().all(|&at| at > 0 && at < prompt.tokens.len()));
            // The end of the first message, and those of the last four.
            assert_eq!(prompt.boundaries.len(), count.min(5), "{count} messages");
            for (place, &at) in prompt.boundaries.iter().enumerate() {
                let ended = if place == 0 { 1 } else { count + place + 1 - count.min(5) };
                let mut part = talk.clone();
                part.messages.truncate(ended);
                part.options.add_generation_prompt = false;
                let part = part.encode(&template, &tokenizer).expect("tokens");
                let common = part.iter().zip(&prompt.tokens).take_while(|(a, b)| a == b).count();
                // A token across the end is not in both, and the one before it may differ.
                assert!(at.abs_diff(common) <= 1, "{at} and {common} of {}", part.len());
                assert!(at + 2 > part.len(), "{at} of {}", part.len());
            }
        }
    }
}

#[test]
fn a_rewritten_answer_leaves_the_last_boundary_in_place() {
    // The template omits reasoning from earlier answers, and starts an answer with its beginning.
    let template = template(
        "{% for m in messages %}[{{ m.role }}] {{ m.content.split('</think>')[-1] }}\n{% endfor %}\
         {% if add_generation_prompt %}[assistant] <think>\n{% endif %}",
    );
    for tokenizer in tokenizers() {
        let mut talk = talk(2);
        let first = talk.prompt(&template, &tokenizer).expect("a prompt");
        talk.messages.push(Message::assistant("It is far away.</think>Far."));
        talk.messages.push(Message::user("How far?"));
        let second = talk.prompt(&template, &tokenizer).expect("a prompt");
        let last = *first.boundaries.last().expect("a boundary");
        assert_eq!(first.tokens[..last], second.tokens[..last]);
        assert_ne!(first.tokens[..], second.tokens[..first.tokens.len()]);
        // After it comes only the beginning of an answer.
        let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
        let begun = tokenizer.encode("[assistant] <think>\n", plain).expect("tokens");
        assert!(
            first.tokens.len() - last <= begun.len() + 1,
            "{} tokens",
            first.tokens.len() - last
        );
    }
}

#[test]
fn a_template_that_refuses_parts_gives_fewer_boundaries() {
    let template = template(
        "{% if messages[-1].role != 'user' %}{{ raise_exception('user last') }}{% endif %}\
         {% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
    );
    for tokenizer in tokenizers() {
        let mut talk = talk(4);
        let prompt = talk.prompt(&template, &tokenizer).expect("a prompt");
        // Only the part up to the first user message; the end of the whole is not a boundary.
        assert_eq!(prompt.boundaries.len(), 1, "{:?}", prompt.boundaries);
        talk.messages.pop();
        assert!(talk.prompt(&template, &tokenizer).is_err());
    }
}
