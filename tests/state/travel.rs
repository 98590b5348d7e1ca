//! States that leave their device: sessions continue elsewhere, even after their device is lost.

use std::io::Cursor;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{GenerateOptions, Model, PrefixCache};
use kinglet_tests::random::Random;
use kinglet_tests::{cases, relative_l2};

use crate::prefix_cache::options;
use crate::{cpu, device, open, runs_on_device, tokens};

/// The bound between two backends.
const BOUND: f64 = 1e-4;

/// `model`'s session of `tokens` as saved, and its last logits.
fn saved(model: &Model, tokens: &[u32]) -> (Vec<u8>, Vec<f32>) {
    let mut session = model.session().unwrap();
    session.feed(tokens).unwrap();
    let mut file = Vec::new();
    session.write_to(&mut file, None).unwrap();
    (file, session.last_logits().unwrap().to_vec())
}

#[test]
fn saved_sessions_go_from_backend_to_backend() {
    let Some(device) = device() else { return };
    for case in cases().into_iter().filter(runs_on_device) {
        let models = [open(&case, &cpu().threads(1)), open(&case, &device.threads(1))];
        let mut random = Random::named(&case.name);
        for length in [1, 3, 64, 65, 150] {
            let prompt = tokens(&mut random, models[0].vocab(), length);
            let rest = tokens(&mut random, models[0].vocab(), 30);
            for (from, to) in [(0, 1), (1, 0), (1, 1)] {
                let what = format!("{} {length}: {from} to {to}", case.name);
                let (file, logits) = saved(&models[from], &prompt);
                let mut there = models[to].read_session(Cursor::new(&file)).unwrap().session;
                assert_eq!((there.tokens(), there.last_logits()), (&prompt[..], Some(&logits[..])));
                // The loaded state equals the saved one, bit for bit.
                let mut again = Vec::new();
                there.write_to(&mut again, None).unwrap();
                assert!(file == again, "{what}: saved as something else");
                let got = there.feed_all(&rest).unwrap().to_vec();
                let mut stayed = models[from].read_session(Cursor::new(&file)).unwrap().session;
                let error = relative_l2(&got, stayed.feed_all(&rest).unwrap());
                assert!(error <= BOUND, "{what}: {error:.2e}");
            }
        }
    }
}

#[test]
fn an_answer_continues_elsewhere_when_its_device_is_lost() {
    let Some(device) = device() else { return };
    for case in cases().into_iter().filter(runs_on_device) {
        let expected = {
            let model = open(&case, &cpu().threads(1));
            let mut session = model.session().unwrap();
            session.feed(&case.tokens[..case.prompt]).unwrap();
            let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
            let mut generation = session.generate(&mut sampler, GenerateOptions::new());
            (0..24).map(|_| generation.next_token().unwrap().unwrap()).collect::<Vec<_>>()
        };
        // The host's copy, taken in the middle of the answer. Everything else is gone with the
        // model.
        let (file, begun) = {
            let model = open(&case, &device.threads(1));
            let mut session = model.session().unwrap();
            session.feed(&case.tokens[..case.prompt]).unwrap();
            let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
            let mut generation = session.generate(&mut sampler, GenerateOptions::new());
            let begun: Vec<u32> =
                (0..11).map(|_| generation.next_token().unwrap().unwrap()).collect();
            generation.finish().unwrap();
            let mut file = Vec::new();
            session.write_to(&mut file, Some(sampler.state())).unwrap();
            // A snapshot's bytes equal the session's, except for the sampler.
            let [mut of_snapshot, mut of_session] = [Vec::new(), Vec::new()];
            let snapshot = session.snapshot().unwrap();
            session.feed(&[1]).unwrap();
            snapshot.write_to(&mut of_snapshot).unwrap();
            snapshot.session().unwrap().write_to(&mut of_session, None).unwrap();
            assert!(of_snapshot == of_session && !of_snapshot.is_empty(), "{}", case.name);
            (file, begun)
        };
        assert_eq!(begun, expected[..11], "{}", case.name);
        for on in [cpu(), device.clone()] {
            let model = open(&case, &on.threads(2));
            let there = model.read_session(Cursor::new(&file)).unwrap();
            let (mut session, state) = (there.session, there.sampler.unwrap());
            assert_eq!(state.history(), &expected[..11]);
            let mut sampler = Sampler::with_state(SamplingOptions::greedy(), state).unwrap();
            // The last token was returned but is not in the session.
            session.feed(&[begun[10]]).unwrap();
            let mut generation = session.generate(&mut sampler, GenerateOptions::new());
            let rest: Vec<u32> =
                (11..24).map(|_| generation.next_token().unwrap().unwrap()).collect();
            assert_eq!(rest, expected[11..], "{} on {}", case.name, on.name);
        }
    }
}

#[test]
fn sessions_on_a_device_outlive_many_snapshots() {
    let Some(device) = device() else { return };
    for case in cases().into_iter().filter(runs_on_device) {
        let model = open(&case, &device.threads(1));
        let sequence = tokens(&mut Random::named(&case.name), model.vocab(), 90);
        let mut plain = model.session().unwrap();
        let mut session = model.session().unwrap();
        let (mut snapshots, mut expected) = (Vec::new(), Vec::new());
        for (i, token) in sequence.iter().enumerate() {
            plain.feed(&[*token]).unwrap();
            session.feed(&[*token]).unwrap();
            if i % 7 == 3 {
                snapshots.push(session.snapshot().unwrap());
            }
            if i % 20 == 19 {
                // To another device and back.
                let here = session.snapshot().unwrap();
                session.feed(&[1, 2, 3]).unwrap();
                session.restore(&here).unwrap();
            }
            expected.push(plain.last_logits().unwrap().to_vec());
            assert_eq!(session.last_logits(), plain.last_logits(), "{} at {i}", case.name);
        }
        // Each of them is unchanged, in any order, and two at a time.
        let mut forks: Vec<_> = snapshots.iter().rev().map(|s| s.session().unwrap()).collect();
        for _ in 0..3 {
            for fork in &mut forks {
                let at = fork.position();
                if let Some(next) = sequence.get(at) {
                    fork.feed(&[*next]).unwrap();
                }
            }
        }
        // The plain session was fed the same tokens one by one, and nothing was taken from it.
        for fork in &forks {
            let at = fork.position();
            assert_eq!(fork.tokens(), &sequence[..at]);
            assert_eq!(fork.last_logits(), Some(&expected[at - 1][..]), "{} at {at}", case.name);
        }
    }
}

#[test]
fn a_cache_on_disk_is_shared_by_backends() {
    let Some(device) = device() else { return };
    let case = kinglet_tests::case_named("bamba/plain");
    let folder = kinglet_tests::temp::TempDir::new();
    let on_disk = || options(1 << 30, 0).folder(folder.path()).max_disk_bytes(1 << 30);
    let models = [open(&case, &device.threads(1)), open(&case, &cpu().threads(1))];
    let prompt = tokens(&mut Random::named(&case.name), models[0].vocab(), 80);
    let mut cache = PrefixCache::new(&models[0], on_disk()).unwrap();
    let mut session = models[0].session().unwrap();
    cache.prefill(&mut session, &prompt, &[]).unwrap();
    assert_eq!(cache.persist(), 1);
    let mut cache = PrefixCache::new(&models[1], on_disk()).unwrap();
    let mut there = models[1].session().unwrap();
    let used = cache.prefill(&mut there, &prompt, &[]).unwrap();
    assert_eq!((used.reused, used.computed), (80, 0));
    assert_eq!(there.last_logits(), session.last_logits());
}
