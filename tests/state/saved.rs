//! Saved and loaded sessions continue as if never interrupted, and files of another model are
//! refused.

use std::io::Cursor;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{Error, Logits, Model, ModelOptions, Run, SavedStateError, Session};
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;
use kinglet_tests::{argmax, cases};

use crate::{alone, assert_near, chosen, everywhere, open, rows_from, tokens};

/// A session as the bytes of its file.
pub(crate) fn bytes(session: &Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.write_to(&mut bytes, None).unwrap();
    bytes
}

pub(crate) fn load(model: &Model, bytes: &[u8]) -> Result<Session, Error> {
    model.read_session(Cursor::new(bytes)).map(|saved| saved.session)
}

#[test]
fn a_loaded_session_continues_with_other_threads_and_chunks() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let other = open(&case, &on.threads(1).chunk(19));
        let sequence = tokens(&mut Random::named(&case.name), model.vocab(), 330);
        let whole = alone(&model, &sequence);
        for position in [1, 64, 100, 300] {
            let mut session = model.session().unwrap();
            session.feed(&sequence[..position]).unwrap();
            let file = bytes(&session);
            let mut loaded = load(&other, &file).unwrap();
            assert_eq!(loaded.tokens(), &sequence[..position]);
            // It can generate at once.
            assert_eq!(loaded.last_logits(), session.last_logits(), "{}", case.name);
            assert_eq!(bytes(&loaded), file, "{}: saved again", case.name);
            let got = loaded.feed_all(&sequence[position..position + 30]).unwrap();
            let expected = &rows_from(&model, &whole, position)[..got.len()];
            assert_near(got, expected, &format!("{} saved at {position}", case.name));
        }
    }
}

#[test]
fn generation_continues_with_the_same_tokens() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let folder = TempDir::new();
        let path = folder.path().join("session.safetensors");
        let options = SamplingOptions { repetition_penalty: 1.3, ..SamplingOptions::default() };
        let mut sampler = Sampler::new(options.clone(), 7).unwrap();
        let mut session = model.session().unwrap();
        session.feed(&case.tokens).unwrap();
        sampler.state_mut().accept_all(&case.tokens);
        let generate = |session: &mut Session, sampler: &mut Sampler, count: usize| {
            let mut ids = Vec::new();
            for _ in 0..count {
                let id = sampler.sample(session.last_logits().unwrap()).unwrap();
                sampler.accept(id);
                ids.push(id);
                session.feed(&[id]).unwrap();
            }
            ids
        };
        generate(&mut session, &mut sampler, 9);
        session.save(&path, Some(sampler.state())).unwrap();
        let expected = generate(&mut session, &mut sampler, 20);
        let saved = model.load_session(&path).unwrap();
        let mut sampler = Sampler::with_state(options, saved.sampler.unwrap()).unwrap();
        let mut session = saved.session;
        assert_eq!(generate(&mut session, &mut sampler, 20), expected, "{}", case.name);
    }
}

#[test]
fn the_references_greedy_tokens_come_out_of_a_loaded_session() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut session = model.session().unwrap();
        session.feed(&case.tokens[..case.prompt]).unwrap();
        for (at, &expected) in case.greedy.iter().enumerate() {
            let id = argmax(session.last_logits().unwrap());
            assert_eq!(id, expected, "{} token {at}", case.name);
            session.feed(&[id]).unwrap();
            session = load(&model, &bytes(&session)).unwrap();
        }
    }
}

#[test]
fn empty_sessions_and_sessions_without_logits_can_be_saved() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let mut loaded = load(&model, &bytes(&model.session().unwrap())).unwrap();
        assert_eq!((loaded.position(), loaded.last_logits()), (0, None));
        let got = loaded.feed_all(&case.tokens).unwrap();
        assert_eq!(got, alone(&model, &case.tokens), "{}", case.name);
        let mut session = model.session().unwrap();
        let run = Run { session: &mut session, tokens: &case.tokens[..20], logits: Logits::None };
        model.step(&mut [run]).unwrap();
        let mut loaded = load(&model, &bytes(&session)).unwrap();
        assert_eq!((loaded.position(), loaded.last_logits()), (20, None));
        // Positions outside the window are not in the file, so nothing before it can be rewound to.
        let expected = if loaded.reach().contains(19) { 1 } else { 20 };
        assert_eq!(loaded.rewind_and_replay(20).unwrap(), expected, "{}", case.name);
        let whole = alone(&model, &case.tokens);
        let row = &whole[19 * model.vocab()..][..model.vocab()];
        assert_near(loaded.last_logits().unwrap(), row, &case.name);
    }
}

/// The reason for refusing a file.
#[track_caller]
fn refused(model: &Model, bytes: &[u8]) -> (SavedStateError, String) {
    match load(model, bytes).map(|_| ()) {
        Err(error @ Error::SavedState { .. }) => {
            let message = error.to_string();
            let Error::SavedState { source, .. } = error else { unreachable!() };
            (source, message)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_of_other_models_are_refused_with_what_differs() {
    let all = chosen();
    for pair in all.windows(2) {
        let [one, two] = [0, 1].map(|i| open(&pair[i], &ModelOptions::new().threads(1)));
        let mut session = one.session().unwrap();
        session.feed(&[1, 2, 3]).unwrap();
        let (error, message) = refused(&two, &bytes(&session));
        let SavedStateError::OtherModel { differences, .. } = error else { panic!("{error:?}") };
        assert!(differences.iter().any(|difference| difference.what == "weights"));
        assert!(message.contains("another model") && message.contains("weights"), "{message}");
    }
}

#[test]
fn the_same_weights_with_another_computation_are_another_model() {
    let case = cases().into_iter().find(|case| case.name == "llama/plain").unwrap();
    let model = open(&case, &ModelOptions::new().threads(1));
    let mut session = model.session().unwrap();
    session.feed(&[1, 2, 3]).unwrap();
    let file = bytes(&session);
    let folder = TempDir::copy_of(&case.folder);
    let mut config: serde_json::Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    config["rms_norm_eps"] = 1e-3.into();
    folder.write("config.json", config.to_string());
    let other = Model::open(folder.path(), &ModelOptions::new().threads(1)).unwrap();
    let (error, message) = refused(&other, &file);
    let SavedStateError::OtherModel { differences, .. } = error else { panic!("{error:?}") };
    let differing: Vec<&str> = differences.iter().map(|difference| difference.what).collect();
    assert_eq!(differing, ["computation"], "{message}");
    // The reverse: one weight differs.
    let mut weights = std::fs::read(case.folder.join("model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    let folder = TempDir::copy_of(&case.folder);
    folder.write("model.safetensors", weights);
    let other = Model::open(folder.path(), &ModelOptions::new().threads(1)).unwrap();
    let (error, message) = refused(&other, &file);
    let SavedStateError::OtherModel { differences, .. } = error else { panic!("{error:?}") };
    let differing: Vec<&str> = differences.iter().map(|difference| difference.what).collect();
    assert_eq!(differing, ["weights"], "{message}");
    // A copy of the folder is the same model.
    let folder = TempDir::copy_of(&case.folder);
    let same = Model::open(folder.path(), &ModelOptions::new().threads(1)).unwrap();
    assert_eq!(load(&same, &file).unwrap().tokens(), [1, 2, 3]);
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let case = &chosen()[0];
    let model = open(case, &ModelOptions::new().threads(1));
    let folder = TempDir::new();
    let path = folder.path().join("session.safetensors");
    let mut session = model.session().unwrap();
    session.feed(&[1, 2, 3]).unwrap();
    session.save(&path, None).unwrap();
    session.feed(&[4]).unwrap();
    session.save(&path, None).unwrap();
    assert_eq!(model.load_session(&path).unwrap().session.tokens(), [1, 2, 3, 4]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    let error = session.save(folder.path().join("no/such/folder/file"), None).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
    let error = session.save(folder.path(), None).unwrap_err();
    assert!(error.to_string().contains("regular file"), "{error}");
    let error = model.load_session(folder.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("regular file"), "{error}");
    let error = model.load_session(folder.path().join("missing")).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_context_limit_holds_for_loaded_sessions() {
    let case = &chosen()[0];
    let model = open(case, &ModelOptions::new().threads(1));
    let mut session = model.session().unwrap();
    session.feed(&case.tokens[..30]).unwrap();
    let limited = open(case, &ModelOptions::new().threads(1).context_limit(29));
    let error = load(&limited, &bytes(&session)).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::ContextFull { held: 0, more: 30, limit: 29 }), "{error:?}");
}

#[test]
fn other_readers_of_safetensors_understand_the_file() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let mut session = model.session().unwrap();
        session.feed(&case.tokens[..33]).unwrap();
        let file = bytes(&session);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("tokens").unwrap().shape(), [33]);
        assert_eq!(read.tensor("logits").unwrap().shape(), [model.vocab()]);
        for (index, state) in model.plan().states.iter().enumerate() {
            let name = format!("state.{index}.{}", state.name);
            assert!(read.names().iter().any(|known| known.starts_with(&name)), "{name}");
        }
    }
}
