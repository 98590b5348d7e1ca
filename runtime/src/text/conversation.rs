//! From messages to the tokens of a prompt.

use super::{ChatOptions, ChatTemplate, EncodeOptions, Message, TextError, Tokenizer};

/// How many of the last messages' ends are looked for, besides the first's.
const LAST: usize = 4;

/// A conversation: its messages, and how it is rendered.
///
/// Each turn renders and tokenizes the whole of it; a [`PrefixCache`](crate::PrefixCache) sees to it that only what is
/// new is computed, also where the template writes earlier turns otherwise than they were generated.
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
    /// What was said, in order.
    pub messages: Vec<Message>,
    /// How it is rendered.
    pub options: ChatOptions,
}

/// A conversation as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Where later prompts are likely to leave this one's path, ascending: how many tokens come before the end of the first
    /// message (instructions that many conversations share), of the last few, and before the beginning of the answer, which
    /// some templates begin with a text that they leave out once the answer is there.
    pub boundaries: Vec<usize>,
}

impl Conversation {
    /// The conversation as text, by the model's template.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render(&self, template: &ChatTemplate) -> Result<String, TextError> {
        template.render(&self.messages, &self.options)
    }

    /// The conversation as tokens. Special tokens come from the template's text, none are added;
    /// what a message contains is not told apart from them (as in `transformers`).
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, TextError> {
        let text = self.render(template)?;
        let options = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
        tokenizer.encode(&text, options)
    }

    /// The conversation as tokens, and where in them messages end.
    ///
    /// The end of a message is where the conversation up to it, rendered by itself, and the whole have their last character
    /// in common. A template that refuses such a part gives no boundary there; that costs time later, nothing else.
    ///
    /// # Errors
    /// As [`Conversation::encode`].
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
                // Tokens whose text is all in what both have.
                ends.partition_point(|end| *end <= common)
            })
            .filter(|boundary| (1..tokens.len()).contains(boundary))
            .collect();
        boundaries.sort_unstable();
        boundaries.dedup();
        Ok(Prompt { tokens, boundaries })
    }
}
