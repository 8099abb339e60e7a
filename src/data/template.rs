//! Chat templates, rendered as `transformers` renders them; pure but for the date that a template may ask for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind};

use super::row::{Message, Role};
use super::tokenizer::ModelTokenizer;

/// What LLM Foundry uses for a tokenizer without a template: ChatML.
const CHATML: &str = "{% for message in messages %}\
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Instructions that one rendering may take: templates come with models, so they are foreign code.
const FUEL: u64 = 50_000_000;
const NAME: &str = "chat";
/// Longest template: the longest known one has 20 KB.
const MAX_BYTES: usize = 1 << 18;
/// Stack for each byte of a template while it is compiled, which recurses as deep as its expressions are long.
const STACK_A_BYTE: usize = 1 << 10;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the chat template cannot be used: {0}")]
pub struct TemplateError(String);

/// A compiled chat template with the model's special tokens.
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Vec<(String, Value)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChatTemplate")
    }
}

impl ChatTemplate {
    /// The template of the run, else the model's own, else ChatML.
    pub fn new(tokenizer: &ModelTokenizer, chosen: Option<&str>) -> Result<Self, TemplateError> {
        let source = chosen.or(tokenizer.chat_template()).unwrap_or(CHATML);
        let mut environment = Environment::new();
        let mut syntax = minijinja::syntax::SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| TemplateError(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(methods);
        environment.add_filter("trim", trim);
        environment.set_formatter(format_as_python);
        environment.add_filter("tojson", to_json);
        // In Python a text is a sequence, nothing can be looped over but what has items, and what is undefined has none.
        let has_items =
            |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined);
        environment.add_test("iterable", has_items);
        environment.add_test("sequence", move |value: &Value| has_items(value) && value.kind() != ValueKind::Iterable);
        environment.add_filter("length", |value: &Value| if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) });
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| now(&format));
        compile(&mut environment, without_generation_tags(source))?;
        let mut tokens: Vec<(String, Value)> =
            tokenizer.special_tokens().iter().map(|(name, token)| ((*name).to_owned(), Value::from(token.as_str()))).collect();
        if !tokenizer.additional_special_tokens().is_empty() {
            let additional = Value::from(tokenizer.additional_special_tokens().to_vec());
            tokens.push(("additional_special_tokens".to_owned(), additional));
        }
        Ok(Self { environment, tokens })
    }

    /// Renders these messages. `prompt_next` asks for the words that begin the model's next answer.
    pub fn render(&self, messages: &[Value], prompt_next: bool) -> Result<String, TemplateError> {
        let fail = |error: minijinja::Error| TemplateError(error.detail().map_or_else(|| error.to_string(), str::to_owned));
        let fixed = [
            ("messages", Value::from(messages.to_vec())),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(prompt_next)),
            ("date_string", Value::from(now("%d %b %Y").map_err(fail)?)),
        ];
        let tokens = self.tokens.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let context: BTreeMap<&str, Value> = tokens.chain(fixed).collect();
        self.environment.get_template(NAME).and_then(|template| template.render(Value::from(context))).map_err(fail)
    }
}

fn compile(environment: &mut Environment<'static>, source: String) -> Result<(), TemplateError> {
    if source.len() > MAX_BYTES {
        return Err(TemplateError(format!("it has {} bytes, at most {MAX_BYTES} are read", source.len())));
    }
    let thread = std::thread::Builder::new().stack_size((1 << 20) + source.len() * STACK_A_BYTE);
    let compiled = std::thread::scope(|scope| {
        let thread = thread.spawn_scoped(scope, || environment.add_template_owned(NAME, source).map_err(|error| TemplateError(error.to_string())));
        thread.map(|thread| thread.join().unwrap_or_else(|_| Err(TemplateError("its compiler panicked".to_owned()))))
    });
    compiled.unwrap_or_else(|error| Err(TemplateError(error.to_string())))
}

/// A message as templates see it.
#[must_use]
pub fn value_of(message: &Message<'_>) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    minijinja::context! { role => role, content => message.content.value().as_ref() }
}

/// `transformers` marks the model's words with a tag of its own, which changes nothing in the text.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some((inside, _)) = rest[start + 2..].split_once("%}") else { break };
        let replaced = match inside.trim_matches(['-', '+']).trim() {
            "generation" => Some(inside.replace("generation", "if true")),
            "endgeneration" => Some(inside.replace("endgeneration", "endif")),
            _ => None,
        };
        text.push_str(&rest[..start + 2]);
        text.push_str(replaced.as_deref().unwrap_or(inside));
        rest = &rest[start + 2 + inside.len()..];
    }
    text + rest
}

fn now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Python's methods.
fn methods(state: &mut minijinja::State<'_, '_>, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, minijinja::Error> {
    match (value.as_str(), method, arguments) {
        (Some(text), "strip", []) => Ok(Value::from(text.trim_matches(is_blank))),
        (Some(text), "lstrip", []) => Ok(Value::from(text.trim_start_matches(is_blank))),
        (Some(text), "rstrip", []) => Ok(Value::from(text.trim_end_matches(is_blank))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

#[allow(clippy::needless_pass_by_value)] // a filter gets its arguments by value
fn trim(value: &Value, characters: Option<String>) -> String {
    let text = value.to_string();
    match characters {
        Some(characters) => text.trim_matches(|c| characters.contains(c)).to_owned(),
        None => text.trim_matches(is_blank).to_owned(),
    }
}

/// What Python calls white space: that of Unicode, and the four separators of ASCII.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Python writes these values with a capital letter.
fn format_as_python(out: &mut minijinja::Output<'_>, state: &mut minijinja::State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::Number => return Ok(out.write_str(&number(value))?),
        _ => return minijinja::escape_formatter(out, state, value),
    };
    Ok(out.write_str(text)?)
}

/// A number as Python writes it: very large and very small ones with an exponent of at least two digits.
fn number(value: &Value) -> String {
    let float = if value.is_integer() { None } else { f64::try_from(value.clone()).ok() };
    let Some(float) = float.filter(|float| *float != 0.0 && !(1e-4..1e16).contains(&float.abs())) else { return value.to_string() };
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return value.to_string() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// Python's `json.dumps` with its spaces, and without HTML escapes.
#[allow(clippy::needless_pass_by_value)] // a filter gets its options by value
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut separators = separators.unwrap_or_default().into_iter();
    let comma = separators.next().unwrap_or_else(|| if indent.is_some() { "," } else { ", " }.to_owned());
    let colon = separators.next().unwrap_or_else(|| ": ".to_owned());
    let mut text = String::new();
    JsonStyle { indent, ascii: ascii.unwrap_or(false), sorted: sorted.unwrap_or(false), comma, colon }.write(value, 0, &mut text)?;
    Ok(text)
}

struct JsonStyle {
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    comma: String,
    colon: String,
}

impl JsonStyle {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.write_items(['[', ']'], items, depth, out)?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((Some(key.to_string()), item));
                }
                if self.sorted {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.write_items(['{', '}'], entries, depth, out)?;
            }
            kind => {
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{kind} cannot be written as JSON")));
            }
        }
        Ok(())
    }

    fn write_items(
        &self,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), minijinja::Error> {
        out.push(open);
        let empty = items.is_empty();
        for (index, (key, item)) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.comma);
            }
            self.new_line(depth + 1, out);
            if let Some(key) = key {
                self.write_string(&key, out);
                out.push_str(&self.colon);
            }
            self.write(&item, depth + 1, out)?;
        }
        if !empty {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        for character in quoted.chars() {
            if self.ascii && !character.is_ascii() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            } else {
                out.push(character);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::tests::files;
    use serde_json::json;

    fn render(template: Option<&str>, prompt_next: bool) -> Result<String, String> {
        let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let tokenizer = ModelTokenizer::load(&files(&config)).unwrap();
        let messages = [("system", "be kind"), ("user", " hi\n"), ("assistant", "<b>")].map(|(role, content)| minijinja::context! { role, content });
        let template = ChatTemplate::new(&tokenizer, template).map_err(|error| error.to_string())?;
        template.render(&messages, prompt_next).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_template_it_is_chatml() {
        let text = "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n hi\n<|im_end|>\n<|im_start|>assistant\n<b><|im_end|>\n";
        assert_eq!(render(None, false).unwrap(), text);
        assert_eq!(render(None, true).unwrap(), format!("{text}<|im_start|>assistant\n"));
    }

    #[test]
    fn blocks_are_trimmed_and_tokens_known() {
        let template = "{{ bos_token }}\n  {% for m in messages %}\n{{ m.role }}{% if loop.last %}{{ eos_token }}{% endif %}\n  {% endfor %}\nend\n";
        assert_eq!(render(Some(template), false).unwrap(), "<s>\nsystemuserassistant</s>end");
    }

    #[test]
    fn the_methods_and_filters_of_real_templates_work() {
        for (template, expected) in [
            ("{{ messages[1]['content'].strip() }}|{{ messages[1].content | trim }}", "hi|hi"),
            ("{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
            ("{{ messages[0] | tojson }}", r#"{"role": "system", "content": "be kind"}"#),
            ("{{ messages[2].content | tojson }}", r#""<b>""#),
            ("{{ [1, {'a': 'é'}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": \"é\"\n  }\n]"),
            ("{{ 'é' | tojson(ensure_ascii=True) }}", r#""\u00e9""#),
            ("{% if tools is not none %}t{% endif %}{{ tools }}{{ add_generation_prompt }}", "NoneFalse"),
            ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
            ("a {%- generation -%} b {% endgeneration %} c", "ab  c"),
            ("{% if 'x' in messages[0] %}y{% else %}n{% endif %}{{ messages[0].get('x', 'none') }}", "nnone"),
            ("{{ strftime_now('%Y') | length }}{{ date_string | length }}", "411"),
            ("{{ messages[0]['role'].startswith('sys') and messages[0].content is string }}", "True"),
            ("{% if undefined_thing %}a{% endif %}{{ undefined_thing }}", ""),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('y') }}", "[y]"),
        ] {
            assert_eq!(render(Some(template), false).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_a_template_raises_is_what_is_said() {
        assert_eq!(render(Some("{{ raise_exception('no system role') }}"), false).unwrap_err(), "the chat template cannot be used: no system role");
    }

    #[test]
    fn a_template_that_does_not_parse_or_end_is_refused() {
        assert!(render(Some("{% for x in %}"), false).is_err());
        assert!(render(Some("{%} %}"), false).is_err());
        assert!(render(Some(&format!("{{{{ {}1 }}}}", "1+".repeat(100_000))), false).is_ok());
        assert!(render(Some(&" ".repeat(MAX_BYTES + 1)), false).is_err());
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(Some(endless), false).is_err());
    }
}
