//! The prefix cache on disk: for later runs, bounded, and never trusted.

use std::fs;
use std::path::{Path, PathBuf};

use kinglet::{ModelOptions, PrefixCache, PrefixCacheOptions};
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;

use crate::prefix_cache::{last, options};
use crate::{assert_near, chosen, everywhere, open, tokens};

fn on_disk(folder: &Path, max_bytes: usize, max_disk_bytes: u64) -> PrefixCacheOptions {
    options(max_bytes, 64).folder(folder).max_disk_bytes(max_disk_bytes)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_later_run_continues_an_earlier_one() {
    for (case, on) in everywhere() {
        let folder = TempDir::new();
        let path = folder.path().join("made when needed");
        let prompt = {
            let model = open(&case, &on.threads(2));
            let prompt = tokens(&mut Random::named(&case.name), model.vocab(), 150);
            let mut cache = PrefixCache::new(&model, on_disk(&path, 1 << 30, 1 << 30)).unwrap();
            let mut session = model.session().unwrap();
            cache.prefill(&mut session, &prompt, &[40]).unwrap();
            assert_eq!(cache.persist(), 2, "the boundary and the end");
            assert_eq!(cache.persist(), 0, "they are there already");
            assert!(cache.stats().disk_bytes > 0);
            prompt
        };
        let model = open(&case, &on.threads(1));
        let mut cache = PrefixCache::new(&model, on_disk(&path, 1 << 30, 1 << 30)).unwrap();
        assert_eq!((cache.stats().snapshots, cache.stats().bytes > 10_000), (2, false));
        let longer = [&prompt[..], &[1, 2]].concat();
        let mut session = model.session().unwrap();
        let used = cache.prefill(&mut session, &longer, &[]).unwrap();
        assert_eq!((used.reused, used.computed), (150, 2), "{}", case.name);
        assert_near(session.last_logits().unwrap(), &last(&model, &longer), &case.name);
        // The same prompt: its logits were stored too.
        let mut session = model.session().unwrap();
        let used = cache.prefill(&mut session, &prompt, &[]).unwrap();
        assert_eq!((used.reused, used.computed), (150, 0));
        assert_near(session.last_logits().unwrap(), &last(&model, &prompt), &case.name);
        let mut session = model.session().unwrap();
        let mut off = prompt[..60].to_vec();
        off[50] = (off[50] + 1) % model.vocab() as u32;
        assert!(cache.prefill(&mut session, &off, &[]).unwrap().reused >= 40);
        assert_near(session.last_logits().unwrap(), &last(&model, &off), &case.name);
    }
}

#[test]
fn what_has_no_place_in_memory_goes_to_disk() {
    for (case, on) in everywhere() {
        let folder = TempDir::new();
        let model = open(&case, &on.threads(2));
        let mut cache = PrefixCache::new(&model, on_disk(folder.path(), 0, 1 << 30)).unwrap();
        let mut random = Random::named(&case.name);
        let prompts: Vec<Vec<u32>> =
            (0..3).map(|_| tokens(&mut random, model.vocab(), 70)).collect();
        for reused in [0, 70] {
            for prompt in &prompts {
                let mut session = model.session().unwrap();
                let used = cache.prefill(&mut session, prompt, &[]).unwrap();
                assert!(used.reused == reused || used.reused <= 1 && reused == 0, "{used:?}");
                assert_near(session.last_logits().unwrap(), &last(&model, prompt), &case.name);
            }
        }
        assert_eq!(files(folder.path()).len(), 3, "{}", case.name);
    }
}

#[test]
fn damaged_and_foreign_files_are_passed_over() {
    let cases = chosen();
    let model = open(&cases[0], &ModelOptions::new().threads(1));
    let folder = TempDir::new();
    let options = on_disk(folder.path(), 1 << 30, 1 << 30);
    let prompt: Vec<u32> = (0..20).collect();
    for case in &cases[..2] {
        let model = open(case, &ModelOptions::new().threads(1));
        let mut cache = PrefixCache::new(&model, options.clone()).unwrap();
        cache.prefill(&mut model.session().unwrap(), &prompt, &[]).unwrap();
        assert_eq!(cache.persist(), 1);
    }
    folder.write("notes.txt", "somebody else's");
    folder.write("kinglet-0000-0000.safetensors", "no session");
    let found = |cache: &PrefixCache| cache.stats().snapshots;
    assert_eq!(found(&PrefixCache::new(&model, options.clone()).unwrap()), 1);
    // Damaged where only loading detects it.
    let mut cache = PrefixCache::new(&model, options.clone()).unwrap();
    let before = files(folder.path()).len();
    for path in files(folder.path()) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    let mut session = model.session().unwrap();
    let used = cache.prefill(&mut session, &prompt, &[]).unwrap();
    assert_eq!((used.reused, used.computed), (0, 20));
    assert_near(session.last_logits().unwrap(), &last(&model, &prompt), "computed");
    assert_eq!(files(folder.path()).len(), before - 1, "the damaged file is gone, nothing else");
    // Deleted.
    assert_eq!(cache.persist(), 1);
    let mut cache = PrefixCache::new(&model, options.clone()).unwrap();
    assert_eq!(found(&cache), 1);
    files(folder.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let used = cache.prefill(&mut model.session().unwrap(), &prompt, &[]).unwrap();
    assert_eq!((used.reused, used.computed), (0, 20));
    // A path that is not a folder.
    folder.write("file", "");
    let options = on_disk(&folder.path().join("file"), 1, 1);
    let error = PrefixCache::new(&model, options).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn a_session_under_another_ones_name_is_not_taken_for_it() {
    let case = &chosen()[0];
    let model = open(case, &ModelOptions::new().threads(1));
    let folder = TempDir::new();
    let options = on_disk(folder.path(), 1 << 30, 1 << 30);
    let [one, two]: [Vec<u32>; 2] = [(0..20).collect(), (1..21).collect()];
    for prompt in [&one, &two] {
        let mut cache = PrefixCache::new(&model, options.clone()).unwrap();
        cache.prefill(&mut model.session().unwrap(), prompt, &[]).unwrap();
        cache.persist();
    }
    let mut cache = PrefixCache::new(&model, options).unwrap();
    let paths = files(folder.path());
    let contents: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::write(&paths[0], &contents[1]).unwrap();
    fs::write(&paths[1], &contents[0]).unwrap();
    for prompt in [&one, &two] {
        let mut session = model.session().unwrap();
        cache.prefill(&mut session, prompt, &[]).unwrap();
        assert_eq!(session.tokens(), prompt);
        assert_near(session.last_logits().unwrap(), &last(&model, prompt), "swapped");
    }
}

#[test]
fn files_make_room_for_each_other() {
    let case = chosen().into_iter().find(|case| case.name.starts_with("mamba2/")).unwrap();
    let model = open(&case, &ModelOptions::new().threads(1));
    let folder = TempDir::new();
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| vec![i, 1, 2, 3, 4]).collect();
    let mut cache = PrefixCache::new(&model, on_disk(folder.path(), 0, u64::MAX)).unwrap();
    cache.prefill(&mut model.session().unwrap(), &prompts[0], &[]).unwrap();
    let one = cache.stats().disk_bytes;
    let bound = 3 * one + one / 2;
    let mut cache = PrefixCache::new(&model, on_disk(folder.path(), 0, bound)).unwrap();
    for prompt in &prompts {
        cache.prefill(&mut model.session().unwrap(), prompt, &[]).unwrap();
        assert!(cache.stats().disk_bytes <= bound);
    }
    assert_eq!(cache.stats().snapshots, files(folder.path()).len());
    let mut session = model.session().unwrap();
    assert_eq!(cache.prefill(&mut session, &prompts[5], &[]).unwrap().reused, 5);
    let mut session = model.session().unwrap();
    assert_eq!(cache.prefill(&mut session, &prompts[0], &[]).unwrap().reused, 0);
    // An entry that would not fit alone is not written, and evicts nothing.
    let mut cache = PrefixCache::new(&model, on_disk(folder.path(), 0, 100)).unwrap();
    let before = files(folder.path()).len();
    cache.prefill(&mut model.session().unwrap(), &[9, 9, 9], &[]).unwrap();
    assert_eq!(files(folder.path()).len(), before);
}
