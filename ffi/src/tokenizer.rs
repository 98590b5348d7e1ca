//! Conversion between text and tokens.

use std::ffi::c_char;
use std::sync::{Arc, Mutex};

use kinglet::text::{EncodeOptions, StreamDecoder, Tokenizer};

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::model::ModelObject;
use crate::status::{Failure, kinglet_status};

/// A tokenizer. Thread-safe.
pub struct kinglet_tokenizer;

/// Converts a stream of tokens to text, without splitting characters. One thread at a time; another
/// gets `KINGLET_BUSY`.
pub struct kinglet_decoder;

pub(crate) struct TokenizerObject(Tokenizer);

impl Object for TokenizerObject {
    type Handle = kinglet_tokenizer;
    const NAME: &'static str = "tokenizer";
}

pub(crate) struct Decoder(Mutex<StreamDecoder>);

impl Object for Decoder {
    type Handle = kinglet_decoder;
    const NAME: &'static str = "decoder";
}

/// Options of `kinglet_tokenizer_encode`; combine them with `|`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_encode_flags {
    /// Adds the tokens that the model expects at the beginning or end of a text.
    KINGLET_ENCODE_ADD_SPECIAL = 1,
    /// Parses text such as `<|im_end|>` as the special token of that name. Do not use it for
    /// untrusted text.
    KINGLET_ENCODE_PARSE_SPECIAL = 2,
}

/// Converts the flags.
pub(crate) fn encode_options(flags: u32) -> Result<EncodeOptions, Failure> {
    if flags > 3 {
        return Err(Failure::argument(format!(
            "{flags:#x} is not a combination of kinglet_encode_flags"
        )));
    }
    let (add_special_tokens, parse_special_tokens) = (flags & 1 != 0, flags & 2 != 0);
    Ok(EncodeOptions { add_special_tokens, parse_special_tokens })
}

/// Loads the tokenizer of the model folder `path` (`tokenizer.json`) without the model. Free it
/// with `kinglet_tokenizer_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_open(
    path: *const c_char,
    tokenizer: *mut *mut kinglet_tokenizer,
) -> kinglet_status {
    call(|| {
        memory::check_out(tokenizer, "tokenizer")?;
        let loaded =
            Tokenizer::from_folder(&kinglet::resolve_folder(memory::path(path, "path")?)?)?;
        let object = Arc::new(TokenizerObject(loaded));
        memory::write(tokenizer, "tokenizer", handle::insert(object)?)
    })
}

/// Returns the tokenizer of an open model; it may outlive the model. Free it with
/// `kinglet_tokenizer_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_tokenizer(
    model: *const crate::model::kinglet_model,
    tokenizer: *mut *mut kinglet_tokenizer,
) -> kinglet_status {
    call(|| {
        memory::check_out(tokenizer, "tokenizer")?;
        let model = handle::get::<ModelObject>(model)?;
        let object = Arc::new(TokenizerObject(model.tokenizer()?.clone()));
        memory::write(tokenizer, "tokenizer", handle::insert(object)?)
    })
}

/// Deletes a tokenizer. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_delete(tokenizer: *mut kinglet_tokenizer) -> kinglet_status {
    call(|| handle::delete::<TokenizerObject>(tokenizer))
}

/// Converts `length` bytes of UTF-8 to tokens. `flags` are `enum kinglet_encode_flags` combined
/// with `|`, or 0. Free the tokens with `kinglet_free`, even if there are none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_encode(
    tokenizer: *const kinglet_tokenizer,
    text: *const c_char,
    length: usize,
    flags: u32,
    tokens: *mut *mut u32,
    count: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(tokens, "tokens")?;
        memory::check_out(count, "count")?;
        let tokenizer = handle::get::<TokenizerObject>(tokenizer)?;
        let text = memory::text(text, length, "text")?;
        let ids = tokenizer.0.encode(text, encode_options(flags)?)?;
        memory::lend_tokens(ids, tokens, count)
    })
}

/// Converts tokens to text, without special tokens if `skip_special` is not 0. Tokens that the
/// tokenizer doesn't know have no text. The text ends with a NUL, which `length` (may be null) does
/// not count. Free it with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_decode(
    tokenizer: *const kinglet_tokenizer,
    tokens: *const u32,
    count: usize,
    skip_special: i32,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(text, "text")?;
        let tokenizer = handle::get::<TokenizerObject>(tokenizer)?;
        let tokens = memory::slice(tokens, count, MAX_TOKENS, "tokens")?;
        let decoded = tokenizer.0.decode(tokens, skip_special != 0)?;
        memory::lend_bytes(decoded.into_bytes(), text, length)
    })
}

/// Returns the number of tokens in the vocabulary. Their ids may have gaps.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_vocabulary(
    tokenizer: *const kinglet_tokenizer,
    count: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::write(count, "count", handle::get::<TokenizerObject>(tokenizer)?.0.vocab_size())
    })
}

/// Finds the id of a token by its exact text in the vocabulary (`<|im_end|>`). Returns
/// `KINGLET_NOT_FOUND` if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_token(
    tokenizer: *const kinglet_tokenizer,
    name: *const c_char,
    token: *mut u32,
) -> kinglet_status {
    call(|| {
        memory::check_out(token, "token")?;
        let tokenizer = handle::get::<TokenizerObject>(tokenizer)?;
        let name = memory::string(name, "name")?;
        let found = tokenizer.0.token_to_id(name).ok_or_else(|| {
            let message = format!("{name:?} is not a token of this vocabulary");
            Failure::new(kinglet_status::KINGLET_NOT_FOUND, message)
        })?;
        memory::write(token, "token", found)
    })
}

/// Creates a decoder for a new text; special tokens have no text if `skip_special` is not 0. Free
/// it with `kinglet_decoder_delete`; it may outlive the tokenizer.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_create(
    tokenizer: *const kinglet_tokenizer,
    skip_special: i32,
    decoder: *mut *mut kinglet_decoder,
) -> kinglet_status {
    call(|| {
        memory::check_out(decoder, "decoder")?;
        let tokenizer = handle::get::<TokenizerObject>(tokenizer)?;
        let object = Arc::new(Decoder(Mutex::new(tokenizer.0.stream(skip_special != 0))));
        memory::write(decoder, "decoder", handle::insert(object)?)
    })
}

/// Deletes a decoder. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_delete(decoder: *mut kinglet_decoder) -> kinglet_status {
    call(|| handle::delete::<Decoder>(decoder))
}

fn decode(
    decoder: *mut kinglet_decoder,
    text: *mut *mut c_char,
    length: *mut usize,
    run: impl FnOnce(&mut StreamDecoder) -> Result<String, Failure>,
) -> kinglet_status {
    call(|| {
        memory::check_out(text, "text")?;
        let decoder = handle::get::<Decoder>(decoder)?;
        let mut decoder = decoder.0.try_lock().map_err(|_| {
            Failure::new(kinglet_status::KINGLET_BUSY, "the decoder is in use by another call")
        })?;
        memory::lend_bytes(run(&mut decoder)?.into_bytes(), text, length)
    })
}

/// Takes the next token and returns the text that is now final, often the empty text. `length` may
/// be null. Free the text with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_push(
    decoder: *mut kinglet_decoder,
    token: u32,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    decode(decoder, text, length, |decoder| Ok(decoder.push(token)?.unwrap_or_default()))
}

/// Ends the text: returns what was held back, with U+FFFD for an incomplete character, and starts a
/// new text. `length` may be null. Free the text with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_finish(
    decoder: *mut kinglet_decoder,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    decode(decoder, text, length, |decoder| Ok(decoder.finish()?))
}
