//! The demo models of the repository: their numbers equal the reference implementation's, and they
//! can chat.

use std::path::{Path, PathBuf};

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::text::{
    ChatOptions, ChatTemplate, Conversation, FinishReason, GenerationConfig, Message, OutputStream,
    StopMatcher, StopTokens, Tokenizer,
};
use kinglet::{Model, ModelOptions};
use kinglet_tests::{argmax, fixtures, relative_l2};
use safetensors::SafeTensors;

const MODELS: [&str; 2] = ["hybrid", "xlstm"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo").join(name)
}

/// Results of `transformers` for a model, in f32.
struct Reference {
    /// A fixed text; below, the logits after its last tokens.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// A chat's opening; below, its greedy continuation.
    chat: Vec<u32>,
    greedy: Vec<u32>,
    /// Held-out text; below, its mean negative log likelihood per predicted token.
    text: Vec<u32>,
    nll: f64,
}

fn reference(name: &str) -> Reference {
    let bytes = std::fs::read(fixtures().join(format!("demo/{name}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |tensor: &str| {
        let view = file.tensor(tensor).unwrap();
        let (ids, _) = view.data().as_chunks::<8>();
        ids.iter().map(|id| i64::from_le_bytes(*id) as u32).collect::<Vec<_>>()
    };
    let floats = |tensor: &str| {
        let view = file.tensor(tensor).unwrap();
        let (floats, _) = view.data().as_chunks::<4>();
        floats.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>()
    };
    Reference {
        tokens: ids("tokens"),
        logits: floats("logits"),
        chat: ids("chat_tokens"),
        greedy: ids("greedy"),
        text: ids("text_tokens"),
        nll: f64::from(floats("text_nll")[0]),
    }
}

fn open(name: &str) -> Model {
    Model::open(folder(name), &ModelOptions::new().backend(kinglet::Backend::Cpu)).unwrap()
}

#[test]
fn logits_equal_the_reference() {
    for name in MODELS {
        let (model, reference) = (open(name), reference(name));
        let mut session = model.session().unwrap();
        let all = session.feed_all(&reference.tokens).unwrap();
        let last = &all[all.len() - reference.logits.len()..];
        let error = relative_l2(last, &reference.logits);
        assert!(error <= 1e-5, "{name}: {error:.2e}");
    }
}

#[test]
fn the_template_and_greedy_text_equal_the_reference() {
    for name in MODELS {
        let (model, reference) = (open(name), reference(name));
        let tokenizer = Tokenizer::from_folder(model.folder()).unwrap();
        tokenizer.check_vocab(model.vocab()).unwrap();
        let template = ChatTemplate::from_folder(model.folder()).unwrap();
        let conversation = Conversation {
            messages: vec![Message::user("Tell me a story about a dog who finds a boat.")],
            options: ChatOptions { add_generation_prompt: true, ..ChatOptions::default() },
        };
        let prompt = conversation.encode(&template, &tokenizer).unwrap();
        assert_eq!(prompt, reference.chat, "{name}");
        let mut session = model.session().unwrap();
        let mut next = argmax(session.feed(&prompt).unwrap());
        let mut greedy = vec![next];
        while greedy.len() < reference.greedy.len() {
            next = argmax(session.feed(&[next]).unwrap());
            greedy.push(next);
        }
        assert_eq!(greedy, reference.greedy, "{name}");
        let text = tokenizer.decode(&greedy, true).unwrap();
        assert!(text.starts_with("Once upon a time"), "{name}: {text}");
    }
}

#[test]
fn perplexity_of_held_out_text_is_within_half_a_percent_of_the_reference() {
    for name in MODELS {
        let (model, reference) = (open(name), reference(name));
        let mut session = model.session().unwrap();
        let logits = session.feed_all(&reference.text).unwrap();
        let rows = logits.chunks(model.vocab()).zip(&reference.text[1..]);
        let losses = rows.map(|(row, &next)| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            total.ln() - f64::from(row[next as usize] - largest)
        });
        let nll = losses.sum::<f64>() / (reference.text.len() - 1) as f64;
        let ratio = (nll - reference.nll).exp();
        assert!((ratio - 1.0).abs() < 0.005, "{name}: perplexity is {ratio} of the reference's");
    }
}

#[test]
fn the_hybrid_answers_and_stops_at_its_default_settings() {
    let model = open("hybrid");
    let tokenizer = Tokenizer::from_folder(model.folder()).unwrap();
    let template = ChatTemplate::from_folder(model.folder()).unwrap();
    let config = GenerationConfig::from_folder(model.folder()).unwrap();
    let options = SamplingOptions::from_generation_config(&config).unwrap();
    for (seed, request) in [
        (1, "Tell me a story about a dog who finds a boat."),
        (2, "I'd like to book a table for two at an Italian restaurant tonight."),
    ] {
        let conversation = Conversation {
            messages: vec![Message::user(request)],
            options: ChatOptions { add_generation_prompt: true, ..ChatOptions::default() },
        };
        let mut session = model.session().unwrap();
        session.feed(&conversation.encode(&template, &tokenizer).unwrap()).unwrap();
        let mut sampler = Sampler::new(options.clone(), seed).unwrap();
        let stop = StopTokens::from_folder(model.folder(), Some(&tokenizer)).unwrap();
        let strings = StopMatcher::new::<&str>(&[]).unwrap();
        let mut output = OutputStream::new(tokenizer.stream(true), stop, strings);
        let (mut text, mut finish) = (String::new(), None);
        for _ in 0..400 {
            let next = sampler.sample(session.last_logits().unwrap()).unwrap();
            sampler.accept(next);
            let piece = output.push(next).unwrap();
            text.push_str(&piece.text);
            finish = piece.finish;
            if finish.is_some() {
                break;
            }
            session.feed(&[next]).unwrap();
        }
        assert!(matches!(finish, Some(FinishReason::StopToken(_))), "it does not stop: {text}");
        let words = text.split_whitespace().count();
        assert!((10..400).contains(&words), "{words} words: {text}");
        assert!(!text.contains('\u{fffd}') && !text.contains("<|"), "{text}");
    }
}
