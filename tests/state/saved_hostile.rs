//! Broken and malicious session files: an error, never a panic, and never a different session.

use kinglet::{Error, Model, ModelOptions, SavedStateError};
use kinglet_tests::cases;
use serde_json::{Value, json};

use crate::open;
use crate::saved::{bytes, load};

/// A hybrid model and the file of a session.
fn sample() -> (Model, Vec<u8>) {
    let case = cases().into_iter().find(|case| case.name == "granitemoehybrid/plain").unwrap();
    let model = open(&case, &ModelOptions::new().threads(1));
    let mut session = model.session().unwrap();
    session.feed(&case.tokens[..11]).unwrap();
    let file = bytes(&session);
    (model, file)
}

/// Header as JSON, and data.
fn parts(file: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + len]).unwrap(), file[8 + len..].to_vec())
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[track_caller]
fn refused(model: &Model, file: &[u8]) -> SavedStateError {
    match load(model, file).map(|session| session.position()) {
        Err(Error::SavedState { source, .. }) => {
            assert!(source.to_string().len() < 2000);
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_was_cut_short_is_refused_wherever_it_was_cut() {
    let (model, file) = sample();
    for len in (0..file.len()).filter(|len| *len < 300 || len % 97 == 0 || len + 20 > file.len()) {
        let error = refused(&model, &file[..len]);
        assert!(matches!(error, SavedStateError::Header(_)), "{len}: {error:?}");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(refused(&model, &longer), SavedStateError::Header(_)));
}

#[test]
fn a_changed_byte_is_an_error_or_changes_nothing() {
    let (model, file) = sample();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut unharmed = 0;
    for at in (0..file.len()).filter(|&at| at < header || at % 61 == 0 || at + 40 > file.len()) {
        for change in [1u8, 0x20, 0x80, 0xff] {
            let mut broken = file.clone();
            broken[at] ^= change;
            match load(&model, &broken) {
                Err(Error::SavedState { .. }) => {}
                Err(error) => panic!("byte {at}: {error:?}"),
                // The model's name is only informative.
                Ok(session) => {
                    unharmed += 1;
                    assert!(at < header && bytes(&session) == file, "byte {at} ^ {change}");
                }
            }
        }
    }
    assert!(unharmed < 200, "{unharmed} changes went unnoticed");
}

#[test]
fn every_field_and_tensor_is_missed_and_checked() {
    let (model, file) = sample();
    let (header, data) = parts(&file);
    let change = |f: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        f(&mut header);
        refused(&model, &join(&header.to_string(), &data))
    };
    for (field, values) in [
        ("format", vec![json!("pt"), json!("")]),
        ("version", vec![json!("3"), json!("0"), json!("x".repeat(5000))]),
        (
            "position",
            ["10", "12", "-1", "18446744073709551615", "1e3", ""].map(|s| json!(s)).to_vec(),
        ),
        ("weights", vec![json!("0"), json!("0".repeat(16)), json!("")]),
        ("computation", vec![json!("0".repeat(16))]),
        ("layout", vec![json!("0".repeat(16))]),
    ] {
        let missing = change(&|header| {
            header["__metadata__"].as_object_mut().unwrap().remove(field);
        });
        assert!(missing.to_string().contains(field) || field == "format", "{missing}");
        for value in values {
            let error = change(&|header| header["__metadata__"][field] = value.clone());
            let named = matches!(
                error,
                SavedStateError::NotASession
                    | SavedStateError::Version { .. }
                    | SavedStateError::OtherModel { .. }
                    | SavedStateError::Field { name: "position", .. }
                    | SavedStateError::WrongTensor { .. }
            );
            assert!(named, "{field} = {value}: {error:?}");
        }
    }
    for metadata in [json!([]), json!({ "format": 1 }), json!("text"), Value::Null] {
        change(&|header| header["__metadata__"] = metadata.clone());
    }
    let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
    for name in names.iter().filter(|name| *name != "__metadata__") {
        // Renamed: one is missing, another is surplus.
        let error = change(&|header| {
            let object = header.as_object_mut().unwrap();
            let entry = object.remove(name).unwrap();
            object.insert("other".into(), entry);
        });
        let named = match &error {
            SavedStateError::MissingTensor { name: missing } => missing == name,
            // Logits need not be there.
            SavedStateError::SurplusTensor { name: surplus } => {
                name == "logits" && surplus == "other"
            }
            _ => false,
        };
        assert!(named, "{name}: {error:?}");
        let error = change(&|header| header[name]["dtype"] = json!("I32"));
        let wrong =
            matches!(error, SavedStateError::WrongTensor { .. } | SavedStateError::Header(_));
        assert!(wrong, "{name}: {error:?}");
        let error = change(&|header| {
            let shape = header[name]["shape"].as_array_mut().unwrap();
            shape.insert(0, json!(1));
        });
        assert!(matches!(error, SavedStateError::WrongTensor { .. }), "{name}: {error:?}");
    }
    for sampler in ["", "{}", "{\"state\":[0,0,0,0]}", "{\"state\":[1]}", "[[[[["] {
        let error = change(&|header| {
            header["__metadata__"]["sampler"] = json!(sampler);
        });
        assert!(matches!(error, SavedStateError::MissingTensor { .. }), "{error:?}");
    }
}

#[test]
fn numbers_that_are_none_and_tokens_out_of_range_are_refused() {
    let (model, file) = sample();
    let (header, data) = parts(&file);
    let text = header.to_string();
    for (name, entry) in header.as_object().unwrap() {
        let Some(start) = entry["data_offsets"][0].as_u64() else { continue };
        let place = start as usize..start as usize + 4;
        let mut broken = data.clone();
        broken[place].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = refused(&model, &join(&text, &broken));
        let named = match &error {
            SavedStateError::Token { name: wrong, index: 0, .. } => name == wrong,
            SavedStateError::NotFinite { name: wrong } => name == wrong,
            SavedStateError::Checksum { .. } => name == "checksum",
            _ => false,
        };
        assert!(named, "{name}: {error:?}");
    }
}

#[test]
fn a_stuck_generator_is_refused() {
    let (model, _) = sample();
    let mut session = model.session().unwrap();
    session.feed(&[1, 2]).unwrap();
    let mut file = Vec::new();
    let sampler = kinglet::sampling::SamplerState::new(1);
    session.write_to(&mut file, Some(&sampler)).unwrap();
    let (header, data) = parts(&file);
    for text in ["", "{}", "{\"state\":[0,0,0,0]}", "{\"state\":[1]}", "[[[[["] {
        let mut header = header.clone();
        header["__metadata__"]["sampler"] = json!(text);
        let error = refused(&model, &join(&header.to_string(), &data));
        assert!(matches!(error, SavedStateError::Field { name: "sampler", .. }), "{error:?}");
    }
    // Different numbers from the saved ones.
    let mut header = header.clone();
    header["__metadata__"]["sampler"] = json!("{\"state\":[1,2,3,4]}");
    let error = refused(&model, &join(&header.to_string(), &data));
    assert!(matches!(error, SavedStateError::Checksum { .. }), "{error:?}");
}

#[test]
fn headers_that_lie_about_lengths_take_no_memory() {
    let (model, file) = sample();
    for len in [0, 1, file.len() as u64, 1 << 40, u64::MAX] {
        let mut broken = file.clone();
        broken[..8].copy_from_slice(&len.to_le_bytes());
        refused(&model, &broken);
    }
    let (header, _) = parts(&file);
    for (shape, end) in [
        (json!([1u64 << 62]), 1u64 << 62),
        (json!([u64::MAX, 4]), 16),
        (json!([1u64 << 40]), 1 << 42),
    ] {
        let mut header = header.clone();
        header["tokens"]["shape"] = shape;
        header["tokens"]["data_offsets"] = json!([0, end]);
        refused(&model, &join(&header.to_string(), &[0; 64]));
    }
    for header in ["", "{}", "null", "[]", "{\"tokens\":", "{\"__metadata__\":{}}"] {
        refused(&model, &join(header, &[]));
    }
}

/// A session with a vector at position 4 and again at 6, and a different one in between.
fn with_vectors() -> (Model, Vec<u8>) {
    let (model, _) = sample();
    let width = model.embedding_width();
    let (one, other) = (vec![0.25; width], vec![-0.5; width]);
    let mut session = model.session().unwrap();
    session.feed(&[1, 2, 3, 4]).unwrap();
    session.feed_embeddings(&[one.clone(), other, one].concat()).unwrap();
    session.feed(&[5]).unwrap();
    let file = bytes(&session);
    (model, file)
}

#[test]
fn vectors_in_files_are_those_of_their_digests() {
    let (model, file) = with_vectors();
    let (header, data) = parts(&file);
    assert_eq!(header["__metadata__"]["version"], "2");
    assert_eq!(header["vectors"]["shape"], json!([2, 8]));
    let session = load(&model, &file).unwrap();
    assert_eq!(bytes(&session), file);
    let ids = session.tokens();
    assert!(ids[4..7].iter().all(|&id| id >= kinglet::FIRST_VECTOR_ID));
    assert_eq!((ids[4] == ids[6], ids[4] == ids[5]), (true, false));

    let change = |f: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        f(&mut header);
        refused(&model, &join(&header.to_string(), &data))
    };
    // As before digests existed: tokens from 2^31 on without any description.
    let error = change(&|header| header["__metadata__"]["version"] = json!("1"));
    assert!(matches!(error, SavedStateError::SurplusTensor { .. }), "{error:?}");
    let vectors = |header: &Value| {
        let range = &header["vectors"]["data_offsets"];
        [range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize]
    };
    let [start, end] = vectors(&header);
    let mut old = header.clone();
    let object = old.as_object_mut().unwrap();
    object.remove("vectors");
    object["__metadata__"]["version"] = json!("1");
    for (name, entry) in
        object.iter_mut().filter(|(name, _)| *name != "__metadata__" && *name != "tokens")
    {
        for offset in entry["data_offsets"].as_array_mut().unwrap() {
            *offset = json!(offset.as_u64().unwrap() - (end - start) as u64);
        }
        assert_ne!(name, "vectors");
    }
    let cut = [&data[..start], &data[end..]].concat();
    let error = refused(&model, &join(&old.to_string(), &cut));
    assert!(matches!(error, SavedStateError::WeakVectors { index: 4 }), "{error:?}");
    assert!(error.to_string().contains("version 1"), "{error}");

    let error = change(&|header| header["vectors"]["shape"] = json!([4, 4]));
    assert!(matches!(error, SavedStateError::WrongTensor { .. }), "{error:?}");
    // A vector without a digest.
    let mut beyond = data.clone();
    beyond[4 * 5..][..4].copy_from_slice(&(kinglet::FIRST_VECTOR_ID + 2).to_le_bytes());
    let error = refused(&model, &join(&header.to_string(), &beyond));
    assert!(matches!(error, SavedStateError::Token { index: 5, .. }), "{error:?}");
    // A digest different from the saved one.
    let mut other = data.clone();
    other[start] ^= 1;
    let error = refused(&model, &join(&header.to_string(), &other));
    assert!(matches!(error, SavedStateError::Checksum { .. }), "{error:?}");
}

#[test]
fn a_session_without_vectors_says_nothing_of_them() {
    let (model, file) = sample();
    let (header, data) = parts(&file);
    // Written and read by earlier versions of the library.
    assert_eq!(header["__metadata__"]["version"], "1");
    assert!(header.get("vectors").is_none());
    let mut later = header.clone();
    later["__metadata__"]["version"] = json!("2");
    let error = refused(&model, &join(&later.to_string(), &data));
    assert!(
        matches!(&error, SavedStateError::MissingTensor { name } if name == "vectors"),
        "{error:?}"
    );
}
