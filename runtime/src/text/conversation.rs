//! From messages to the tokens of a prompt.

use super::{ChatOptions, ChatTemplate, EncodeOptions, Message, TextError, Tokenizer};

/// A conversation: its messages, and how it is rendered.
///
/// ```no_run
/// # use kinglet::text::{ChatTemplate, Conversation, Message, Tokenizer, TextError};
/// # fn main() -> Result<(), TextError> {
/// # let folder = "model".as_ref();
/// let tokenizer = Tokenizer::from_folder(folder)?;
/// let template = ChatTemplate::from_folder(folder)?;
/// let mut chat = Conversation::default();
/// chat.messages.push(Message::user("Why is the sky blue?"));
/// let prompt = chat.encode(&template, &tokenizer)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// What was said, in order.
    pub messages: Vec<Message>,
    /// How it is rendered.
    pub options: ChatOptions,
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
}
