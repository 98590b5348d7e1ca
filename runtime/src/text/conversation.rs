//! [`Conversation`]: from messages to the tokens of a prompt.

use super::{ChatOptions, ChatTemplate, EncodeOptions, Message, TextError, Tokenizer};

/// How many of the last messages get a boundary, besides the first message.
const LAST: usize = 4;

/// A conversation: its messages and the options for rendering it.
///
/// Each turn renders and tokenizes the whole conversation. A [`PrefixCache`](crate::PrefixCache)
/// ensures that only the new part is computed, even if the template writes earlier turns
/// differently than they were generated.
///
/// ```no_run
/// # use kinglet::text::{ChatTemplate, Conversation, Message, Tokenizer};
/// # use kinglet::{Model, ModelOptions, PrefixCache, PrefixCacheOptions};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder: &std::path::Path = "model".as_ref();
/// let model = Model::open(folder, &ModelOptions::new())?;
/// let tokenizer = Tokenizer::from_folder(folder)?;
/// let template = ChatTemplate::from_folder(folder)?;
/// let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default())?;
/// let mut session = model.session()?;
/// let mut chat = Conversation::default();
/// chat.messages.push(Message::user("Why is the sky blue?"));
/// let prompt = chat.prompt(&template, &tokenizer)?;
/// let used = cache.prefill(&mut session, &prompt.tokens, &prompt.boundaries)?;
/// println!("{} tokens reused, {} computed", used.reused, used.computed);
/// // Sample from session.last_logits() and feed what was sampled. Then:
/// cache.insert(&session)?;
/// chat.messages.push(Message::assistant("Because of ..."));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// How the conversation is rendered.
    pub options: ChatOptions,
}

/// A conversation as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Token positions where later prompts are likely to diverge from this one, ascending: the end
    /// of the first message (instructions that many conversations share), the ends of the last few,
    /// and the start of the answer, since some templates begin it with a text that they omit from
    /// finished answers.
    pub boundaries: Vec<usize>,
}

impl Conversation {
    /// Renders the conversation as text with the model's template.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`].
    pub fn render(&self, template: &ChatTemplate) -> Result<String, TextError> {
        template.render(&self.messages, &self.options)
    }

    /// Renders and tokenizes the conversation. Special tokens come from the template's text; none
    /// are added. As in `transformers`, special tokens in a message's content are recognized too.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, TextError> {
        let text = self.render(template)?;
        let options = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
        tokenizer.encode(&text, options)
    }

    /// Renders and tokenizes the conversation, and finds where its messages end.
    ///
    /// The end of a message is the end of the text that the conversation up to it, rendered by
    /// itself, shares with the whole. If a template refuses such a part, there is no boundary
    /// there; this only costs time later.
    ///
    /// # Errors
    /// Those of [`Conversation::encode`].
    pub fn prompt(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Prompt, TextError> {
        let text = self.render(template)?;
        let (tokens, ends) = tokenizer.encode_with_ends(&text)?;
        let count = self.messages.len();
        let parts = std::iter::once(1).chain(count.saturating_sub(LAST - 1).max(2)..=count);
        let mut options = self.options.clone();
        options.add_generation_prompt = false;
        options.continue_final_message = false;
        let mut boundaries: Vec<usize> = parts
            .filter_map(|part| template.render(self.messages.get(..part)?, &options).ok())
            .map(|part| {
                let common = part.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
                // Count the tokens whose text lies entirely in the common prefix.
                ends.partition_point(|end| *end <= common)
            })
            .filter(|boundary| (1..tokens.len()).contains(boundary))
            .collect();
        boundaries.sort_unstable();
        boundaries.dedup();
        Ok(Prompt { tokens, boundaries })
    }
}
