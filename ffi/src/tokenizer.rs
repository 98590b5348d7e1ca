//! Text to tokens and back.

use std::ffi::c_char;
use std::sync::{Arc, Mutex};

use kinglet::text::{EncodeOptions, StreamDecoder, Tokenizer};

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::model::ModelObject;
use crate::status::{Failure, kinglet_status};

/// A tokenizer. Any number of threads may use it at once.
pub struct kinglet_tokenizer;

/// Turns tokens that come one by one into text, never half a character. One thread at a time: another one gets `KINGLET_BUSY`.
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

/// What `kinglet_tokenizer_encode` does besides cutting text into tokens; to be joined with `|`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_encode_flags {
    /// Adds the tokens that the model wants at the beginning or the end of a text.
    KINGLET_ENCODE_ADD_SPECIAL = 1,
    /// Takes a text like `<|im_end|>` for the special token of that name. Leave it out for text from people who are not trusted.
    KINGLET_ENCODE_PARSE_SPECIAL = 2,
}

/// Reads the flags.
pub(crate) fn encode_options(flags: u32) -> Result<EncodeOptions, Failure> {
    if flags > 3 {
        return Err(Failure::argument(format!("{flags:#x} are no flags for encoding")));
    }
    let (add_special_tokens, parse_special_tokens) = (flags & 1 != 0, flags & 2 != 0);
    Ok(EncodeOptions { add_special_tokens, parse_special_tokens })
}

/// Loads the tokenizer of the model folder `path` (`tokenizer.json`) without the model. It is the program's:
/// `kinglet_tokenizer_delete`.
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

/// The tokenizer of an open model; it may outlive the model. It is the program's: `kinglet_tokenizer_delete`.
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

/// Deletes a tokenizer. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_delete(tokenizer: *mut kinglet_tokenizer) -> kinglet_status {
    call(|| handle::delete::<TokenizerObject>(tokenizer))
}

/// Cuts `length` bytes of UTF-8 into tokens; `flags` are `enum kinglet_encode_flags` joined with `|`, or 0. The tokens are the program's:
/// `kinglet_free`, also when there are none.
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

/// Joins tokens into text; with `skip_special` not 0 without the special ones. Tokens that the tokenizer doesn't know have no text. The text ends with a NUL,
/// which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
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

/// How many tokens there are. Their numbers may have gaps.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_tokenizer_vocabulary(
    tokenizer: *const kinglet_tokenizer,
    count: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::write(count, "count", handle::get::<TokenizerObject>(tokenizer)?.0.vocab_size())
    })
}

/// The number of the token that is written exactly so in the vocabulary (`<|im_end|>`); `KINGLET_NOT_FOUND` if none is.
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
            let message = format!("{name:?} is no token of this vocabulary");
            Failure::new(kinglet_status::KINGLET_NOT_FOUND, message)
        })?;
        memory::write(token, "token", found)
    })
}

/// A decoder at the beginning of a text; with `skip_special` not 0 special tokens have no text. It is the program's:
/// `kinglet_decoder_delete`, and may outlive the tokenizer.
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

/// Deletes a decoder. Null is fine.
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

/// Takes the next token and gives the text that is certain now: often none, and then the empty text. `length` may be null. The text is the
/// program's: `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_push(
    decoder: *mut kinglet_decoder,
    token: u32,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    decode(decoder, text, length, |decoder| Ok(decoder.push(token)?.unwrap_or_default()))
}

/// Ends the text: gives what was held back, half a character as U+FFFD, and begins anew. `length` may be null. The text is the program's:
/// `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_decoder_finish(
    decoder: *mut kinglet_decoder,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    decode(decoder, text, length, |decoder| Ok(decoder.finish()?))
}
