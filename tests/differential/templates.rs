//! Chat templates rendered by `transformers` and by the data path: the same text, or an error from both.
//!
//! The files in `templates/` are the templates of the catalogue's families. `chatml.jinja` and `tiktoken.jinja` were
//! taken from LLM Foundry's own package (its default, and what it gives tokenizers of tiktoken's kind); the others are
//! written after the models' published `tokenizer_config.json`, without a copy at hand: a letter may differ, the
//! constructs are the families' own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fastrand::Rng;
use finetune_operator::data::model::Model;
use finetune_operator::data::template::ChatTemplate;
use minijinja::Value as Rendered;
use serde::Deserialize;
use serde_json::{Value, json};

use super::corpus;
use super::engine;

static MODEL: OnceLock<(PathBuf, Model)> = OnceLock::new();

/// What the engine made of one case.
#[derive(Debug, Deserialize)]
struct Theirs {
    text: Option<String>,
    error: Option<String>,
    /// What the template itself raised.
    raised: Option<String>,
}

struct Case {
    name: String,
    template: String,
    messages: Value,
    prompt_next: bool,
}

/// What differs, and how many texts and errors each template gave.
fn differences(cases: &[Case]) -> (Vec<String>, BTreeMap<String, [usize; 2]>) {
    let (folder, model) = MODEL.get_or_init(|| engine::model("templates", "tiny"));
    let asked: Vec<_> = cases.iter().map(|case| json!([case.template, case.messages, case.prompt_next])).collect();
    let answer = engine::ask(&json!({"do": "templates", "model": folder, "cases": asked}));
    let theirs: Vec<Theirs> = serde_json::from_value(answer["rendered"].clone()).expect("the engine's renderings");
    assert_eq!(theirs.len(), cases.len());
    let mut compiled = BTreeMap::new();
    let mut found = Vec::new();
    let mut counted: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (case, theirs) in cases.iter().zip(&theirs) {
        let template = compiled.entry(&case.template).or_insert_with(|| ChatTemplate::new(&model.tokenizer, Some(&case.template)));
        let messages: Vec<_> = case.messages.as_array().expect("messages").iter().map(rendered).collect();
        let ours = template
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|template| template.render(&messages, case.prompt_next).map_err(|error| error.to_string()));
        let agree = match (&ours, &theirs.raised) {
            (Ok(text), _) => theirs.text.as_ref() == Some(text),
            (Err(problem), Some(raised)) => problem.ends_with(raised.as_str()),
            (Err(_), None) => theirs.error.is_some(),
        };
        counted.entry(case.name.clone()).or_default()[usize::from(ours.is_err())] += 1;
        if !agree {
            found.push(format!("{} {} {}\n  engine {theirs:?}\n  ours   {ours:?}", case.name, case.messages, case.prompt_next));
        }
    }
    (found, counted)
}

fn compare(cases: &[Case]) -> BTreeMap<String, [usize; 2]> {
    let (found, counted) = differences(cases);
    assert!(found.is_empty(), "{} of {} differ\n{}", found.len(), cases.len(), found.iter().take(12).cloned().collect::<Vec<_>>().join("\n\n"));
    counted
}

/// JSON as templates see it.
fn rendered(value: &Value) -> Rendered {
    match value {
        Value::Null => Rendered::from(()),
        Value::Bool(truth) => Rendered::from(*truth),
        Value::Number(number) => number.as_i64().map_or_else(|| Rendered::from(number.as_f64()), Rendered::from),
        Value::String(text) => Rendered::from(text.as_str()),
        Value::Array(items) => items.iter().map(rendered).collect(),
        Value::Object(items) => Rendered::from_pairs(items.iter().map(|(key, item)| (key.as_str(), rendered(item)))),
    }
}

/// A conversation of short messages: mostly one that a row may hold, else what only the engine knows.
fn conversation(rng: &mut Rng) -> Value {
    let mut messages = Vec::new();
    if rng.u8(..3) == 0 {
        messages.push(json!({"role": "system", "content": corpus::text(rng, 6)}));
    }
    for index in 0..rng.usize(1..=6) {
        let role = ["user", "assistant"][index % 2];
        messages.push(json!({"role": role, "content": corpus::text(rng, 6)}));
    }
    if rng.u8(..3) == 0 {
        let at = rng.usize(..=messages.len());
        let content = corpus::text(rng, 6);
        messages.insert(
            at,
            match rng.u8(..6) {
                0 => json!({"role": "tool", "content": content}),
                1 => json!({"role": "tool", "content": content, "tool_call_id": "abcdefghi"}),
                2 => json!({"role": "assistant", "content": "", "tool_calls": [{"id": "123456789", "type": "function",
                "function": {"name": "f", "arguments": {"z": content, "a": [1, 2.5, 1e20, true, null], "é": {}}}}]}),
                3 => json!({"role": "user", "content": [{"type": "text", "text": "hi"}]}),
                4 => json!({"role": "ipython", "content": content}),
                _ => json!({"role": "user", "content": content}),
            },
        );
    }
    Value::Array(messages)
}

#[test]
fn the_families_templates_give_the_text_that_transformers_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/templates");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the templates are there").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let rng = &mut Rng::with_seed(4);
    let mut cases = Vec::new();
    for file in &files {
        let template = std::fs::read_to_string(file).expect("a template is text");
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        for _ in 0..400 {
            cases.push(Case { name: name.clone(), template: template.clone(), messages: conversation(rng), prompt_next: rng.bool() });
        }
    }
    let counted = compare(&cases);
    println!("text and errors: {counted:?}");
    assert!(counted.len() == files.len() && counted.values().all(|[texts, _]| *texts > 100), "{counted:?}");
}

/// What the engine takes and the data path does not, or the other way round; docs/data-rules.md says so.
const KNOWN: [&str; 10] = [
    "{% for x in none %}{% endfor %}",
    "{{ 1 < 'a' }}",
    "{{ cycler('a', 'b').next() }}",
    "{{ joiner(',')() }}",
    "{{ 'a b' | wordcount }}",
    "{{ 'a b c d e f g h' | truncate(5) }}",
    "{{ '%s' % 'a' }}",
    "{{ 'abc' | center(9) }}",
    "{{ 'it\\'s a,b'.title() }}",
    "{{ 'a\\u2028b'.splitlines() | length }}",
];

#[test]
fn what_templates_may_not_do_here_is_known() {
    for template in KNOWN {
        let case =
            Case { name: template.to_owned(), template: template.to_owned(), messages: json!([{"role": "user", "content": ""}]), prompt_next: false };
        assert!(!differences(&[case]).0.is_empty(), "{template} is the same by now: take it off the list");
    }
}

#[test]
fn what_templates_may_do_gives_the_text_that_transformers_gives() {
    let messages = json!([{"role": "system", "content": " Be é kind.\n"}, {"role": "user", "content": "a,b, c"}, {"role": "assistant", "content": "<b> & \"c\" 'd'"}]);
    let expressions = EXPRESSIONS.lines().map(str::trim).filter(|line| !line.is_empty());
    let cases: Vec<_> = expressions
        .map(|template| Case { name: template.to_owned(), template: template.to_owned(), messages: messages.clone(), prompt_next: true })
        .collect();
    compare(&cases);
}

/// One template a line. `m` is what most of them want to look at.
const EXPRESSIONS: &str = r#"
{{ messages[0].content.strip() }}|{{ messages[0].content.lstrip() }}|{{ messages[0].content.rstrip('\n') }}
{{ messages[1].content.split(',') | join('|') }}|{{ messages[1].content.split(',', 1)[1] }}|{{ messages[1].content.split() | length }}
{{ messages[1].content.upper() }}{{ messages[1].role.title() }}{{ messages[1].content.capitalize() }}{{ 'ABC'.lower() }}
{{ messages[1].content.replace(',', ';') }}{{ messages[1].content | replace('a', 'x') }}
{{ messages[1].content.startswith('a') }}{{ messages[1].content.endswith(('c', 'd')) }}{{ 'b' in messages[1].content }}
{{ messages[1].content.find('b') }}{{ messages[1].content.count(',') }}{{ 'x'.isdigit() }}{{ '12'.isdigit() }}
{{ messages[2].content | tojson }}{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}
{{ {'b': 1, 'a': [true, false, none, 1.0, 2.50, 1e20, -3]} | tojson }}
{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}{{ {'b': 1} | tojson(separators=(',', ':')) }}
{{ 'é' | tojson(ensure_ascii=true) }}{{ 'é' | tojson(ensure_ascii=false) }}
{{ messages[::-1] | map(attribute='role') | join(' ') }}{{ messages[1:] | length }}{{ messages[-1].role }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list | join }}
{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ m.role }} {% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{{ loop.cycle('a', 'b') }}{{ loop.revindex }}{{ loop.depth }}{% endfor %}
{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %}{% else %}none{% endfor %}
{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% set ns.found = true %}{% endfor %}{{ ns.n }}{{ ns.found }}
{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% macro say(who, what='hi') -%} <{{ who }}:{{ what }}> {%- endmacro %}{{ say('a') }}{{ say('b', what='c') }}
{% set block %} a {{ messages[1].role }} {% endset %}[{{ block }}]{% filter upper %}a{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}
{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ 6 / 3 }} {{ 1 + 2.0 }} {{ 10 * 'a' }}
{{ 'a' ~ 1 ~ none ~ true }}{{ 'a' + 'b' }}{{ [1] + [2] }}
{{ ['a', "it's", 'é\n'] }}{{ {'a': 1, 'b': none} }}{{ (1, 2) }}{{ [] }}{{ {} }}{{ [1.0, true] }}
{{ messages[1] }}
{{ messages[0].role if messages else 'none' }}{{ 'x' if false }}{{ not messages }}{{ messages and 1 }}{{ none or 'd' }}
{{ messages is sequence }}{{ messages is iterable }}{{ messages is mapping }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 1 is number }}{{ none is none }}{{ x is defined }}{{ true is boolean }}{{ 1 is integer }}{{ 1.5 is float }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}
{{ 'a' is iterable }}{{ 'a' is sequence }}{{ 1 is iterable }}{{ none is iterable }}{{ 'a' is mapping }}{{ true is true }}{{ 1 is true }}{{ 'user' is eq 'user' }}{{ 1 is in [1, 2] }}
{{ messages[0].missing }}{{ messages[0].missing | default('d') }}{{ messages[0]['missing'] is defined }}{{ messages[0].get('missing') }}{{ messages[0].get('missing', 'd') }}
{{ messages[0].missing.deeper }}
{{ missing.deeper }}
{{ messages[9].role }}
{{ messages[9] is defined }}
{{ missing + 'a' }}
{{ 'a' + missing }}
{{ 'a' + none }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 'a' }}
{{ [] + 'a' }}
{{ 'a' + [] }}
{{ 'a' + {} }}
{{ none | trim }}|{{ 5 | trim }}|{{ missing | trim }}
{{ none | length }}
{{ missing | length }}
{{ none.strip() }}
{{ [1].strip() }}
{{ messages.append(1) }}
{{ messages[0].update({'a': 1}) }}
{{ messages[0].__class__ }}
{{ raise_exception('with "quotes" and é') }}
{{ raise_exception() }}
{{ unknown_function() }}
{{ messages | unknown_filter }}
{{ 1 / 0 }}
{% for x in missing %}a{% endfor %}b
{% for x in 5 %}{% endfor %}
{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}{% for key in messages[0] %}{{ key }}{% endfor %}{{ messages[0].keys() | list }}{{ messages[0].values() | list | length }}
{% for key, value in messages[0] | items %}{{ key }}{% endfor %}{{ messages[0] | dictsort | first | first }}
{{ messages | map(attribute='content') | map('trim') | join('/') }}{{ messages | map(attribute='role') | unique | list | length }}
{{ [3, 1, 2] | sort | join }}{{ [3, 1] | max }}{{ [3, 1] | min }}{{ [1, 2] | sum }}{{ 'abc' | first }}{{ [1, 2] | last }}{{ [1, 2, 3] | batch(2) | list | length }}
{{ 'abc' | upper }}{{ 'abc' | capitalize }}{{ 'a b' | title }}{{ 'ABC' | lower }}{{ 'x' | indent(2) }}{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(2, true) }}{{ '<' | escape }}{{ '<' | safe }}
{{ '3' | int + 1 }}{{ '2.5' | float }}{{ 2.567 | round(1) }}{{ 3 | string + 'a' }}{{ 3.0 | int }}{{ -3 | abs }}{{ 'abc' | reverse }}{{ 'abc' | list }}
{{ range(3) | list }}{{ range(1, 6, 2) | join(',') }}{{ dict(a=1).a }}{{ "%s-%d" | format('a', 3) }}{{ '{}-{}'.format('a', 3) }}
{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ 1 != '1' }}{{ [1, 2] == [1, 2] }}{{ true == 1 }}{{ none == false }}{{ 1 < 2 and 2 < 3 }}
{{ 100000000000000000000 }}{{ 1e100 }}{{ 0.1 + 0.2 }}{{ 1e16 }}{{ 123456789.123 }}{{ 1e-7 }}
{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ date_string | length }}
{{ strftime_now('%Y-%m-%d %B %A %j %%') }}
{%- if messages[0]['role'] == 'system' -%} yes {%- elif x -%} no {%- else -%} no {%- endif -%} tail
{# a comment #}a{#- b -#} c {% raw %}{{ x }}{% endraw %}
a {%- generation %} b {% endgeneration %} c
{{ '\u00e9\t\\ \'q\' "' }}{{ "a'b" }}{{ 'a' 'b' }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = (1, 2) %}{{ c[0] }}
{% if messages | selectattr('role', 'equalto', 'tool') | list %}t{% else %}f{% endif %}{{ messages | selectattr('x', 'defined') | list }}
{{ loop }}
{% include 'x' %}
{% for m in messages recursive %}{% if loop.depth == 1 and m.role == 'user' %}{{ loop([m]) }}{% else %}{{ m.role }}{% endif %}{% endfor %}
{{ messages[0].content[0] }}{{ messages[0].content[-1:] }}{{ messages[0]['content'] | length }}{{ ('a', 'b')[1] }}
{{ messages | length > 2 and messages[1].role == 'user' }}{{ messages.__len__ is defined }}
{{ 'x' * 3 }}{{ '=' * 0 }}{{ 'a' not in 'b' }}{{ not 'a' in 'b' }}
{{ 'a-b' | replace('-', '') | upper }}
{{ [[1, 2], [3]] | map('first') | list }}{{ [0, 1, none, ''] | select | list }}
{{ ['a', 'b'] | join(', ') }}{{ [none, true, 1.5] | join(',') }}{{ messages | groupby('role') | map('first') | list }}
{{ 'ß'.upper() }}{{ 'İ'.lower() }}{{ 'éa éb' | title }}
{{ ' \u00a0\u2003a\u200b ' | trim }}|{{ ' \u00a0\u001fa\u0085 '.strip() }}|{{ '\u001ea'.lstrip() }}{{ 'a\u001c\n'.rstrip() }}|{{ 'xax' | trim('x') }}
"#;
