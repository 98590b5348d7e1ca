//! Streaming decode against `tokenizers`' decode of all tokens at once, on random token ids.

use kinglet::sampling::Rng;
use kinglet::text::{EncodeOptions, SpecialTokens, StreamDecoder, Tokenizer};
use serde_json::{Value, json};

const TOKENIZERS: [(&str, &str); 4] = [
    ("byte_level", include_str!("fixtures/text/byte_level.json")),
    ("byte_fallback", include_str!("fixtures/text/byte_fallback.json")),
    ("metaspace", include_str!("fixtures/text/metaspace.json")),
    ("wordpiece", include_str!("fixtures/text/wordpiece.json")),
];

fn load(json: &str) -> (Tokenizer, tokenizers::Tokenizer) {
    let ours = Tokenizer::from_json(json.as_bytes(), "test".as_ref(), SpecialTokens::default());
    let library = json.parse().expect("the fixture is a tokenizer");
    (ours.expect("the fixture is a tokenizer"), library)
}

/// The same tokenizer with another decoder.
fn with_decoder(json: &str, decoder: Value) -> String {
    let mut tokenizer: Value = serde_json::from_str(json).expect("the fixture is JSON");
    tokenizer["decoder"] = decoder;
    tokenizer.to_string()
}

/// Random ids: mostly of any token, sometimes runs of byte tokens, special tokens, and ids past the
/// vocabulary.
fn ids(rng: &mut Rng, tokenizer: &Tokenizer, bytes: &[u32]) -> Vec<u32> {
    let size = tokenizer.largest_id().expect("a vocabulary") + 3;
    let mut ids = Vec::new();
    while rng.next_f64() < 0.93 {
        match rng.next_u64() % 4 {
            0 if !bytes.is_empty() => {
                for _ in 0..rng.next_u64() % 9 {
                    ids.push(bytes[(rng.next_u64() % bytes.len() as u64) as usize]);
                }
            }
            1 => {
                // A real character split into bytes, as a byte-level vocabulary may do.
                let c = ['é', 'ß', '川', '🙂', '\u{fffd}'][(rng.next_u64() % 5) as usize];
                let options =
                    EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
                let mut encoded = tokenizer.encode(&c.to_string(), options).expect("a character");
                if rng.next_f64() < 0.3 {
                    encoded.pop();
                }
                ids.extend(encoded);
            }
            _ => ids.push((rng.next_u64() % u64::from(size)) as u32),
        }
    }
    ids
}

/// The tokens that are single bytes.
fn byte_ids(tokenizer: &Tokenizer) -> Vec<u32> {
    let is_byte = |id: &u32| {
        let token = tokenizer.id_to_token(*id).unwrap_or_default();
        token.starts_with("<0x") || token.chars().count() == 1 && !token.is_ascii()
    };
    (0..=tokenizer.largest_id().unwrap_or(0)).filter(is_byte).collect()
}

/// Streams and compares. Returns the number of pieces.
fn check(ours: &Tokenizer, library: &tokenizers::Tokenizer, ids: &[u32], skip: bool) -> usize {
    let expected = library.decode(ids, skip).expect("the library decodes");
    let mut stream = ours.stream(skip);
    let mut text = String::new();
    let mut pieces = 0;
    for &id in ids {
        if let Some(piece) = stream.push(id).expect("decodes") {
            assert!(!piece.is_empty());
            // Pieces are never taken back, and end in whole characters since they are strings.
            text.push_str(&piece);
            assert!(expected.starts_with(&text), "{text:?} of {expected:?} for {ids:?}");
            pieces += 1;
        }
    }
    text.push_str(&stream.finish().expect("decodes"));
    assert_eq!(text, expected, "{ids:?}");
    assert_eq!(ours.decode(ids, skip).expect("decodes"), expected);
    // The stream starts a new text.
    for &id in ids {
        stream.push_to(id, &mut text).expect("decodes");
    }
    stream.finish_to(&mut text).expect("decodes");
    assert_eq!(text, expected.repeat(2));
    pieces
}

#[test]
fn a_stream_is_the_decode_of_all_tokens() {
    let mut rng = Rng::new(1);
    for (name, json) in TOKENIZERS {
        let (ours, library) = load(json);
        let bytes = byte_ids(&ours);
        let mut pieces = 0;
        for round in 0..1500 {
            pieces += check(&ours, &library, &ids(&mut rng, &ours, &bytes), round % 2 == 0);
        }
        assert!(pieces > 5000, "{name}: {pieces} pieces only");
    }
}

#[test]
fn each_decoder_and_their_chains_are_streamed_exactly() {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let regex = json!({"type": "Replace", "pattern": {"Regex": "[aeiou]+|▁"}, "content": "_"});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let strip = |start: usize, stop: usize| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let wordpiece =
        |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let bpe = json!({"type": "BPEDecoder", "suffix": "e"});
    let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let chain = |decoders: &[&Value]| json!({"type": "Sequence", "decoders": decoders});
    let decoders = [
        Value::Null,
        metaspace("always"),
        metaspace("never"),
        metaspace("first"),
        wordpiece(true),
        wordpiece(false),
        bpe.clone(),
        level.clone(),
        fallback.clone(),
        chain(&[&fallback, &metaspace("always")]),
        chain(&[&metaspace("always"), &fallback, &fuse]),
        chain(&[&replace, &fallback, &fuse]),
        chain(&[&replace, &fallback, &fuse, &strip(2, 0)]),
        chain(&[&regex, &fuse]),
        chain(&[&regex, &fallback]),
        chain(&[&chain(&[&replace, &fallback]), &chain(&[&fuse, &fuse])]),
        chain(&[&fallback, &fuse, &metaspace("always")]),
        chain(&[&bpe, &fallback, &wordpiece(false)]),
        chain(&[&level, &strip(1, 0)]),
        chain(&[&fallback, &bpe]),
    ];
    let mut rng = Rng::new(2);
    for (_, json) in TOKENIZERS {
        for decoder in &decoders {
            let (ours, library) = load(&with_decoder(json, decoder.clone()));
            let bytes = byte_ids(&ours);
            for round in 0..60 {
                let skip = round % 2 == 0;
                let mut ids = ids(&mut rng, &ours, &bytes);
                if ids.iter().all(|&id| ours.is_special(id) || library.id_to_token(id).is_none()) {
                    // The library's BPE decoder panics without tokens.
                    ids.push(5);
                }
                check(&ours, &library, &ids, skip);
            }
        }
    }
}

/// `Strip` at the end makes the library panic on tokens shorter than what it strips.
#[test]
fn a_strip_of_the_end_is_exact_and_never_panics() {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 2},
    ]});
    let (ours, library) = load(&with_decoder(TOKENIZERS[1].1, decoder));
    let bytes = byte_ids(&ours);
    let mut rng = Rng::new(3);
    let mut compared = 0;
    for _ in 0..1000 {
        let ids = ids(&mut rng, &ours, &bytes);
        let trimmed = ours.decode(&ids, false).expect("never fails");
        // It is certain not to panic only if start and end don't meet.
        if trimmed.trim().len() > 4 {
            assert_eq!(trimmed, library.decode(&ids, false).expect("the library decodes"));
            compared += 1;
        }
    }
    assert!(compared > 500);
    assert_eq!(ours.decode(&[], false).expect("never fails"), "");
}

/// Chains without an incremental form are decoded in a window, and are right as long as no rule
/// reaches back past it.
#[test]
fn other_chains_are_streamed_through_a_window() {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    ]});
    let (ours, library) = load(&with_decoder(TOKENIZERS[1].1, decoder));
    let bytes = byte_ids(&ours);
    let mut rng = Rng::new(4);
    let mut streamed = 0;
    for _ in 0..500 {
        let text = ["The river", " über die 川", " 🙂🙂", "\n\n", " don't", " ▁"];
        let text: String = (0..rng.next_u64() % 12)
            .map(|_| text[(rng.next_u64() % text.len() as u64) as usize])
            .collect();
        let ids = ours.encode(&text, EncodeOptions::default()).expect("encodes");
        streamed += check(&ours, &library, &ids, true);
    }
    assert!(streamed > 2000);
    // It never fails or panics, whatever the tokens.
    for _ in 0..200 {
        let ids = ids(&mut rng, &ours, &bytes);
        let mut stream = ours.stream(false);
        for id in ids {
            stream.push(id).expect("decodes");
        }
        stream.finish().expect("decodes");
    }
}

#[test]
fn a_continuation_keeps_its_first_space() {
    let (ours, _) = load(TOKENIZERS[1].1);
    let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
    let whole = ours.encode("The river runs past", plain).expect("encodes");
    let (prompt, rest) = whole.split_at(whole.len() / 2);
    let before = ours.decode(prompt, true).expect("decodes");
    let mut text = String::new();
    let mut stream = StreamDecoder::continuing(ours.clone(), true, prompt).expect("decodes");
    for &id in rest {
        stream.push_to(id, &mut text).expect("decodes");
    }
    stream.finish_to(&mut text).expect("decodes");
    assert_eq!(before + &text, "The river runs past");
    // The same tokens as a text of their own lack the space, and as a continuation have it.
    let answer = ours.encode("river", plain).expect("encodes");
    assert_eq!(ours.decode(&answer, true).expect("decodes"), "river");
    let mut stream = StreamDecoder::continuing(ours, true, prompt).expect("decodes");
    let mut text = String::new();
    for id in answer {
        stream.push_to(id, &mut text).expect("decodes");
    }
    assert_eq!(text, " river");
}

/// The work per token does not grow with the text.
#[test]
fn long_texts_take_linear_time() {
    let (ours, _) = load(TOKENIZERS[1].1);
    let mut rng = Rng::new(5);
    let bytes = byte_ids(&ours);
    let mut time = |count: usize| {
        let byte = |_| bytes[(rng.next_u64() % bytes.len() as u64) as usize];
        let ids: Vec<u32> = (0..count / 2).map(byte).chain((0..count / 2).map(|_| 300)).collect();
        // The best of several runs, since the machine may be busy.
        let run = |_| {
            let start = std::time::Instant::now();
            ours.decode(&ids, false).expect("decodes");
            start.elapsed().as_secs_f64()
        };
        (0..5).map(run).fold(f64::INFINITY, f64::min)
    };
    let (short, long) = (time(10_000), time(200_000));
    // Twenty times the tokens. Quadratic work would take four hundred times as long.
    assert!(long < 100.0 * short, "{short} s for 10,000 tokens, {long} s for 200,000");
}
