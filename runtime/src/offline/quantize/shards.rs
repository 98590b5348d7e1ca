//! The safetensors files of the new checkpoint. The place of every tensor is known before anything
//! is written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::target::{Part, TargetTensor};

/// One safetensors file.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::offline) struct Shard {
    /// Its name.
    pub(in crate::offline) name: String,
    /// The bytes before the data: the header's length and the header.
    pub(in crate::offline) header: Vec<u8>,
    /// Size of the whole file, in bytes.
    pub(in crate::offline) len: u64,
}

/// The place of a tensor's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::offline) struct Place {
    /// Index of the shard.
    pub(in crate::offline) shard: usize,
    /// The offset of each part in the file.
    pub(in crate::offline) offsets: Vec<u64>,
}

/// Assigns tensors to files of at most `max_bytes` of data, unless a single tensor is larger. A
/// tensor's scales are in its file. Returns a place for each tensor. `layout` is the name in the files' metadata.
pub(in crate::offline) fn lay_out(
    tensors: &[TargetTensor],
    max_bytes: u64,
    layout: &str,
) -> (Vec<Shard>, Vec<Place>) {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut size = 0u64;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.bytes();
        match groups.last_mut() {
            Some(group) if size.saturating_add(bytes) <= max_bytes => group.push(index),
            _ => {
                groups.push(vec![index]);
                size = 0;
            }
        }
        size = size.saturating_add(bytes);
    }
    let count = groups.len();
    let mut shards = Vec::new();
    let mut places = vec![Place::default(); tensors.len()];
    for (shard, group) in groups.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".into(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        };
        let mut parts: Vec<(usize, usize, Part)> = Vec::new();
        for &index in &group {
            let Some(tensor) = tensors.get(index) else { continue };
            let found = tensor.parts().into_iter().enumerate();
            parts.extend(found.map(|(part, tensor)| (index, part, tensor)));
        }
        // Larger elements come first, so that every tensor is aligned to its elements.
        parts.sort_by_key(|(_, _, part)| std::cmp::Reverse(part.size));
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": layout }));
        let mut end = 0u64;
        let mut begins = Vec::new();
        for (index, at, part) in parts {
            let begin = end;
            end = end.saturating_add(part.bytes());
            let entry =
                json!({ "dtype": part.dtype, "shape": part.shape, "data_offsets": [begin, end] });
            header.insert(part.name, entry);
            begins.push((index, at, begin));
        }
        let header = with_length(&Value::Object(header));
        let data = header.len() as u64;
        begins.sort_unstable();
        for (index, _, begin) in begins {
            if let Some(place) = places.get_mut(index) {
                place.shard = shard;
                place.offsets.push(data.saturating_add(begin));
            }
        }
        shards.push(Shard { name, header, len: data.saturating_add(end) });
    }
    (shards, places)
}

/// A header with its length before it, padded to a multiple of 8 bytes in total.
fn with_length(header: &Value) -> Vec<u8> {
    let mut json = header.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

/// The text of `model.safetensors.index.json`.
pub(in crate::offline) fn index(
    tensors: &[TargetTensor],
    shards: &[Shard],
    places: &[Place],
) -> String {
    let mut map = BTreeMap::new();
    let (mut bytes, mut weights) = (0u64, 0u64);
    for (tensor, place) in tensors.iter().zip(places) {
        let Some(shard) = shards.get(place.shard) else { continue };
        bytes = bytes.saturating_add(tensor.bytes());
        weights = weights.saturating_add(tensor.weights());
        map.extend(tensor.parts().into_iter().map(|part| (part.name, json!(shard.name))));
    }
    let index = json!({
        "metadata": { "total_size": bytes, "total_parameters": weights },
        "weight_map": Value::Object(map.into_iter().collect()),
    });
    serde_json::to_string_pretty(&index).unwrap_or_default() + "\n"
}
