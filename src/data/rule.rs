//! The rules that rows are judged by, and what a broken one looks like; pure.

use serde::Serialize;

/// Longest message about one bad row.
const MAX_MESSAGE_BYTES: usize = 300;

/// A rule that a row can break. Those of LLM Foundry have its error's name; `docs/data-rules.md` lists them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Rule {
    /// The line is not UTF-8.
    InvalidUtf8Error,
    /// The line is longer than a row may be.
    RowTooLargeError,
    /// The line is not one JSON value.
    InvalidJsonError,
    /// A key stands twice in one object.
    DuplicateKeyError,
    /// The row, or a message, is not an object.
    InvalidExampleTypeError,
    /// The keys are not those of any known kind of row, or a message lacks one.
    UnknownExampleTypeError,
    /// The row is of the other kind than the run's task type.
    TaskTypeMismatchError,
    /// The prompt is not a string.
    InvalidPromptTypeError,
    /// The response is not a string.
    InvalidResponseTypeError,
    /// `messages` is not a list.
    InvalidMessageTypeError,
    /// Fewer than two messages.
    NotEnoughChatDataError,
    /// The last message is not the assistant's.
    InvalidLastChatMessageRoleError,
    /// A message has other keys than `role` and `content`.
    IncorrectMessageKeyQuantityError,
    /// The role is none of system, user and assistant.
    InvalidRoleError,
    /// The content is not a string.
    InvalidContentTypeError,
    /// Two messages in a row have the same role.
    ConsecutiveRepeatedChatRolesError,
    /// A system message stands behind the first.
    SystemMessageNotFirstError,
    /// The conversation does not start with the user.
    FirstMessageNotUserError,
    /// The model's chat template refuses the conversation.
    ChatTemplateError,
    /// The rendered conversation does not grow turn by turn.
    InvalidConversationError,
}

impl Rule {
    /// The name as reported.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUtf8Error => "InvalidUtf8Error",
            Self::RowTooLargeError => "RowTooLargeError",
            Self::InvalidJsonError => "InvalidJsonError",
            Self::DuplicateKeyError => "DuplicateKeyError",
            Self::InvalidExampleTypeError => "InvalidExampleTypeError",
            Self::UnknownExampleTypeError => "UnknownExampleTypeError",
            Self::TaskTypeMismatchError => "TaskTypeMismatchError",
            Self::InvalidPromptTypeError => "InvalidPromptTypeError",
            Self::InvalidResponseTypeError => "InvalidResponseTypeError",
            Self::InvalidMessageTypeError => "InvalidMessageTypeError",
            Self::NotEnoughChatDataError => "NotEnoughChatDataError",
            Self::InvalidLastChatMessageRoleError => "InvalidLastChatMessageRoleError",
            Self::IncorrectMessageKeyQuantityError => "IncorrectMessageKeyQuantityError",
            Self::InvalidRoleError => "InvalidRoleError",
            Self::InvalidContentTypeError => "InvalidContentTypeError",
            Self::ConsecutiveRepeatedChatRolesError => "ConsecutiveRepeatedChatRolesError",
            Self::SystemMessageNotFirstError => "SystemMessageNotFirstError",
            Self::FirstMessageNotUserError => "FirstMessageNotUserError",
            Self::ChatTemplateError => "ChatTemplateError",
            Self::InvalidConversationError => "InvalidConversationError",
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A broken rule, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Broken {
    /// Cleans and cuts the message: it may quote the row.
    #[must_use]
    pub fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self { rule, message: shown(&message.into(), MAX_MESSAGE_BYTES) }
    }
}

/// A text from a row, safe to show: no control characters, at most `limit` bytes.
#[must_use]
pub fn shown(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() + character.len_utf8() > limit {
            shown.push('…');
            break;
        }
        shown.push(if character.is_control() { ' ' } else { character });
    }
    shown
}

/// Where a rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The file as the run names it.
    pub file: String,
    /// Line of the file, from 1.
    pub line: u64,
    /// The rule.
    pub rule: Rule,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.message)
    }
}
