//! `kinglet logits` against the reference's numbers, and its output file.

use std::path::Path;

use kinglet_tests::{cases, relative_l2};
use safetensors::{Dtype, SafeTensors};

use crate::support::{fixture, kinglet};

/// `tokens` and `logits` of a file, with the shape of the latter.
fn read(path: &Path) -> (Vec<i64>, Vec<f32>, Vec<usize>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, logits) = (file.tensor("tokens").unwrap(), file.tensor("logits").unwrap());
    assert_eq!((tokens.dtype(), logits.dtype()), (Dtype::I64, Dtype::F32));
    let ids: Vec<i64> =
        tokens.data().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id)).collect();
    assert_eq!(tokens.shape(), [ids.len()]);
    let values = logits.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    (ids, values, logits.shape().to_vec())
}

#[test]
fn logits_equal_the_reference_however_the_tokens_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let wanted =
        ["granitemoehybrid/plain", "xlstm/plain", "mamba2/groups", "llama/sharded", "mixtral/bf16"];
    let cases = cases();
    for name in wanted {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let tokens: Vec<String> = case.tokens.iter().map(u32::to_string).collect();
        let list = folder.path().join("tokens.txt");
        std::fs::write(&list, tokens.join("\n")).unwrap();
        let joined = tokens.join(",");
        let (list, out_name) = (list.to_str().unwrap(), out.to_str().unwrap());
        for more in [
            &["--tokens", &joined][..],
            &["--tokens-file", list, "--chunk", "1"],
            &["--tokens-file", list, "--chunk", "7", "--threads", "2"],
            &["--tokens", &joined, "--chunk", "1000", "--backend", "cpu"],
        ] {
            let model = fixture(name);
            let line = [&["logits", "--model", &model, "--out", out_name][..], more].concat();
            assert_eq!(kinglet(&line).ok(), "");
            let (ids, logits, shape) = read(&out);
            assert!(ids.iter().copied().eq(case.tokens.iter().map(|&id| i64::from(id))));
            assert_eq!(shape, [case.tokens.len(), case.vocab()]);
            let error = relative_l2(&logits, &case.logits);
            assert!(error <= 1e-5, "{name} {more:?}: {error:.2e}");
            std::fs::remove_file(&out).unwrap();
        }
    }
}

#[test]
fn an_unwritable_file_fails_before_computing() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("xlstm/plain");
    let line = |out: &str| kinglet(&["logits", "--model", &model, "--tokens", "1", "--out", out]);
    let missing = folder.path().join("no/such.safetensors");
    assert!(line(missing.to_str().unwrap()).error(1).contains("no/such.safetensors"));
    let message = line(folder.path().to_str().unwrap()).error(1);
    assert!(message.contains("not a regular file"), "{message}");
    #[cfg(target_os = "linux")]
    assert!(line("/dev/null").error(1).contains("/dev/null"));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn an_error_leaves_the_old_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    std::fs::write(&out, "old").unwrap();
    let model = fixture("xlstm/plain");
    let line = ["logits", "--model", &model, "--tokens", "1,2,112", "--out", out.to_str().unwrap()];
    let message = kinglet(&line).error(1);
    assert!(message.contains("token 112 (at index 2") && message.contains("0 to 111"), "{message}");
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_of_tokens_come_in_several_shapes_and_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let list = folder.path().join("tokens");
    let model = fixture("xlstm/plain");
    let (out_name, list_name) = (out.to_str().unwrap(), list.to_str().unwrap());
    let line = ["logits", "--model", &model, "--tokens-file", list_name, "--out", out_name];
    std::fs::write(&list, "[1, 2,\n3]\n").unwrap();
    assert_eq!(kinglet(&line).ok(), "");
    assert_eq!(read(&out).0, [1, 2, 3]);
    for (text, part) in
        [(&b"1 2 -3"[..], "\"-3\" (number 3)"), (b"", "no token ids"), (b"1\xff", "byte 1")]
    {
        std::fs::write(&list, text).unwrap();
        let message = kinglet(&line).error(1);
        assert!(message.contains(part) && message.contains(list_name), "{message}");
    }
}
