//! From a prompt to an answer: one loop for every program.
//!
//! An [`Answer`] takes a prompt into a session, chooses tokens until something ends the answer, and tells what happens as [`Event`]s: how far the
//! prompt has got, each token with its text, the end with its reason and statistics. It is pulled: each call does one piece of the
//! work, so that a program can do something else, or stop, between any two.
//!
//! ```no_run
//! # use kinglet::answer::{Answer, AnswerDefaults, AnswerOptions, AnswerPrompt, Event};
//! # use kinglet::text::{ChatTemplate, Conversation, Message};
//! # use kinglet::{Model, ModelOptions, PrefixCache, PrefixCacheOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("model", &ModelOptions::new())?;
//! let defaults = AnswerDefaults::of(&model)?;
//! let template = ChatTemplate::from_folder(model.folder())?;
//! let mut session = model.session()?;
//! let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default())?;
//!
//! let mut talk = Conversation::default();
//! talk.messages.push(Message::user("Why is the sky blue?"));
//! let prompt = AnswerPrompt::chat(talk.prompt(&template, defaults.require_tokenizer()?)?);
//! let mut answer = Answer::new(&session, &defaults, prompt, &AnswerOptions::new())?;
//! for event in answer.events(&mut session, Some(&mut cache)) {
//!     match event? {
//!         Event::Token { text, .. } => print!("{text}"),
//!         Event::End(end) => println!("\n{}", end.stats),
//!         // How far the prompt has got, and what later versions tell.
//!         _ => {}
//!     }
//! }
//! talk.messages.push(Message::assistant(answer.text()));
//! # Ok(()) }
//! ```
//!
//! What holds for every answer, whoever asks for it:
//!
//! | question | answer |
//! | --- | --- |
//! | How are tokens chosen? | As `generation_config.json` says, with what [`Sampling`] sets on top. An option that only makes sense for draws ends greedy decoding. |
//! | How long may it be? | [`AnswerOptions::max_tokens`], else `max_new_tokens` of `generation_config.json`, else [`DEFAULT_MAX_TOKENS`]. |
//! | When is the context full? | When prompt and answer together have as many tokens as the limit: every token of an answer has a place in the session. A prompt that leaves no place for one is [`AnswerError::PromptTooLong`]. Where both bounds are reached at once, [`EndReason::MaxTokens`] is told. |
//! | Which limit? | The smaller of the session's own and [`AnswerOptions::context`], which is what the positions of the model were made for unless it is given. |
//! | Which tokens end it? | `eos_token_id` of `generation_config.json` (without it of `config.json`), the tokenizer's `eos_token`, and [`AnswerOptions::stop_tokens`]. |
//! | Which strings? | `stop_strings` of `generation_config.json` and [`AnswerOptions::stop_strings`], wherever the tokens are cut. They are no part of the text. |
//! | What of `ignore_eos`? | It leaves out the model's own tokens and strings, not those of the options. |
//! | What of text held back? | It comes with the last token, or, where an answer is stopped from outside, with the end. |
//! | What does the session hold? | The prompt and all tokens given out, except a stop token: that is the template's to write, and a next prompt that has another one there would not go on from a recurrent state. |
//! | What does the cache get? | The prompt as [`PrefixCache::prefill`](crate::PrefixCache::prefill) keeps it, and the answer without its last token: what was cut off may be cut into other tokens when it is in a prompt. |

mod defaults;
mod error;
mod event;
mod events;
mod options;
mod output;
mod run;
mod sampling;

pub use defaults::{AnswerDefaults, DEFAULT_MAX_TOKENS, model_context};
pub use error::AnswerError;
pub use event::{AnswerEnd, AnswerStats, EndReason, Event};
pub use events::Events;
pub use options::{AnswerOptions, AnswerPrompt, Context, DEFAULT_DRAFT_TOKENS, random_seed};
pub use run::Answer;
pub use sampling::{DRY_BREAKERS, Sampling};
