//! A long run through a recurrent model: memory stays constant, and the state equals that of a run
//! cut differently.
//!
//! The full run, a million tokens, takes minutes:
//! `cargo test --release -p kinglet-tests --test state -- --ignored soak`.

use kinglet::plan::StateKind;
use kinglet::{Logits, Model, ModelOptions, Retain, Run, Session};
use kinglet_tests::random::Random;

use crate::{assert_near, chosen, open, tokens};

/// Feeds `count` tokens of the model's sequence in pieces of `piece`; calls `after` after each.
fn run(model: &Model, count: usize, piece: usize, mut after: impl FnMut(&Session)) -> Session {
    let mut session = model.session().unwrap();
    session.retain(Retain { every: 1000, points: 4 });
    let mut random = Random::named(&model.spec().model_type);
    let mut waiting = Vec::new();
    while session.position() < count {
        let take = piece.min(count - session.position());
        while waiting.len() < take {
            waiting.extend(tokens(&mut random, model.vocab(), 1024));
        }
        let tokens: Vec<u32> = waiting.drain(..take).collect();
        let wanted = if session.position() + take == count { Logits::Last } else { Logits::None };
        model.step(&mut [Run { session: &mut session, tokens: &tokens, logits: wanted }]).unwrap();
        after(&session);
    }
    session
}

/// The recurrent tensors, from the session's file.
fn state(session: &Session) -> Vec<f32> {
    let mut file = Vec::new();
    session.write_to(&mut file, None).unwrap();
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut names: Vec<_> = read.names().into_iter().filter(|n| n.starts_with("state.")).collect();
    names.sort_unstable();
    let bytes = names.iter().flat_map(|name| read.tensor(name).unwrap().data().to_vec());
    let bytes: Vec<u8> = bytes.collect();
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Resident memory of this process, if the system tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn recurrent() -> Vec<(String, Model)> {
    let models = chosen().into_iter().map(|case| {
        let model = open(&case, &ModelOptions::new().threads(1));
        (case.name, model)
    });
    let constant = |model: &Model| {
        model.plan().states.iter().all(|s| matches!(s.kind, StateKind::Tensor { .. }))
    };
    models.filter(|(_, model)| constant(model)).collect()
}

fn soak(name: &str, model: &Model, count: usize) {
    let bytes = model.session().unwrap().state_bytes();
    let mut warm = None;
    let whole = run(model, count, 512, |session| {
        assert_eq!(session.state_bytes(), bytes, "{name}");
        assert!(session.retained_bytes() <= 5 * (bytes + 4 * model.vocab()), "{name}");
        if session.position() > count / 10 {
            // The token list grows by doubling; it is not part of the state.
            let tokens = 4 * session.tokens().len() / 1024;
            if let Some(now) = resident().map(|kib| kib.saturating_sub(2 * tokens)) {
                let first = *warm.get_or_insert(now);
                assert!(now as f64 <= 1.01 * first as f64, "{name}: {first} KiB became {now} KiB");
            }
        }
    });
    let pieces = run(model, count, 97, |_| {});
    let what = format!("{name} after {count} tokens");
    assert_near(&state(&pieces), &state(&whole), &what);
    assert_near(pieces.last_logits().unwrap(), whole.last_logits().unwrap(), &what);
}

#[test]
fn a_long_run_leaves_the_state_of_any_other_way_there() {
    let models = recurrent();
    assert!(models.len() >= 4, "only {} recurrent models", models.len());
    for (name, model) in models {
        let bytes = model.session().unwrap().state_bytes();
        let whole = run(&model, 5_000, 512, |session| assert_eq!(session.state_bytes(), bytes));
        let pieces = run(&model, 5_000, 97, |_| {});
        assert_near(&state(&pieces), &state(&whole), &name);
    }
}

#[test]
#[ignore = "minutes: the whole soak"]
fn soak_a_million_tokens() {
    // One at a time, since the whole process's memory is measured.
    for (name, model) in recurrent() {
        let begun = std::time::Instant::now();
        soak(&name, &model, 1_000_000);
        println!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
}
