//! From a row to what trains: turns, their tokens, and whether anything is left after cutting; pure.
//!
//! The engine streams converted rows without filtering, so what LLM Foundry's own loader would drop is dropped here,
//! by the same rule: a turn with an empty prompt or response, or nothing to train on within the context length.
//! Only the last answer of a conversation is trained on, prompts never are (the engine's defaults, which the run's
//! engine configuration states).

use minijinja::Value;

use super::row::{Message, Role, Row};
use super::rule::{Broken, Rule, shown};
use super::template::{ChatTemplate, value_of};
use super::tokenizer::{ModelTokenizer, TokenizerError};

/// What became of a good row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Tokens of the whole row.
    pub tokens: u64,
    /// Whether anything in it trains; a row without is dropped.
    pub trains: bool,
}

impl Measured {
    /// Tokens that are left after cutting to the context length.
    #[must_use]
    pub fn cut_to(self, context: u32) -> u32 {
        u32::try_from(self.tokens).unwrap_or(u32::MAX).min(context)
    }
}

/// Why a row could not be measured.
#[derive(Debug)]
pub enum MeasureError {
    /// The row breaks a rule of the template.
    Broken(Broken),
    /// The tokenizer gave up.
    Tokenizer(TokenizerError),
}

impl From<TokenizerError> for MeasureError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(error)
    }
}

/// Measures rows for one model.
pub struct Measure<'m> {
    /// The model's tokenizer.
    pub tokenizer: &'m ModelTokenizer,
    /// The model's chat template.
    pub template: &'m ChatTemplate,
    /// Longest sequence in tokens.
    pub context: u32,
}

impl Measure<'_> {
    /// Counts a row's tokens and says whether it trains.
    pub fn row(&self, row: Row<'_, '_>) -> Result<Measured, MeasureError> {
        match row {
            Row::Pair { prompt, response } => {
                let prompt = self.tokenizer.encode(&prompt.value(), true)?;
                let response = self.tokenizer.encode(&response.value(), true)?;
                let begins = |tokens: &[u32]| tokens.first().copied().is_some_and(|first| Some(first) == self.tokenizer.begin());
                // The tokenizer begins every text, but the response goes on where the prompt ended.
                let skip = usize::from(begins(&prompt) && begins(&response));
                Ok(self.turns(std::iter::once((prompt.len(), &response[skip..]))))
            }
            Row::Chat(messages) => {
                let turns = self.conversation(messages).map_err(MeasureError::Broken)?;
                let mut tokens = Vec::with_capacity(turns.len());
                for (prompt, response) in turns {
                    tokens.push((self.tokenizer.encode(&prompt, false)?.len(), self.tokenizer.encode(&response, false)?));
                }
                Ok(self.turns(tokens.iter().map(|(prompt, response)| (*prompt, response.as_slice()))))
            }
        }
    }

    fn turns<'t>(&self, turns: impl Iterator<Item = (usize, &'t [u32])>) -> Measured {
        let (mut total, mut before_answer, mut all_filled, mut ended) = (0, 0, true, false);
        for (prompt, response) in turns {
            all_filled &= prompt > 0 && !response.is_empty();
            before_answer = total + prompt;
            total = before_answer + response.len();
            ended = response.last().is_some_and(|&last| Some(last) == self.tokenizer.end());
        }
        // The engine ends the last answer if it does not end by itself.
        let tokens = (total + usize::from(!ended)) as u64;
        Measured { tokens, trains: all_filled && before_answer < self.context as usize }
    }

    /// The rendered prompt and response of each turn; each answer of the assistant ends one.
    fn conversation(&self, messages: &[Message<'_>]) -> Result<Vec<(String, String)>, Broken> {
        let values: Vec<Value> = messages.iter().map(value_of).collect();
        let render = |messages: &[Value], prompt_next| {
            self.template.render(messages, prompt_next).map_err(|error| Broken::new(Rule::ChatTemplateError, error.to_string()))
        };
        let mut turns = Vec::new();
        let mut before = String::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let full = render(&values[..=index], false)?;
            let asked = render(&values[..index], true)?;
            let turn = full.strip_prefix(&asked).zip(asked.strip_prefix(&before));
            let Some((response, prompt)) = turn.filter(|_| full.starts_with(&before)) else {
                return Err(Broken::new(
                    Rule::InvalidConversationError,
                    format!(
                        "the chat template does not render message {} as a continuation of what is before it: {:?} is not the start of {:?}",
                        index + 1,
                        shown(if asked.starts_with(&before) { &asked } else { &before }, 80),
                        shown(&full, 80)
                    ),
                ));
            };
            turns.push((prompt.to_owned(), response.to_owned()));
            before = full;
        }
        Ok(turns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TaskType;
    use crate::data::row::Judge;
    use crate::data::tokenizer::tests::files;
    use serde_json::{Value as Json, json};

    fn measure(config: &Json, template: Option<&str>, context: u32, row: &Json) -> Result<Measured, Rule> {
        let tokenizer = ModelTokenizer::load(&files(config)).unwrap();
        let template = ChatTemplate::new(&tokenizer, template).unwrap();
        let task = if row.get("messages").is_some() { TaskType::ChatCompletion } else { TaskType::InstructionFinetune };
        let line = row.to_string();
        let mut judge = Judge::new(task);
        let row = judge.judge(&line).unwrap();
        match (Measure { tokenizer: &tokenizer, template: &template, context }).row(row) {
            Ok(measured) => Ok(measured),
            Err(MeasureError::Broken(broken)) => Err(broken.rule),
            Err(MeasureError::Tokenizer(error)) => panic!("{error}"),
        }
    }

    fn pair(prompt: &str, response: &str) -> Json {
        json!({"prompt": prompt, "response": response})
    }

    fn plain() -> Json {
        json!({"eos_token": "</s>", "bos_token": "<s>"})
    }

    #[test]
    fn a_pair_counts_its_tokens_and_the_end_that_the_engine_adds() {
        assert_eq!(measure(&plain(), None, 8, &pair("a b", "c")), Ok(Measured { tokens: 4, trains: true }));
        assert_eq!(measure(&plain(), None, 8, &pair("a b", "c </s>")), Ok(Measured { tokens: 4, trains: true }));
    }

    #[test]
    fn a_response_does_not_begin_anew() {
        let llama = json!({"tokenizer_class": "LlamaTokenizer"});
        assert_eq!(measure(&llama, None, 8, &pair("a", "c")), Ok(Measured { tokens: 4, trains: true }));
    }

    #[test]
    fn a_prompt_that_fills_the_context_leaves_nothing_to_train() {
        assert_eq!(measure(&plain(), None, 3, &pair("a b", "c")).map(|m| m.trains), Ok(true));
        assert_eq!(measure(&plain(), None, 2, &pair("a b", "c")).map(|m| m.trains), Ok(false));
    }

    #[test]
    fn an_empty_prompt_or_response_does_not_train() {
        for row in [pair("", "c"), pair("a", ""), pair(" ", "c")] {
            assert_eq!(measure(&plain(), None, 8, &row).map(|m| m.trains), Ok(false), "{row}");
        }
        // With a beginning of its own even an empty text has a token.
        let llama = json!({"tokenizer_class": "LlamaTokenizer"});
        assert_eq!(measure(&llama, None, 8, &pair("", "c")).map(|m| m.trains), Ok(true));
        assert_eq!(measure(&llama, None, 8, &pair("a", "")).map(|m| m.trains), Ok(false));
    }

    fn chat(contents: &[&str]) -> Json {
        let messages = contents.iter().zip(["user", "assistant"].into_iter().cycle());
        let messages: Vec<_> = messages.map(|(content, role)| json!({"role": role, "content": content})).collect();
        json!({ "messages": messages })
    }

    #[test]
    fn only_the_last_answer_of_a_conversation_trains() {
        let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
        let row = chat(&["a", "b", "c", "d"]);
        assert_eq!(measure(&plain(), Some(template), 4, &row), Ok(Measured { tokens: 5, trains: true }));
        assert_eq!(measure(&plain(), Some(template), 3, &row), Ok(Measured { tokens: 5, trains: false }));
    }

    #[test]
    fn an_answer_without_tokens_does_not_train_wherever_it_stands() {
        let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
        assert_eq!(measure(&plain(), Some(template), 9, &chat(&["a", "", "c", "d"])).map(|m| m.trains), Ok(false));
    }

    #[test]
    fn a_template_that_raises_breaks_a_rule() {
        let template = "{{ raise_exception('no') }}";
        assert_eq!(measure(&plain(), Some(template), 9, &chat(&["a", "b"])), Err(Rule::ChatTemplateError));
    }

    #[test]
    fn a_template_that_rewrites_its_past_breaks_a_rule() {
        for template in [
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}answer{% endif %}",
        ] {
            assert_eq!(measure(&plain(), Some(template), 9, &chat(&["a", "b"])), Err(Rule::InvalidConversationError));
        }
    }
}
