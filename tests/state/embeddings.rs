//! Vectors in place of tokens: the same results if they are tokens' own, and an ordinary state if
//! they are not.

use std::io::Cursor;

use kinglet::sampling::SamplerState;
use kinglet::{
    Activations, Error, FIRST_VECTOR_ID, Model, PrefixCache, PrefixCacheOptions, Session,
};
use kinglet_tests::case_named;
use kinglet_tests::random::Random;

use crate::{assert_near, cpu, device, everywhere, open, tokens};

#[test]
fn the_vectors_of_tokens_do_what_the_tokens_do() {
    for (case, on) in everywhere() {
        let what = format!("{} on {}", case.name, on.name);
        let model = open(&case, &on.threads(2).activations(Activations::F32).chunk(16));
        let all = tokens(&mut Random::named(&case.name), case.vocab(), 40);
        let expected = model.session().unwrap().feed(&all).unwrap().to_vec();
        let width = model.embedding_width();
        let vectors = model.embed(&all).unwrap();
        assert_eq!(vectors.len(), 40 * width);
        let mut session = model.session().unwrap();
        assert_near(session.feed_embeddings(&vectors).unwrap(), &expected, &what);
        assert!(session.tokens().iter().all(|&id| id >= FIRST_VECTOR_ID), "{what}");
        // Equal vectors have equal ids, different ones different ids.
        for (i, j) in [(0, 1), (3, 20), (7, 39)] {
            let ids = session.tokens();
            assert_eq!(ids[i] == ids[j], all[i] == all[j], "{what}: {i}, {j}");
        }
        // Between tokens, in pieces.
        let mut session = model.session().unwrap();
        session.feed(&all[..9]).unwrap();
        session.feed_embeddings(&vectors[9 * width..10 * width]).unwrap();
        session.feed_embeddings(&vectors[10 * width..33 * width]).unwrap();
        assert_near(session.feed(&all[33..]).unwrap(), &expected, &format!("{what}, mixed"));
        assert_eq!((&session.tokens()[..9], &session.tokens()[33..]), (&all[..9], &all[33..]));
    }
}

#[test]
fn a_state_of_vectors_is_kept_and_brought_back_like_any_other() {
    for on in [Some(cpu()), device()].into_iter().flatten() {
        let case = case_named("granitemoehybrid/mixed");
        let what = on.name.clone();
        let model = open(&case, &on.threads(2).activations(Activations::F32));
        let mut random = Random::named("vectors");
        let width = model.embedding_width();
        let picture: Vec<f32> = (0..12 * width).map(|_| random.normal() as f32).collect();
        let mut other = picture.clone();
        other[5 * width] += 0.5;
        let rest = tokens(&mut random, case.vocab(), 6);

        let mut session = model.session().unwrap();
        session.feed(&rest).unwrap();
        session.feed_embeddings(&picture).unwrap();
        let snapshot = session.snapshot().unwrap();
        let mut saved = Vec::new();
        session.write_to(&mut saved, None).unwrap();
        let mut cache = PrefixCache::new(&model, PrefixCacheOptions::new()).unwrap();
        cache.insert(&session).unwrap();
        let prompt = [session.tokens(), &rest].concat();
        let expected = session.feed(&rest).unwrap().to_vec();

        let mut back = snapshot.session().unwrap();
        assert_near(back.feed(&rest).unwrap(), &expected, &what);
        let mut loaded = model.read_session(Cursor::new(&saved)).unwrap().session;
        assert_eq!(loaded.tokens(), snapshot.tokens());
        assert_near(loaded.feed(&rest).unwrap(), &expected, &what);
        let mut fresh = model.session().unwrap();
        let used = cache.prefill(&mut fresh, &prompt, &[]).unwrap();
        assert_eq!(
            (used.reused, used.computed),
            (18, 6),
            "{what}: equal vectors are equal prefixes"
        );
        assert_near(fresh.last_logits().unwrap(), &expected, &what);

        // A picture that differs in one place is a different one.
        let mut differs = model.session().unwrap();
        differs.feed(&rest).unwrap();
        differs.feed_embeddings(&other).unwrap();
        assert_ne!(differs.tokens(), snapshot.tokens(), "{what}");
        let mut prompt = differs.tokens().to_vec();
        prompt.extend(&rest);
        let error = cache.prefill(&mut fresh, &prompt, &[]).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { .. }), "{what}: {error}");
    }
}

#[test]
fn invalid_vectors_are_refused_and_change_nothing() {
    let case = case_named("mamba2/plain");
    let mut options = cpu().threads(1);
    options.context_limit = Some(10);
    let model = open(&case, &options);
    let width = model.embedding_width();
    let vectors = model.embed(&[1, 2, 3, 4]).unwrap();
    let mut session = model.session().unwrap();
    session.feed(&[5]).unwrap();
    let mut refused = |vectors: &[f32]| session.feed_embeddings(vectors).unwrap_err();
    assert!(matches!(refused(&[]), Error::EmptyRun));
    let error = refused(&vectors[..width + 1]);
    assert!(matches!(error, Error::EmbeddingsLength { .. }), "{error}");
    assert!(error.to_string().contains(&width.to_string()), "{error}");
    for broken in [f32::NAN, f32::INFINITY] {
        let mut broken_at = vectors.clone();
        broken_at[2 * width + 3] = broken;
        let error = refused(&broken_at);
        assert!(matches!(error, Error::EmbeddingNotFinite { vector: 2, element: 3 }), "{error}");
    }
    let error = refused(&vectors.repeat(3));
    assert!(matches!(error, Error::ContextFull { held: 1, more: 12, limit: 10 }), "{error}");
    let error = model.embed(&[case.vocab() as u32]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error}");
    assert_eq!(session.tokens(), [5]);
    session.feed_embeddings(&vectors).unwrap();
    // An id alone can't be computed again without its vector.
    let id = session.tokens()[2];
    assert!(matches!(session.feed(&[id]), Err(Error::TokenOutOfRange { .. })));
    session.mark().unwrap();
    session.feed(&[7, 8]).unwrap();
    assert!(matches!(session.rewind_and_replay(3), Err(Error::NotReachable { .. })));
    assert_eq!(session.position(), 7);
    assert_eq!(session.rewind_and_replay(6).unwrap(), 1);
}

/// The 31-bit hash that identified vectors in the past.
fn old_hash(vector: &[f32]) -> u32 {
    let bytes = vector.iter().flat_map(|x| x.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    1 << 31 | (hash ^ (hash >> 32)) as u32
}

/// Two vectors with one hash of 31 bits, found among 200,000. All but their last elements are 0.
// The numbers are exact as they are written.
#[allow(clippy::excessive_precision)]
fn colliding(width: usize) -> [Vec<f32>; 2] {
    let ends = match width {
        36 => [[2.439453125, -1.345703125], [-3.322265625, 3.71484375]],
        64 => [[-3.83984375, -2.19140625], [-1.412109375, -3.7578125]],
        _ => panic!("no vectors of width {width}"),
    };
    let pair = ends.map(|end| [&vec![0.0; width - 2][..], &end].concat());
    assert_eq!(old_hash(&pair[0]), old_hash(&pair[1]));
    pair
}

fn session_of(model: &Model, tokens: &[u32], vector: &[f32], after: &[u32]) -> Session {
    let mut session = model.session().unwrap();
    session.feed(tokens).unwrap();
    session.feed_embeddings(vector).unwrap();
    session.feed(after).unwrap();
    session
}

#[test]
fn vectors_with_colliding_hashes_are_distinguished() {
    // With recurrent layers, and with attention alone, whose states can be cut.
    for name in ["granitemoehybrid/mixed", "llama/plain"] {
        let case = case_named(name);
        let model = open(&case, &cpu().threads(1));
        let all = tokens(&mut Random::named(name), case.vocab(), 9);
        let (first, after) = all.split_at(6);
        let pair = colliding(model.embedding_width());
        let [one, other] = [0, 1].map(|i| session_of(&model, first, &pair[i], after));
        assert_ne!(one.last_logits(), other.last_logits(), "{name}: they mean different things");
        let own =
            |session: &Session| (session.tokens()[..6] == *first, session.tokens()[7..] == *after);
        assert_eq!((own(&one), own(&other)), ((true, true), (true, true)));
        assert_ne!(one.tokens()[6], other.tokens()[6], "{name}");

        // In memory, where only the common prefix may be reused.
        let folder = tempfile::tempdir().unwrap();
        let mut options = PrefixCacheOptions::new();
        options.folder = Some(folder.path().into());
        let mut cache = PrefixCache::new(&model, options.clone()).unwrap();
        cache.insert(&one).unwrap();
        assert_eq!(cache.persist(), 1);
        let mut opened = PrefixCache::new(&model, options).unwrap();
        for (cache, place) in [(&mut cache, "in memory"), (&mut opened, "on disk")] {
            let mut fresh = model.session().unwrap();
            let reused = cache.resume(&mut fresh, other.tokens()).unwrap();
            assert!(reused <= 6, "{name} {place}: {reused} of another vector's tokens were reused");
            assert_eq!(cache.resume(&mut fresh, one.tokens()).unwrap(), 10, "{name} {place}");
            assert_eq!(fresh.last_logits(), one.last_logits(), "{name} {place}");
        }

        // Rewinding a session.
        let mut session = session_of(&model, first, &pair[0], after);
        let mut empty = PrefixCache::new(&model, PrefixCacheOptions::new()).unwrap();
        assert!(empty.resume(&mut session, other.tokens()).unwrap() <= 6, "{name}");

        // In a file.
        let saved = [&one, &other].map(|session| {
            let mut file = Vec::new();
            session.write_to(&mut file, None).unwrap();
            model.read_session(Cursor::new(file)).unwrap().session
        });
        assert_eq!(
            (saved[0].tokens(), saved[1].tokens()),
            (one.tokens(), other.tokens()),
            "{name}"
        );

        // The sampler's history travels too; a vector that only the other session holds is unknown
        // there.
        let mut sampler = SamplerState::new(1);
        sampler.accept_all(one.tokens());
        sampler.accept_all(&[other.tokens()[6], 3]);
        let mut file = Vec::new();
        one.write_to(&mut file, Some(&sampler)).unwrap();
        let loaded = model.read_session(Cursor::new(file)).unwrap().sampler.unwrap();
        assert_eq!(loaded.history(), [one.tokens(), &[u32::MAX, 3]].concat(), "{name}");
    }
}

#[test]
fn a_vector_keeps_its_identity_while_a_cache_has_it_on_disk_only() {
    let case = case_named("granitemoehybrid/mixed");
    let model = open(&case, &cpu().threads(1));
    let width = model.embedding_width();
    let mut random = Random::named("on disk only");
    let vector: Vec<f32> = (0..width).map(|_| random.normal() as f32).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut options = PrefixCacheOptions::new();
    options.folder = Some(folder.path().into());
    let mut cache = PrefixCache::new(&model, options).unwrap();
    let session = session_of(&model, &[1, 2], &vector, &[3]);
    let prompt = session.tokens().to_vec();
    cache.insert(&session).unwrap();
    cache.clear();
    drop(session);
    // Meanwhile other vectors arrive.
    let mut others = model.session().unwrap();
    let many: Vec<f32> = (0..100 * width).map(|_| random.normal() as f32).collect();
    others.feed_embeddings(&many).unwrap();
    assert_eq!(session_of(&model, &[1, 2], &vector, &[3]).tokens(), prompt);
    let mut fresh = model.session().unwrap();
    assert_eq!(cache.resume(&mut fresh, &prompt).unwrap(), 4);
}
