//! The companions of `tokenizer.json`: they add tokens to it and name special tokens.
//!
//! This follows `transformers` 5 step by step (`PreTrainedTokenizerBase._from_pretrained`, then
//! `TokenizersBackend.__init__`), so that every token gets the same id, even if files contradict
//! each other:
//!
//! 1. `tokenizer_config.json` names tokens: the seven standard ones, any other field that ends in
//!    `_token`, and the lists or objects `extra_special_tokens` and `additional_special_tokens`
//!    (the older name).
//! 2. If it has no `added_tokens_decoder`, the files predate that field: `special_tokens_map.json`
//!    overrides the names, and the tokens of `added_tokens.json` are added.
//! 3. Tokens are added in the order of their declared ids, then the named ones, then the extra
//!    ones. The declared id itself has no effect: a token in the vocabulary keeps its id, and
//!    others get the next free one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;
use super::declared::{
    Declared, Extra, Properties, extra, is_tagged, optional_token, plain, properties,
};
use super::files::{self, field_error, kind, read_optional_object};
use super::special_tokens::NAMES;

const PAD: &str = "pad_token";
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";
const DECODER: &str = "added_tokens_decoder";

/// The fields of `tokenizer.json` that are needed besides what the library reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    added_tokens: Value,
    padding: Value,
}

impl Head {
    /// The padding token of the file, which is the `pad_token` if the configuration names none.
    pub(super) fn pad_token(&self) -> Option<&str> {
        self.padding.get(PAD)?.as_str()
    }
}

/// The parsed companion files of one folder.
#[derive(Debug, Default)]
pub(super) struct Companions {
    /// Declared standard names, by index in [`NAMES`]. A declared null is `None`.
    standard: BTreeMap<usize, Option<Declared>>,
    /// Other names, in order.
    own: Vec<(String, Declared)>,
    extra: Vec<Declared>,
    /// Added tokens, by declared id.
    added: BTreeMap<i64, Properties>,
    /// The last declaration of each text.
    by_text: HashMap<String, Properties>,
    /// The files predate `added_tokens_decoder`.
    legacy: bool,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
}

impl Companions {
    /// Reads the files of a model folder. Missing files declare nothing.
    pub(super) fn read(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer_config.json");
        let config = read_optional_object(&path)?.unwrap_or_default();
        let mut names = Names::default();
        names.read_config(&path, &config)?;
        let mut companions = Self {
            legacy: !config.contains_key(DECODER),
            add_bos: optional_bool(&path, &config, "add_bos_token")?,
            add_eos: optional_bool(&path, &config, "add_eos_token")?,
            ..Self::default()
        };
        if let Some(decoder) = config.get(DECODER) {
            companions.read_decoder(&path, decoder)?;
        } else {
            let path = folder.join("special_tokens_map.json");
            if let Some(map) = read_optional_object(&path)? {
                names.read_map(&path, &map)?;
            }
            let path = folder.join("added_tokens.json");
            if let Some(map) = read_optional_object(&path)? {
                companions.read_added(&path, &map, &names.converted())?;
            }
        }
        names.settle(&mut companions);
        Ok(companions)
    }

    /// Reads `added_tokens_decoder`: `{"5": {"content": "<s>", "special": true, ...}}`, by id.
    fn read_decoder(&mut self, path: &Path, decoder: &Value) -> Result<(), TextError> {
        let Value::Object(decoder) = decoder else {
            let problem = format!("expected an object, found {}", kind(decoder));
            return Err(field_error(path, DECODER, problem));
        };
        for (id, token) in decoder {
            let field = format!("{DECODER}.{id}");
            let id: Result<u32, _> = id.parse();
            let id = id.map_err(|_| field_error(path, &field, "the name is not a token id"))?;
            let Value::Object(token) = token else {
                let problem = format!("expected an object, found {}", kind(token));
                return Err(field_error(path, &field, problem));
            };
            self.declare(id.into(), properties(path, &field, token)?);
        }
        Ok(())
    }

    /// Reads `added_tokens.json`: ids by text. `special` are the texts named so far.
    fn read_added(
        &mut self,
        path: &Path,
        map: &Map<String, Value>,
        special: &HashSet<String>,
    ) -> Result<(), TextError> {
        for (text, id) in map {
            let Some(id) = id.as_i64() else {
                let problem = format!("expected a token id, found {}", kind(id));
                return Err(field_error(path, text, problem));
            };
            let special = special.contains(text);
            let token = Properties { special, ..plain(text, special) };
            self.declare(id, token);
        }
        Ok(())
    }

    fn declare(&mut self, id: i64, token: Properties) {
        self.by_text.insert(token.content.clone(), token.clone());
        self.added.insert(id, token);
    }

    /// Whether the files declare a padding token, or declare that there is none.
    #[cfg(feature = "chat-template")]
    pub(super) fn declares_pad(&self) -> bool {
        let pad = NAMES.iter().position(|name| *name == PAD);
        pad.is_some_and(|index| self.standard.contains_key(&index))
    }

    /// Names and texts of the named tokens, in the order of `transformers`. `pad` is the padding
    /// token of `tokenizer.json`.
    pub(super) fn named(&self, pad: Option<&str>) -> Vec<(String, String)> {
        let tokens = self.named_tokens(pad);
        tokens.into_iter().map(|(name, token)| (name, token.text().to_string())).collect()
    }

    fn named_tokens(&self, pad: Option<&str>) -> Vec<(String, Declared)> {
        let mut tokens: Vec<(String, Option<Declared>)> = Vec::new();
        for (index, name) in NAMES.iter().enumerate() {
            let declared = self.standard.get(&index).cloned();
            let value = match declared {
                Some(value) => value.map(|token| match self.by_text.get(token.text()) {
                    Some(properties) => Declared::Token(properties.clone()),
                    None => token,
                }),
                None => pad.filter(|_| *name == PAD).map(|text| Declared::Text(text.to_string())),
            };
            tokens.push(((*name).to_string(), value));
        }
        for (name, token) in &self.own {
            match tokens.iter_mut().find(|(known, _)| known == name) {
                Some((_, value)) => *value = Some(token.clone()),
                None => tokens.push((name.clone(), Some(token.clone()))),
            }
        }
        tokens.into_iter().filter_map(|(name, token)| Some((name, token?))).collect()
    }

    /// The tokens to add to those of `tokenizer.json`, in order, each with its declared id if it
    /// has one. `known` are the texts of the added tokens in that file.
    pub(super) fn additions(
        mut self,
        head: &Head,
        known: &HashSet<String>,
    ) -> Vec<(Option<i64>, AddedToken)> {
        if self.legacy {
            self.read_head(head);
        }
        let named = self.named_tokens(head.pad_token());
        let declared: HashSet<&str> =
            self.added.values().map(|token| token.content.as_str()).collect();
        let mut texts = HashSet::new();
        let mut tokens = HashSet::new();
        let mut more: Vec<Declared> = Vec::new();
        for token in named.iter().map(|(_, token)| token).chain(&self.extra) {
            if known.contains(token.text()) || declared.contains(token.text()) {
                continue;
            }
            let new = match token {
                Declared::Text(text) => texts.insert(text.clone()),
                Declared::Token(properties) => tokens.insert(properties.token()),
            };
            if new {
                more.push(token.clone());
            }
        }
        let names: HashSet<&str> = named.iter().map(|(_, token)| token.text()).collect();
        let settle = |mut token: Properties| {
            token.special |= names.contains(token.content.as_str());
            token.token()
        };
        let more = more.into_iter().map(|token| match token {
            Declared::Text(text) => (None, AddedToken::from(text, true)),
            Declared::Token(token) => (None, settle(token)),
        });
        let added = self.added.iter().map(|(id, token)| (Some(*id), settle(token.clone())));
        added.chain(more).collect()
    }

    /// Reads the added tokens of `tokenizer.json` itself. If two files claim an id, the token of
    /// this file has it, and the other is added only if something names it. The library reports
    /// malformed entries.
    fn read_head(&mut self, head: &Head) {
        for token in head.added_tokens.as_array().into_iter().flatten() {
            let (Some(id), Some(token)) =
                (token.get("id").and_then(Value::as_i64), token.as_object())
            else {
                continue;
            };
            if let Ok(token) = properties(&PathBuf::new(), "added_tokens", token) {
                self.declare(id, token);
            }
        }
    }
}

/// The names, while the files are being read.
#[derive(Default)]
struct Names {
    standard: BTreeMap<usize, Option<Declared>>,
    /// Objects with a name of their own. They come before those of `explicit`. A null reserves the
    /// place of a name.
    automatic: Vec<(String, Option<Declared>)>,
    explicit: Vec<(String, Declared)>,
    extra: Option<Extra>,
    additional: Option<Extra>,
}

impl Names {
    fn read_config(&mut self, path: &Path, config: &Map<String, Value>) -> Result<(), TextError> {
        for (name, value) in config {
            if let Some(index) = NAMES.iter().position(|known| known == name) {
                self.standard.insert(index, optional_token(path, name, value, false)?);
            } else if name == EXTRA {
                self.extra = Some(extra(path, name, value)?);
            } else if name == ADDITIONAL {
                self.additional = Some(extra(path, name, value)?);
            } else if name.ends_with("_token") {
                match value {
                    Value::String(text) => {
                        set(&mut self.explicit, name, Declared::Text(text.clone()));
                    }
                    Value::Object(object) if is_tagged(object) => {
                        let token = Declared::Token(properties(path, name, object)?);
                        set(&mut self.automatic, name, Some(token));
                    }
                    Value::Null => set(&mut self.automatic, name, None),
                    // Options such as `add_bos_token`.
                    _ => {}
                }
            }
        }
        if self.extra.as_ref().is_none_or(Extra::is_empty) && self.additional.is_some() {
            self.extra = self.additional.take();
        }
        self.name_extra();
        Ok(())
    }

    /// Treats an object of extra tokens as named tokens.
    fn name_extra(&mut self) {
        match self.extra.take() {
            Some(Extra::Named(named)) => {
                named.into_iter().for_each(|(name, token)| set(&mut self.explicit, &name, token));
            }
            other => self.extra = other,
        }
    }

    /// Reads `special_tokens_map.json`.
    fn read_map(&mut self, path: &Path, map: &Map<String, Value>) -> Result<(), TextError> {
        for (name, value) in map {
            if let Some(index) = NAMES.iter().position(|known| known == name) {
                self.standard.insert(index, optional_token(path, name, value, true)?);
            } else if name == EXTRA {
                match (extra(path, name, value)?, self.extra.take()) {
                    (Extra::List(more), Some(Extra::List(mut list))) => {
                        for token in more {
                            if !list.contains(&token) {
                                list.push(token);
                            }
                        }
                        self.extra = Some(Extra::List(list));
                    }
                    (given, _) => self.extra = Some(given),
                }
            } else if name == ADDITIONAL {
                self.additional = Some(extra(path, name, value)?);
            } else if name.ends_with("_token") {
                match value {
                    Value::Null | Value::String(_) | Value::Object(_) => {
                        let token = optional_token(path, name, value, true)?;
                        set(&mut self.automatic, name, token);
                    }
                    _ => {}
                }
            }
        }
        self.name_extra();
        Ok(())
    }

    /// The texts that are special for `added_tokens.json`.
    fn converted(&self) -> HashSet<String> {
        let listed = match &self.extra {
            Some(Extra::List(list)) => list.as_slice(),
            _ => &[],
        };
        let standard = self.standard.values().flatten();
        standard
            .chain(listed)
            .filter(|token| !matches!(token, Declared::Token(token) if token.unconverted))
            .map(|token| token.text().to_string())
            .collect()
    }

    fn settle(mut self, companions: &mut Companions) {
        if self.extra.is_none() {
            self.extra = self.additional.take();
        }
        companions.standard = self.standard;
        let own = &mut companions.own;
        match self.extra {
            Some(Extra::List(list)) => companions.extra = list,
            Some(Extra::Named(named)) => own.extend(named),
            Some(Extra::Null) | None => {}
        }
        let automatic = self.automatic.into_iter();
        let automatic = automatic.filter_map(|(name, token)| Some((name, token?)));
        for (name, token) in automatic.chain(self.explicit) {
            set(own, &name, token);
        }
    }
}

/// Sets the value of a name. It stays at the place of its first appearance.
fn set<T>(named: &mut Vec<(String, T)>, name: &str, token: T) {
    match named.iter_mut().find(|(known, _)| known == name) {
        Some((_, value)) => *value = token,
        None => named.push((name.to_string(), token)),
    }
}

fn optional_bool(
    path: &Path,
    map: &Map<String, Value>,
    field: &str,
) -> Result<Option<bool>, TextError> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => {
            Err(field_error(path, field, format!("expected true or false, found {}", kind(other))))
        }
    }
}

/// The padding token in `tokenizer.json` of a folder.
#[cfg_attr(not(feature = "chat-template"), allow(dead_code))]
pub(super) fn pad_token(folder: &Path) -> Option<String> {
    let json = files::read_optional(&folder.join("tokenizer.json"), files::MAX_TOKENIZER_BYTES);
    let head: Head = serde_json::from_slice(&json.ok()??).ok()?;
    head.pad_token().map(str::to_string)
}
