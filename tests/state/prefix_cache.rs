//! The prefix cache: it gives the same as computing, reuses everything possible, and keeps its
//! bounds.

use kinglet::plan::StateKind;
use kinglet::{Error, Model, ModelOptions, PrefixCache, PrefixCacheOptions, PrefixUse};
use kinglet_tests::random::Random;

use crate::{assert_near, chosen, everywhere, open, tokens};

pub(crate) fn options(max_bytes: usize, every: usize) -> PrefixCacheOptions {
    PrefixCacheOptions::new().max_bytes(max_bytes).every(every)
}

fn is_recurrent(model: &Model) -> bool {
    model.plan().states.iter().any(|state| matches!(state.kind, StateKind::Tensor { .. }))
}

/// Logits after the last of `tokens`, computed from the first.
pub(crate) fn last(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session().unwrap().feed(tokens).unwrap().to_vec()
}

fn used(reused: usize, computed: usize) -> PrefixUse {
    PrefixUse { reused, computed, complete: true }
}

#[test]
fn a_prompt_continues_from_the_longest_cached_prefix() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        let first = tokens(&mut random, model.vocab(), 200);
        let mut cache = PrefixCache::new(&model, options(1 << 30, 64)).unwrap();
        let mut session = model.session().unwrap();
        let mut ask = |prompt: &[u32], boundaries: &[usize]| {
            let used = cache.prefill(&mut session, prompt, boundaries).unwrap();
            assert_eq!(session.tokens(), prompt);
            let expected = last(&model, prompt);
            assert_near(session.last_logits().unwrap(), &expected, &case.name);
            used
        };
        assert_eq!(ask(&first, &[150, 20]), used(0, 200), "{}", case.name);
        assert_eq!(ask(&first, &[]), used(200, 0), "the same again");
        let longer = [&first[..], &[1, 2, 3]].concat();
        assert_eq!(ask(&longer, &[]), used(200, 3));
        // The session's state is not lost when it moves elsewhere.
        let other = tokens(&mut random, model.vocab(), 30);
        assert!(ask(&other, &[]).reused <= 1);
        assert_eq!(ask(&longer, &[]), used(203, 0));
        // Diverging after a boundary, after a multiple of 64, and before either.
        let off = |at: usize| {
            let mut prompt = first.clone();
            prompt[at] = (prompt[at] + 1) % model.vocab() as u32;
            prompt
        };
        for (at, kept) in [(170, 150), (149, 128), (64, 64), (63, 20), (19, 0)] {
            let prompt = off(at);
            let got = ask(&prompt, &[]);
            let windowed = model
                .plan()
                .states
                .iter()
                .any(|state| matches!(state.kind, StateKind::KeyValue { window: Some(_), .. }));
            match (is_recurrent(&model), windowed) {
                (true, _) => assert_eq!(got, used(kept, 200 - kept), "{} off at {at}", case.name),
                // Everything common, if no state is recurrent.
                (false, false) => assert_eq!(got, used(at, 200 - at), "{} off at {at}", case.name),
                (false, true) => assert!((kept..=at).contains(&got.reused), "{got:?}"),
            }
        }
        // A prompt that ends at a boundary of a kept one: nothing is computed.
        if is_recurrent(&model) {
            assert_eq!(ask(&first[..150], &[]), used(150, 0));
            assert_eq!(ask(&first[..20], &[]), used(20, 0));
            // At a multiple of 64 there are no logits: the last part is computed.
            assert_eq!(ask(&first[..128], &[]), used(64, 64));
            assert_eq!(ask(&first[..128], &[]), used(128, 0));
        }
        let stats = cache.stats();
        assert!(stats.hits > stats.misses && stats.reused > 0 && stats.snapshots > 5, "{stats:?}");
    }
}

#[test]
fn many_conversations_share_one_cache() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        // Room for only a few snapshots, so that the contents keep changing.
        let mut probe = model.session().unwrap();
        probe.feed(&tokens(&mut random, model.vocab(), 200)).unwrap();
        let bound = 4 * probe.state_bytes();
        let mut cache = PrefixCache::new(&model, options(bound, 32)).unwrap();
        let mut sessions = [model.session().unwrap(), model.session().unwrap()];
        let mut talks: Vec<Vec<u32>> = vec![Vec::new(); 3];
        let mut reused = 0;
        for turn in 0..24 {
            let which = random.between(0, talks.len() - 1);
            if random.between(0, 9) == 0 {
                // A template that rewrites: now the last tokens differ.
                let keep = talks[which].len() - talks[which].len().min(random.between(1, 20));
                talks[which].truncate(keep);
            }
            let count = random.between(1, 40);
            talks[which].extend(tokens(&mut random, model.vocab(), count));
            if talks[which].len() > 250 {
                talks[which].truncate(10);
            }
            let boundary = talks[which].len().saturating_sub(random.between(1, 15));
            let session = random.between(0, 1);
            let session = &mut sessions[session];
            let prompt = &talks[which];
            let used = cache.prefill(session, prompt, &[boundary]).unwrap();
            assert_eq!(used.reused + used.computed, prompt.len());
            reused += used.reused;
            let what = format!("{} turn {turn}: {used:?}", case.name);
            assert_near(session.last_logits().unwrap(), &last(&model, prompt), &what);
            // Two tokens of an answer.
            for _ in 0..2 {
                let id = kinglet_tests::argmax(session.last_logits().unwrap());
                session.feed(&[id]).unwrap();
                talks[which].push(id);
            }
            cache.insert(session).unwrap();
            let stats = cache.stats();
            assert!(stats.bytes <= bound, "{}: {} bytes of {bound}", case.name, stats.bytes);
        }
        assert!(reused > 0 && cache.stats().evicted > 0, "{}: {:?}", case.name, cache.stats());
    }
}

#[test]
fn the_least_recently_used_makes_room() {
    let case = chosen().into_iter().find(|case| case.name.starts_with("mamba2/")).unwrap();
    let model = open(&case, &ModelOptions::new().threads(1));
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![i, 1, 2, 3, 4]).collect();
    let state = model.session().unwrap().state_bytes();
    // Tokens and logits count too: about three fit.
    let one = state + 4 * model.vocab() + 1000;
    let mut cache = PrefixCache::new(&model, options(3 * one, 0)).unwrap();
    let mut ask = |i: usize| {
        let mut session = model.session().unwrap();
        cache.prefill(&mut session, &prompts[i], &[]).unwrap().reused
    };
    assert_eq!([ask(0), ask(1), ask(2)], [0, 0, 0]);
    assert_eq!([ask(0), ask(1)], [5, 5]);
    assert_eq!(ask(3), 0);
    assert_eq!([ask(0), ask(1), ask(3)], [5, 5, 5], "2 made room");
    assert_eq!(ask(2), 0);
    assert_eq!(cache.stats().snapshots, 3);
    cache.clear();
    let stats = cache.stats();
    assert_eq!((stats.snapshots, stats.bytes), (0, 0));
}

#[test]
fn what_snapshots_share_is_counted_once() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let windowed = model
            .plan()
            .states
            .iter()
            .any(|state| matches!(state.kind, StateKind::KeyValue { window: Some(_), .. }));
        if windowed {
            continue;
        }
        let mut cache = PrefixCache::new(&model, options(1 << 30, 64)).unwrap();
        let mut session = model.session().unwrap();
        let prompt = tokens(&mut Random::named(&case.name), model.vocab(), 640);
        cache.prefill(&mut session, &prompt, &[]).unwrap();
        let stats = cache.stats();
        assert_eq!(stats.snapshots, 10);
        let (mut tensors, mut caches) = (0, 0);
        for state in &model.plan().states {
            let bytes = 4 * state.elements(640);
            match state.kind {
                StateKind::Tensor { .. } => tensors += bytes,
                StateKind::KeyValue { .. } => caches += bytes,
            }
        }
        // Every page once, tensors ten times, and a little for tokens and logits.
        let least = 10 * tensors + caches;
        let own = 10 * (4 * 640 + 500) + 8 * model.vocab();
        if on.wgpu {
            // A cache has room for up to twice the positions, and so had those that it outgrew.
            let least = 10 * model.session().unwrap().state_bytes() + caches;
            let most = least + 3 * caches + own;
            assert!((least..most).contains(&stats.bytes), "{}: {stats:?} {least}", case.name);
            continue;
        }
        assert!((least..least + own).contains(&stats.bytes), "{}: {stats:?} {least}", case.name);
    }
}

#[test]
fn a_stopped_prefill_continues_where_it_was() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let prompt = tokens(&mut Random::named(&case.name), model.vocab(), 700);
        let mut cache = PrefixCache::new(&model, options(1 << 30, 0)).unwrap();
        let mut session = model.session().unwrap();
        let mut seen = Vec::new();
        let stopped = cache.prefill_with(&mut session, &prompt, &[], &mut |done, total| {
            seen.push((done, total));
            done == 0
        });
        let stopped = stopped.unwrap();
        assert_eq!(stopped, PrefixUse { reused: 0, computed: 512, complete: false });
        assert_eq!(session.tokens(), &prompt[..512]);
        assert_eq!(seen.first(), Some(&(0, 700)));
        assert_eq!(cache.prefill(&mut session, &prompt, &[]).unwrap(), used(512, 188));
        assert_near(session.last_logits().unwrap(), &last(&model, &prompt), &case.name);
    }
}

#[test]
fn what_does_not_belong_is_refused() {
    let case = &chosen()[0];
    let [model, other] = [0, 1].map(|_| open(case, &ModelOptions::new().threads(1)));
    let mut cache = PrefixCache::new(&model, options(1 << 20, 0)).unwrap();
    let mut foreign = other.session().unwrap();
    foreign.feed(&[1, 2]).unwrap();
    let error = cache.prefill(&mut foreign, &[1, 2, 3], &[]).unwrap_err();
    assert!(matches!(error, Error::ForeignSession), "{error:?}");
    assert!(matches!(cache.insert(&foreign), Err(Error::ForeignSession)));
    assert_eq!(foreign.tokens(), [1, 2]);
    let mut session = model.session().unwrap();
    let error = cache.prefill(&mut session, &[], &[]).unwrap_err();
    assert!(matches!(error, Error::EmptyRun), "{error:?}");
    let bad = model.vocab() as u32;
    let error = cache.prefill(&mut session, &[1, 2, bad], &[2]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error:?}");
    // Invalid boundaries are ignored, and no memory at all is a valid bound.
    let mut cache = PrefixCache::new(&model, options(0, 0)).unwrap();
    let prompt = [1, 2, 3, 4];
    assert_eq!(cache.prefill(&mut session, &prompt, &[0, 4, 9, usize::MAX]).unwrap().reused, 2);
    assert_eq!(cache.stats().snapshots, 0);
}
