//! One line to one row, judged by the rules that need no model; pure, and borrowed from the line.

use std::fmt::Write as _;

use super::json::{Kind, Malformed, Scanner, Text};
use super::rule::{Broken, Rule, shown};
use crate::api::TaskType;

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The instructions before the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in the data.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Text<'a>,
}

/// A row that breaks no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'r, 'a> {
    /// A conversation.
    Chat(&'r [Message<'a>]),
    /// A prompt and what the model should answer.
    Pair {
        /// The prompt.
        prompt: Text<'a>,
        /// The response, whether it was called `response` or `completion`.
        response: Text<'a>,
    },
}

/// Judges rows one after another, with buffers that live as long as the text the rows borrow from.
pub struct Judge<'a> {
    task: TaskType,
    found: Vec<Found<'a>>,
    messages: Vec<Message<'a>>,
}

/// A value of which only a string's text matters.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Text(Text<'a>),
    Other(Kind),
}

impl<'a> Value<'a> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Malformed> {
        if scanner.kind()? == Kind::Text { scanner.string().map(Self::Text) } else { scanner.skip().map(Self::Other) }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Other(kind) => kind,
        }
    }
}

/// What stands in the list of messages, before any rule is asked.
enum Found<'a> {
    Other(Kind),
    Map { keys: usize, role: Option<Value<'a>>, content: Option<Value<'a>> },
}

/// What stands in a row, before any rule is asked.
#[derive(Default)]
struct Fields<'a> {
    keys: usize,
    messages: Option<Kind>,
    prompt: Option<Value<'a>>,
    response: Option<Value<'a>>,
    completion: Option<Value<'a>>,
    duplicate: Option<&'static str>,
}

impl<'a> Judge<'a> {
    /// A judge for rows of one task type.
    #[must_use]
    pub fn new(task: TaskType) -> Self {
        Self { task, found: Vec::new(), messages: Vec::new() }
    }

    /// Judges one line.
    pub fn judge(&mut self, line: &'a str) -> Result<Row<'_, 'a>, Broken> {
        self.found.clear();
        self.messages.clear();
        let mut scanner = Scanner::new(line);
        let fields = self.fields(&mut scanner).and_then(|fields| scanner.end().map(|()| fields));
        let fields = fields.map_err(|malformed| {
            Broken::new(Rule::InvalidJsonError, format!("the line is not JSON: {} (column {})", malformed.problem, column(line, malformed.at)))
        })?;
        let Some(fields) = fields else {
            let kind = Scanner::new(line).kind().map_or("not an object", Kind::as_str);
            return Err(Broken::new(Rule::InvalidExampleTypeError, format!("a row must be an object, this one is {kind}")));
        };
        if let Some(key) = fields.duplicate {
            return Err(Broken::new(Rule::DuplicateKeyError, format!("the key {key} stands twice in one object")));
        }
        let pair = match &fields {
            Fields { keys: 1, messages: Some(kind), .. } => return self.chat(*kind),
            Fields { keys: 2, prompt: Some(prompt), response, completion, .. } => response.or(*completion).map(|answer| (*prompt, answer)),
            _ => None,
        };
        let Some((prompt, response)) = pair else {
            return Err(Broken::new(
                Rule::UnknownExampleTypeError,
                format!("a row has the single key messages, or exactly prompt and response (or completion); this one has {}", keys_of(line)),
            ));
        };
        if self.task == TaskType::ChatCompletion {
            return Err(Broken::new(Rule::TaskTypeMismatchError, "the row has a prompt and a response, but taskType CHAT_COMPLETION needs messages"));
        }
        match (prompt, response) {
            (Value::Text(prompt), Value::Text(response)) => Ok(Row::Pair { prompt, response }),
            (Value::Other(kind), _) => {
                Err(Broken::new(Rule::InvalidPromptTypeError, format!("the prompt must be a string, it is {}", kind.as_str())))
            }
            (_, Value::Other(kind)) => {
                Err(Broken::new(Rule::InvalidResponseTypeError, format!("the response must be a string, it is {}", kind.as_str())))
            }
        }
    }

    /// None if the line is JSON but no object.
    fn fields(&mut self, scanner: &mut Scanner<'a>) -> Result<Option<Fields<'a>>, Malformed> {
        if scanner.kind()? != Kind::Map {
            scanner.skip()?;
            return Ok(None);
        }
        let mut fields = Fields::default();
        scanner.open();
        while let Some(key) = scanner.key(fields.keys == 0)? {
            fields.keys += 1;
            if key.is("messages") {
                if fields.messages.is_some() {
                    fields.duplicate = Some("messages");
                }
                fields.messages = Some(if scanner.kind()? == Kind::List { self.list(scanner, &mut fields.duplicate)? } else { scanner.skip()? });
                continue;
            }
            let value = Value::read(scanner)?;
            for (name, slot) in [("prompt", &mut fields.prompt), ("response", &mut fields.response), ("completion", &mut fields.completion)] {
                if key.is(name) {
                    if slot.is_some() {
                        fields.duplicate = Some(name);
                    }
                    *slot = Some(value);
                }
            }
        }
        Ok(Some(fields))
    }

    fn list(&mut self, scanner: &mut Scanner<'a>, duplicate: &mut Option<&'static str>) -> Result<Kind, Malformed> {
        self.found.clear();
        scanner.open();
        while scanner.item(self.found.is_empty())? {
            let found = if scanner.kind()? == Kind::Map { message(scanner, duplicate)? } else { Found::Other(scanner.skip()?) };
            self.found.push(found);
        }
        Ok(Kind::List)
    }

    /// The rules of a conversation: LLM Foundry's in its order, then the two that are ours.
    fn chat(&mut self, kind: Kind) -> Result<Row<'_, 'a>, Broken> {
        if self.task == TaskType::InstructionFinetune {
            return Err(Broken::new(
                Rule::TaskTypeMismatchError,
                "the row has messages, but taskType INSTRUCTION_FINETUNE needs a prompt and a response",
            ));
        }
        if kind != Kind::List {
            return Err(Broken::new(Rule::InvalidMessageTypeError, format!("messages must be a list, it is {}", kind.as_str())));
        }
        let count = self.found.len();
        if count <= 1 {
            return Err(Broken::new(Rule::NotEnoughChatDataError, format!("a conversation needs at least two messages, this one has {count}")));
        }
        if let Some(last) = self.found.last() {
            check_last(last, count)?;
        }
        for (index, found) in self.found.iter().enumerate() {
            let message = check_message(found, index + 1)?;
            if self.messages.last().is_some_and(|previous| previous.role == message.role) {
                return Err(Broken::new(
                    Rule::ConsecutiveRepeatedChatRolesError,
                    format!("messages {index} and {} both have the role {}", index + 1, message.role.as_str()),
                ));
            }
            self.messages.push(message);
        }
        if let Some(index) = self.messages.iter().skip(1).position(|message| message.role == Role::System) {
            return Err(Broken::new(
                Rule::SystemMessageNotFirstError,
                format!("message {} has the role system, which only the first message may have", index + 2),
            ));
        }
        let opening = usize::from(self.messages[0].role == Role::System);
        if self.messages[opening].role != Role::User {
            return Err(Broken::new(
                Rule::FirstMessageNotUserError,
                format!("message {} must have the role user: a conversation starts with the user", opening + 1),
            ));
        }
        Ok(Row::Chat(&self.messages))
    }
}

fn message<'a>(scanner: &mut Scanner<'a>, duplicate: &mut Option<&'static str>) -> Result<Found<'a>, Malformed> {
    let (mut keys, mut role, mut content) = (0, None, None);
    scanner.open();
    while let Some(key) = scanner.key(keys == 0)? {
        keys += 1;
        let value = Value::read(scanner)?;
        for (name, slot) in [("role", &mut role), ("content", &mut content)] {
            if key.is(name) {
                if slot.is_some() {
                    *duplicate = Some(name);
                }
                *slot = Some(value);
            }
        }
    }
    Ok(Found::Map { keys, role, content })
}

fn check_last(last: &Found<'_>, number: usize) -> Result<(), Broken> {
    match last {
        Found::Other(kind) => Err(not_a_map(*kind, number)),
        Found::Map { role: None, .. } => Err(lacks("role", number)),
        Found::Map { role: Some(Value::Text(role)), .. } if role.is("assistant") => Ok(()),
        Found::Map { role: Some(role), .. } => Err(Broken::new(
            Rule::InvalidLastChatMessageRoleError,
            format!("the last message must have the role assistant, it has {}", role_shown(*role)),
        )),
    }
}

fn check_message<'a>(found: &Found<'a>, number: usize) -> Result<Message<'a>, Broken> {
    let (keys, role, content) = match found {
        Found::Other(kind) => return Err(not_a_map(*kind, number)),
        Found::Map { role: None, .. } => return Err(lacks("role", number)),
        Found::Map { content: None, .. } => return Err(lacks("content", number)),
        Found::Map { keys, role: Some(role), content: Some(content) } => (*keys, *role, *content),
    };
    if keys != 2 {
        return Err(Broken::new(
            Rule::IncorrectMessageKeyQuantityError,
            format!("message {number} has {keys} keys, it must have exactly role and content"),
        ));
    }
    let known = [Role::System, Role::User, Role::Assistant];
    let Some(role) = known.into_iter().find(|known| matches!(role, Value::Text(role) if role.is(known.as_str()))) else {
        return Err(Broken::new(Rule::InvalidRoleError, format!("message {number} has {}, it must be system, user or assistant", role_shown(role))));
    };
    match content {
        Value::Text(content) => Ok(Message { role, content }),
        Value::Other(kind) => {
            Err(Broken::new(Rule::InvalidContentTypeError, format!("the content of message {number} must be a string, it is {}", kind.as_str())))
        }
    }
}

fn not_a_map(kind: Kind, number: usize) -> Broken {
    Broken::new(Rule::InvalidExampleTypeError, format!("message {number} must be an object with role and content, it is {}", kind.as_str()))
}

fn lacks(key: &str, number: usize) -> Broken {
    Broken::new(Rule::UnknownExampleTypeError, format!("message {number} has no key {key}, it must have exactly role and content"))
}

fn role_shown(role: Value<'_>) -> String {
    match role {
        Value::Text(role) => format!("the role {:?}", shown(&role.value(), 40)),
        other @ Value::Other(_) => format!("a role that is {}", other.kind().as_str()),
    }
}

/// The keys of a row that is known to be an object, for a message.
fn keys_of(line: &str) -> String {
    let mut scanner = Scanner::new(line);
    let mut names = String::new();
    let mut count = 0;
    if scanner.kind() == Ok(Kind::Map) {
        scanner.open();
        while let Ok(Some(key)) = scanner.key(count == 0) {
            count += 1;
            if count <= 6 {
                let separator = if count == 1 { "" } else { ", " };
                let _ = write!(names, "{separator}{}", shown(&key.value(), 30));
            }
            if scanner.skip().is_err() {
                break;
            }
        }
    }
    match count {
        0 => "no keys".to_owned(),
        1..=6 => names,
        more => format!("{names} and {} more keys", more - 6),
    }
}

fn column(line: &str, at: usize) -> usize {
    line.char_indices().take_while(|(index, _)| *index < at).count() + 1
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
