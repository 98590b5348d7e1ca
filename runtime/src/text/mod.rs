//! Text: tokenizers, streaming detokenization, chat templates, stop conditions, and the generation
//! defaults that a model's authors set.
//!
//! Everything here reads the files of a model folder as they come from the hub, and works without a
//! model: tokens are plain `u32`.
//!
//! | file | read by |
//! | --- | --- |
//! | `tokenizer.json` | [`Tokenizer`] |
//! | `tokenizer_config.json`, `special_tokens_map.json` | [`Tokenizer`], [`SpecialTokens`], `ChatTemplate` |
//! | `added_tokens.json` | [`Tokenizer`] |
//! | `chat_template.jinja`, `chat_template.json`, `additional_chat_templates/` | `ChatTemplate` |
//! | `generation_config.json` | [`GenerationConfig`], [`StopTokens`] |
//! | `config.json` | [`StopTokens`], where the file above names no `eos_token_id` |

#[cfg(feature = "chat-template")]
mod chat;
mod companions;
#[cfg(feature = "chat-template")]
mod conversation;
mod declared;
mod decode;
mod error;
mod files;
mod generation_config;
mod output;
mod special_tokens;
mod stop;
mod stream;
mod tokenizer;

#[cfg(feature = "chat-template")]
pub use chat::{ChatOptions, ChatTemplate, DateTime, Message, RenderLimits};
#[cfg(feature = "chat-template")]
pub use conversation::{Conversation, Prompt};
pub use error::TextError;
pub use generation_config::GenerationConfig;
pub use output::{FinishReason, Output, OutputStream};
pub use special_tokens::SpecialTokens;
pub use stop::{Matched, StopMatcher, StopTokens};
pub use stream::StreamDecoder;
pub use tokenizer::{EncodeOptions, Tokenizer};
