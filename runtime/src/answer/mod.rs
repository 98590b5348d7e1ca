//! From a prompt to an answer: the one loop that the command line, the C interface and the browser
//! share.
//!
//! An [`Answer`] feeds a prompt to a session, chooses tokens until something ends the answer, and
//! reports [`Event`]s: the progress of the prompt, each token with its text, the end with its
//! reason and statistics. The caller pulls: each call does one piece of work, so a program can do
//! something else, or stop, between any two.
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
//!         // Progress of the prompt, and events of later versions.
//!         _ => {}
//!     }
//! }
//! talk.messages.push(Message::assistant(answer.text()));
//! # Ok(()) }
//! ```
//!
//! The rules for every answer:
//!
//! | question | rule |
//! | --- | --- |
//! | How are tokens chosen? | As `generation_config.json` says, overridden by [`Sampling`]. If the model decodes greedily, an option that only makes sense for random draws turns draws on. |
//! | How long may it be? | [`AnswerOptions::max_tokens`], else `max_new_tokens` of `generation_config.json`, else [`DEFAULT_MAX_TOKENS`]. |
//! | When is the context full? | When prompt and answer together reach the limit: every token of an answer takes a position in the session. A prompt that leaves no room for one is [`AnswerError::PromptTooLong`]. If both limits are reached at once, the reason is [`EndReason::MaxTokens`]. |
//! | Which limit? | The smaller of the session's own and [`AnswerOptions::context`], which defaults to the positions that the model was trained for. |
//! | Which tokens end it? | `eos_token_id` of `generation_config.json` (or else of `config.json`), the tokenizer's `eos_token`, and [`AnswerOptions::stop_tokens`]. |
//! | Which strings end it? | `stop_strings` of `generation_config.json` and [`AnswerOptions::stop_strings`], however the text is split into tokens. They are not part of the text. |
//! | What does `ignore_eos` do? | It ignores the model's own tokens and strings, not those of the options. |
//! | When does text that was held back appear? | With the last token, or with the end if the caller stops the answer. |
//! | What does the session hold? | The prompt and all generated tokens except a stop token. The template writes the token that ends a turn; if it writes another one than the model generated, the next prompt could not continue from a recurrent state that includes it. |
//! | What does the cache hold? | The prompt, as [`PrefixCache::prefill`](crate::PrefixCache::prefill) keeps it, and the answer without its last token: a later prompt may tokenize text that was cut off differently. |

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
