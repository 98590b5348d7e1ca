//! Broken and malicious checkpoints: each gives a typed error, none panics, and none takes more
//! memory than [`FACTOR`] times its size plus [`FLOOR`] bytes.

use std::fs;

use kinglet::weights::{HeaderError, IndexError, Weights, WeightsError};
use kinglet_models::TensorSpec;

#[path = "safetensors_files/counting.rs"]
mod counting;
mod safetensors_files;
use counting::peak;
use safetensors_files::{TempDir, entry, index, raw, small as valid};

/// Limit on the peak allocation while a file is opened, as a multiple of its size.
const FACTOR: usize = 4;
/// The same for an index, where a tensor's entry can be as short as `"a":"b",`.
const INDEX_FACTOR: usize = 8;
/// Allowance for messages, paths and the first growth of tables, in bytes.
const FLOOR: usize = 32 << 10;

/// Opens a file of this content, and checks the limits on memory and on the length of the message.
fn open(content: &[u8]) -> Result<Weights, WeightsError> {
    let dir = TempDir::new();
    dir.write("model.safetensors", content);
    let (result, peak) = peak(|| dir.open());
    let limit = FACTOR * content.len() + FLOOR;
    assert!(peak <= limit, "{peak} bytes allocated for a file of {}", content.len());
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
    }
    result
}

fn header_error(content: &[u8]) -> HeaderError {
    match open(content) {
        Err(WeightsError::Header { file, error }) if file == "model.safetensors" => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_that_the_others_are_broken_from_is_valid() {
    let weights = open(&valid()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a.weight", "b", "c.d.e", "zero"]);
    assert_eq!(weights.vector(&TensorSpec::new("b", [4])).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    open(&raw("{}", b"")).unwrap();
    open(&raw(" \n{ } \t\r", b"")).unwrap();
}

#[test]
fn truncated_at_every_length() {
    let valid = valid();
    for len in 0..valid.len() {
        let error = header_error(&valid[..len]);
        let header = valid.len() - 8 - 24 - 8 - 8;
        let expected = match len {
            0..8 => matches!(error, HeaderError::TooShort { .. }),
            _ if len < 8 + header => matches!(error, HeaderError::PastEnd { .. }),
            _ => matches!(error, HeaderError::Truncated { .. }),
        };
        assert!(expected, "{len}: {error}");
    }
}

#[test]
fn header_lengths() {
    let with = |len: u64| {
        let mut file = len.to_le_bytes().to_vec();
        file.extend(&valid()[8..]);
        header_error(&file)
    };
    assert!(matches!(with(0), HeaderError::Json(_)));
    assert!(matches!(with(1), HeaderError::Json(_)));
    assert!(matches!(with(10_000), HeaderError::PastEnd { header: 10_000, .. }));
    assert!(matches!(with(100_000_000), HeaderError::PastEnd { .. }));
    assert!(matches!(with(100_000_001), HeaderError::TooLong { header: 100_000_001, .. }));
    assert!(matches!(with(u64::MAX), HeaderError::TooLong { .. }));
    assert!(matches!(with(1 << 63), HeaderError::TooLong { .. }));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    assert_eq!(header_error(pointer), HeaderError::GitLfsPointer);
}

#[test]
fn headers_that_are_not_what_they_should_be() {
    assert_eq!(header_error(&raw(b"{\"\xff\"", b"")), HeaderError::NotUtf8 { valid: 2 });
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let deep_value = format!(r#"{{"a":{}0{}}}"#, r#"{"b":"#.repeat(500), "}".repeat(500));
    let deep_field =
        entry("a", "F32", &[0], 0, 0).replace("}", &format!(",\"x\":{}}}", "[".repeat(9999)));
    let long = "x".repeat(50_000);
    for json in [
        "",
        "null",
        "[]",
        "1",
        "\"text\"",
        "{",
        "{} x",
        "{}{}",
        "{\0}",
        r#"{"a"}"#,
        r#"{"a":null}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#,
        r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}}"#,
        r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":[]}"#,
        r#"{"__metadata__":{},"__metadata__":{}}"#,
        &deep,
        &deep_value,
        &deep_field,
        &format!(r#"{{"a":"{long}"}}"#),
        &format!(r#"{{"a":{{"{long}":1}}}}"#),
    ] {
        let error = header_error(&raw(json, &[0; 4]));
        assert!(matches!(error, HeaderError::Json(_)), "{json:.80}: {error:?}");
    }
}

#[test]
fn tensors_that_are_not_what_they_should_be() {
    let one = |dtype: &str, shape: &[u64], begin, end| {
        header_error(&raw(format!("{{{}}}", entry("a", dtype, shape, begin, end)), &[0; 16]))
    };
    for dtype in ["", "f32", "F33", "F32 ", "float32", &"F".repeat(10_000)] {
        assert!(matches!(one(dtype, &[4], 0, 16), HeaderError::Dtype { .. }), "{dtype:.20}");
    }
    for shape in [
        &[1 << 32, 1 << 32][..],
        &[u64::MAX],
        &[u64::MAX, u64::MAX],
        &[1 << 62],
        &[1 << 59],
        &[1 << 61, 8],
        &[2, 1 << 63],
        &[1 << 63, 2, 0],
    ] {
        let error = one("F32", shape, 0, 16);
        assert!(matches!(error, HeaderError::Shape { .. }), "{shape:?}: {error}");
    }
    assert!(matches!(one("F4", &[31], 0, 16), HeaderError::Shape { .. }), "half a byte is left");
    for shape in [&[1u64; 9][..], &[1; 5000]] {
        assert!(matches!(one("F32", shape, 0, 4), HeaderError::Rank { .. }));
    }
    for (shape, begin, end) in [
        (&[3u64][..], 0, 16),
        (&[5], 0, 16),
        (&[0], 0, 16),
        (&[], 0, 16),
        (&[4, 0], 0, 16),
        (&[4], 0, 0),
        (&[4], 0, u64::MAX),
        (&[1 << 58], 0, u64::MAX),
    ] {
        let error = one("F32", shape, begin, end);
        assert!(matches!(error, HeaderError::Size { .. }), "{shape:?}: {error}");
    }
    assert!(matches!(one("F32", &[4], 16, 0), HeaderError::Descending { begin: 16, end: 0, .. }));
    assert!(matches!(one("F32", &[4], u64::MAX, 0), HeaderError::Descending { .. }));
    assert!(matches!(one("F32", &[5], 0, 20), HeaderError::Truncated { end: 20, data: 16, .. }));
    assert!(matches!(one("F32", &[3], 4, 16), HeaderError::Offsets { begin: 4, expected: 0, .. }));
    assert!(matches!(one("F32", &[0], 9, 9), HeaderError::Offsets { .. }));
    assert!(matches!(one("F32", &[3], 0, 12), HeaderError::TrailingBytes { used: 12, data: 16 }));
    assert!(matches!(one("F32", &[0], 0, 0), HeaderError::TrailingBytes { used: 0, data: 16 }));
}

#[test]
fn tensors_that_do_not_fit_each_other() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        let entries = [("a", a), ("b", b)]
            .map(|(name, (begin, end))| entry(name, "U8", &[end - begin], begin, end));
        header_error(&raw(format!("{{{}}}", entries.join(",")), &[0; 16]))
    };
    let begins = |error, at, after| match error {
        HeaderError::Offsets { begin, expected, .. } => assert_eq!((begin, expected), (at, after)),
        other => panic!("{other:?}"),
    };
    begins(two((0, 16), (0, 16)), 0, 16);
    begins(two((0, 10), (6, 16)), 6, 10);
    begins(two((6, 16), (0, 10)), 6, 10);
    begins(two((0, 16), (4, 8)), 4, 16);
    begins(two((0, 6), (8, 16)), 8, 6);
    begins(two((1, 8), (8, 16)), 1, 0);
    assert!(matches!(two((0, 16), (16, 20)), HeaderError::Truncated { end: 20, .. }));
    // Nine tensors that end at 2^64 - 1: adding the header's length overflows.
    let size = (1u64 << 61) - 1;
    let ends: Vec<u64> = (0..=8).map(|i| i * size).chain([u64::MAX]).collect();
    let entries: Vec<_> = ends
        .windows(2)
        .enumerate()
        .map(|(i, w)| entry(&format!("t{i}"), "U8", &[w[1] - w[0]], w[0], w[1]))
        .collect();
    let error = header_error(&raw(format!("{{{}}}", entries.join(",")), &[0; 16]));
    assert!(matches!(error, HeaderError::Truncated { .. }), "{error}");

    let twice = format!("{{{0},{0}}}", entry("a", "F32", &[4], 0, 16));
    assert_eq!(header_error(&raw(twice, &[0; 16])), HeaderError::DuplicateName("a".into()));
    let escaped = entry("\\u0061", "F32", &[0], 16, 16);
    let twice = format!("{{{},{escaped}}}", entry("a", "F32", &[4], 0, 16));
    assert_eq!(header_error(&raw(twice, &[0; 16])), HeaderError::DuplicateName("a".into()));
}

#[test]
fn memory_is_bounded_by_the_size_of_the_file() {
    // Each about a megabyte of the input that takes the most memory for its length.
    let join = |count: usize, item: &dyn Fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(",")
    };
    let smallest = join(16_000, &|i| entry(&format!("{i:x}"), "U8", &[], i as u64, i as u64 + 1));
    let weights = open(&raw(format!("{{{smallest}}}"), &[0; 16_000])).unwrap();
    assert_eq!(weights.names().count(), 16_000);
    let zeros = join(500_000, &|_| "0".into());
    let one =
        |shape: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}}}"#);
    let long = "n".repeat(1 << 20);
    let escapes = "\\u0001".repeat(170_000);
    for header in [
        format!("{{{}}}", join(20_000, &|_| entry("", "U8", &[], 0, 1))),
        one(&zeros),
        format!(r#"{{"a":[{zeros}]}}"#),
        format!(r#"{{"a":{{"x":[{zeros}]}}}}"#),
        format!(r#"{{"__metadata__":{{{}}}}}"#, join(100_000, &|i| format!(r#""{i}":"""#))),
        format!(r#"{{"__metadata__":{{{}}}"#, join(100_000, &|i| format!(r#""{i}":"""#))),
        format!("{{{}}}", entry(&long, "U8", &[1], 0, 0)),
        format!("{{{}}}", entry(&escapes, "U8", &[1], 0, 0)),
        format!("{{{}}}", entry("a", &long, &[1], 0, 0)),
        format!("{{{0},{0}}}", entry(&long, "U8", &[0], 0, 0)),
        format!(r#"{{"a":{{{}}}}}"#, join(100_000, &|i| format!(r#""{i}":{{}}"#))),
        "[".repeat(1 << 20),
    ] {
        // Some are valid; only the limit matters here.
        let _ = open(&raw(&header, b""));
        let mut cut = header.into_bytes();
        cut.truncate(cut.len() / 2);
        assert!(open(&raw(&cut, b"")).is_err());
    }
}

/// Opens a folder with this index and a shard `s`, and checks the limit on memory.
fn open_with_index(index: &str) -> Result<Weights, WeightsError> {
    let dir = TempDir::new();
    dir.write("model.safetensors.index.json", index);
    dir.write("s", valid());
    let (result, peak) = peak(|| dir.open());
    let limit = INDEX_FACTOR * index.len() + FLOOR;
    assert!(peak <= limit, "{peak} bytes allocated for an index of {}", index.len());
    if let Err(error) = &result {
        assert!(error.to_string().len() < 1000, "{error}");
    }
    result
}

fn open_index(index: &str) -> WeightsError {
    open_with_index(index).unwrap_err()
}

/// The tensors in `valid`.
const TENSORS: [&str; 4] = ["a.weight", "b", "c.d.e", "zero"];

/// The names of all tensors of a folder whose index is wrong.
#[track_caller]
fn names(result: Result<Weights, WeightsError>) -> Vec<String> {
    result.unwrap().names().map(str::to_string).collect()
}

#[test]
fn indexes_that_are_not_what_they_should_be() {
    for shard in ["../s", "/etc/hostname", "x/../s", "..", "", "c:s", "..\\\\s"] {
        match open_index(&index(&[("b", shard)])) {
            WeightsError::Index { error: IndexError::ShardName { tensor, .. }, .. } => {
                assert_eq!(tensor, "b");
            }
            other => panic!("{shard}: {other}"),
        }
    }
    for json in ["", "{", "[]", "{}", "\u{1}", r#"{"weight_map":5}"#, &"[".repeat(1 << 20)] {
        let error = open_index(json);
        assert!(
            matches!(error, WeightsError::Index { error: IndexError::Json(_), .. }),
            "{json:.20}"
        );
    }
    // The headers decide, whatever the index says.
    let astray = index(&[("b", "s"), ("c.d.e", "gone"), ("a.weight", "gone")]);
    assert_eq!(names(open_with_index(&astray)), TENSORS);
    assert_eq!(names(open_with_index(&index(&[("b", "s"), ("nowhere", "s")]))), TENSORS);
    match open_index(&index(&[("c.d.e", "gone"), ("a.weight", "gone"), ("b", "too")])) {
        WeightsError::Incomplete { files, tensors: 3, first, .. } => {
            assert_eq!((files, first.as_str()), (vec!["gone".into(), "too".into()], "a.weight"));
        }
        other => panic!("{other}"),
    }
    // The index as its own shard.
    let error = open_index(&index(&[("b", "model.safetensors.index.json")]));
    assert!(matches!(error, WeightsError::Header { .. }), "{error}");
    // The most memory for its length: the shortest entries.
    let short: Vec<_> = (0..130_000).map(|i| format!("{i:x}")).collect();
    let map: Vec<_> = short.iter().map(|name| (name.as_str(), "s")).collect();
    assert_eq!(names(open_with_index(&index(&map))), TENSORS);
    let many: Vec<_> = short.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let error = open_index(&index(&many));
    assert!(matches!(error, WeightsError::Index { error: IndexError::TooManyShards { .. }, .. }));
    let long = "t".repeat(1 << 20);
    assert_eq!(names(open_with_index(&index(&[(&long, "s")]))), TENSORS);
    let error = open_index(&index(&[(&long, &long)]));
    assert!(matches!(error, WeightsError::Index { error: IndexError::ShardName { .. }, .. }));
    // The longest name that a file system allows.
    let error = open_index(&index(&[("b", &"s".repeat(255))]));
    assert!(matches!(error, WeightsError::Incomplete { tensors: 1, .. }), "{error}");
}

#[test]
fn a_tensor_in_another_shard_than_the_index_says() {
    let dir = TempDir::new();
    dir.write("s", one("a", 1));
    dir.write("t", one("b", 2));
    dir.write("u", one("c", 3));
    dir.write("model.safetensors.index.json", index(&[("c", "u"), ("a", "s"), ("b", "t")]));
    let right = dir.open().unwrap().fingerprint().unwrap();
    let elsewhere = index(&[("c", "u"), ("gone", "s"), ("a", "t"), ("b", "t")]);
    dir.write("model.safetensors.index.json", elsewhere);
    assert_eq!(dir.open().unwrap().fingerprint().unwrap(), right);
}

/// A file with one tensor of one byte.
fn one(name: &str, value: u8) -> Vec<u8> {
    raw(format!("{{{}}}", entry(name, "U8", &[1], 0, 1)), &[value])
}

/// The file of each tensor in a folder.
fn files(dir: &TempDir) -> Vec<String> {
    dir.open().unwrap().tensors().map(|tensor| tensor.file.to_string()).collect()
}

#[test]
fn the_index_decides_between_two_tensors_of_a_name() {
    let dir = TempDir::new();
    let both = index(&[("b", "s"), ("a.weight", "t"), ("c.d.e", "s"), ("zero", "t")]);
    dir.write("model.safetensors.index.json", both);
    dir.write("s", valid());
    dir.write("t", valid());
    assert_eq!(files(&dir), ["t", "s", "s", "t"]);
    // It doesn't mention two of the tensors.
    dir.write("model.safetensors.index.json", index(&[("b", "s"), ("a.weight", "t")]));
    match dir.open().unwrap_err() {
        WeightsError::DuplicateTensor { tensor, first, second } => {
            assert_eq!((&*tensor, &*first, &*second), ("c.d.e", "s", "t"));
        }
        other => panic!("{other}"),
    }
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[test]
fn shards_without_an_index_or_with_that_of_another_build() {
    let dir = TempDir::new();
    dir.write(SHARDS[0], one("a", 1));
    dir.write(SHARDS[1], one("b", 2));
    assert_eq!(files(&dir), SHARDS);
    let other = ["model-00001-of-00013.safetensors", "model-00013-of-00013.safetensors"];
    dir.write("model.safetensors.index.json", index(&[("a", other[0]), ("b", other[1])]));
    assert_eq!(files(&dir), SHARDS);
    // With one shard of the other build, the complete set counts. Once the other set is complete,
    // its index decides.
    dir.write(other[0], one("a", 9));
    assert_eq!(files(&dir), SHARDS);
    dir.write(other[1], one("b", 9));
    assert_eq!(files(&dir), other);
    // Neither the index nor the numbers decide.
    fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    for shard in 2..13 {
        dir.write(&format!("model-{shard:05}-of-00013.safetensors"), one(&format!("c{shard}"), 0));
    }
    match dir.open().unwrap_err() {
        WeightsError::MixedShards { firsts, .. } => assert_eq!(firsts, [SHARDS[0], other[0]]),
        error => panic!("{error}"),
    }
    // `transformers` looks only at a file of this name.
    dir.write("model.safetensors", one("a", 3));
    assert_eq!(files(&dir), ["model.safetensors"]);
    // Unless an index lists others with it.
    dir.write(
        "model.safetensors.index.json",
        index(&[("a", "model.safetensors"), ("head", "head.safetensors")]),
    );
    dir.write("head.safetensors", one("head", 4));
    assert_eq!(files(&dir), ["model.safetensors", "head.safetensors"]);
}

#[test]
fn numbers_that_promise_too_much_are_not_believed() {
    let dir = TempDir::new();
    for name in ["model-00001-of-99999999.safetensors", "model-1-of-4097.safetensors"] {
        dir.write(name, one("a", 0));
    }
    let (result, peak) = peak(|| dir.open());
    assert!(matches!(result, Err(WeightsError::NoWeights { .. })) && peak < FLOOR, "{peak}");
    dir.write("model-00001-of-04096.safetensors", one("a", 0));
    dir.open().unwrap();
}

#[test]
fn folders_that_hold_something_else() {
    let message = |dir: &TempDir| dir.open().unwrap_err().to_string();
    let dir = TempDir::new();
    assert!(message(&dir).contains("neither model.safetensors nor"), "{}", message(&dir));
    dir.write("training_args.bin", "");
    dir.write("pytorch_model-00001-of-00002.bin", "");
    dir.write("pytorch_model-00002-of-00002.bin", "");
    assert!(message(&dir).contains("only `pytorch_model-00001-of-00002.bin` and 1 more"));
    assert!(message(&dir).contains("safe_serialization=True"));
    let dir = TempDir::new();
    dir.write("model-Q4_K_M.gguf", "");
    assert!(message(&dir).contains("GGUF is not supported"));
    dir.write("pytorch_model-00001-of-00002.safetensors", "");
    assert!(message(&dir).contains("only `pytorch_model-00001-of-00002.safetensors`"));
    assert!(message(&dir).contains("rename them to model-00001-of-"), "{}", message(&dir));
    for (name, part) in [
        ("pytorch_model.safetensors", "rename it to model.safetensors"),
        ("consolidated.safetensors", "download model*.safetensors"),
        ("adapter_model.safetensors", "merge it into its base model"),
        ("model.onnx", "exported graphs are not supported"),
        ("flax_model.msgpack", "Flax"),
    ] {
        let dir = TempDir::new();
        dir.write(name, "");
        dir.write("optimizer.pt", "");
        assert!(message(&dir).contains(name) && message(&dir).contains(part), "{}", message(&dir));
        assert!(!message(&dir).contains("more files"), "{}", message(&dir));
    }

    let gone = Weights::open(&dir.path().join("gone")).unwrap_err();
    assert!(matches!(gone, WeightsError::Io { .. }), "{gone}");
    let path = dir.write("model.safetensors", valid());
    let error = Weights::open(&path).unwrap_err();
    assert!(matches!(error, WeightsError::NotAFolder { .. } | WeightsError::Io { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, WeightsError::NotAFile { what: "a folder", .. }), "{error}");
    fs::remove_dir(&path).unwrap();
    dir.write("model.safetensors.index.json", index(&[("b", "s")]));
    fs::create_dir(dir.path().join("s")).unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, WeightsError::NotAFile { what: "a folder", .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new();
    let path = dir.path().join("model.safetensors");
    // Like a download cache: a link to a file elsewhere.
    let elsewhere = TempDir::new();
    symlink(elsewhere.write("blob", valid()), &path).unwrap();
    dir.open().unwrap();
    for target in ["gone", "model.safetensors", "/dev/null", "/dev/zero", ".."] {
        fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
        let error = dir.open().unwrap_err();
        let expected = match target {
            "gone" => matches!(error, WeightsError::DanglingLink { .. }),
            "model.safetensors" => matches!(error, WeightsError::Io { .. }),
            _ => matches!(error, WeightsError::NotAFile { .. }),
        };
        assert!(expected, "{target}: {error}");
    }
}
