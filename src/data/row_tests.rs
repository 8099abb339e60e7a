//! One test for each rule of rows, then what hostile lines do.

use proptest::prelude::*;

use super::*;

const CHAT: TaskType = TaskType::ChatCompletion;
const PAIR: TaskType = TaskType::InstructionFinetune;

fn broken(task: TaskType, line: &str) -> (Rule, String) {
    match Judge::new(task).judge(line) {
        Ok(row) => panic!("{line} is a good row: {row:?}"),
        Err(broken) => (broken.rule, broken.message),
    }
}

fn chat(messages: &str) -> String {
    format!("{{\"messages\": {messages}}}")
}

fn message(role: &str) -> String {
    format!("{{\"role\": \"{role}\", \"content\": \"c\"}}")
}

fn roles(roles: &[&str]) -> String {
    chat(&format!("[{}]", roles.iter().map(|role| message(role)).collect::<Vec<_>>().join(",")))
}

#[test]
fn a_pair_is_read_with_response_or_completion_in_any_order() {
    for line in [r#"{"prompt":"a","response":"b\n"}"#, r#" {"completion" : "b\n" , "prompt" : "a"} "#, r#"{"\u0070rompt":"a","response":"b\n"}"#] {
        let mut judge = Judge::new(PAIR);
        let Row::Pair { prompt, response } = judge.judge(line).unwrap() else { panic!("not a pair") };
        assert_eq!((prompt.value().as_ref(), response.value().as_ref()), ("a", "b\n"), "{line}");
    }
}

#[test]
fn a_conversation_is_read_with_and_without_a_system_message() {
    for names in [&["system", "user", "assistant"][..], &["user", "assistant", "user", "assistant"]] {
        let line = roles(names);
        let mut judge = Judge::new(CHAT);
        let Row::Chat(messages) = judge.judge(&line).unwrap() else { panic!("not a conversation") };
        assert_eq!(messages.iter().map(|m| m.role.as_str()).collect::<Vec<_>>(), names);
        assert!(messages.iter().all(|m| m.content.value() == "c"));
    }
}

#[test]
fn a_judge_forgets_the_row_before() {
    let (long, short) = (roles(&["user", "assistant", "user", "assistant"]), roles(&["user", "assistant"]));
    let mut judge = Judge::new(CHAT);
    judge.judge(&long).unwrap();
    let Row::Chat(messages) = judge.judge(&short).unwrap() else { panic!("not a conversation") };
    assert_eq!(messages.len(), 2);
}

#[test]
fn rule_1_a_row_is_an_object() {
    for (line, kind) in [("[1]", "a list"), ("\"a\"", "a string"), ("null", "null"), ("7", "a number"), ("true", "a boolean")] {
        assert_eq!(broken(CHAT, line), (Rule::InvalidExampleTypeError, format!("a row must be an object, this one is {kind}")));
    }
}

#[test]
fn rule_1_a_row_has_exactly_the_keys_of_one_kind() {
    for (line, found) in [
        (r#"{"messages":[],"id":1}"#, "messages, id"),
        (r#"{"prompt":"a"}"#, "prompt"),
        (r#"{"prompt":"a","response":"b","extra":1}"#, "prompt, response, extra"),
        (r#"{"response":"a","completion":"b"}"#, "response, completion"),
        (r#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8}"#, "a, b, c, d, e, f and 2 more keys"),
        ("{}", "no keys"),
    ] {
        let (rule, message) = broken(PAIR, line);
        assert_eq!(rule, Rule::UnknownExampleTypeError, "{line}");
        assert!(message.ends_with(&format!("this one has {found}")), "{message}");
    }
}

#[test]
fn a_row_of_the_other_kind_names_the_task_type() {
    assert_eq!(broken(PAIR, &roles(&["user", "assistant"])).0, Rule::TaskTypeMismatchError);
    let (rule, message) = broken(CHAT, r#"{"prompt":"a","response":"b"}"#);
    assert_eq!(rule, Rule::TaskTypeMismatchError);
    assert!(message.contains("CHAT_COMPLETION"), "{message}");
}

#[test]
fn prompt_and_response_are_strings() {
    assert_eq!(broken(PAIR, r#"{"prompt":1,"response":"b"}"#).0, Rule::InvalidPromptTypeError);
    assert_eq!(broken(PAIR, r#"{"prompt":"a","completion":null}"#).0, Rule::InvalidResponseTypeError);
    assert_eq!(broken(PAIR, r#"{"prompt":[],"response":{}}"#).0, Rule::InvalidPromptTypeError);
}

#[test]
fn rule_2_messages_is_a_list() {
    assert_eq!(broken(CHAT, &chat("{}")), (Rule::InvalidMessageTypeError, "messages must be a list, it is an object".to_owned()));
}

#[test]
fn rule_3_there_are_at_least_two_messages() {
    for (line, count) in [(chat("[]"), 0), (roles(&["assistant"]), 1)] {
        let (rule, message) = broken(CHAT, &line);
        assert_eq!((rule, message.ends_with(&format!("this one has {count}"))), (Rule::NotEnoughChatDataError, true), "{message}");
    }
}

#[test]
fn rule_4_the_last_message_is_the_assistants() {
    assert_eq!(broken(CHAT, &roles(&["user", "assistant", "user"])).0, Rule::InvalidLastChatMessageRoleError);
    assert_eq!(broken(CHAT, &chat("[{\"role\":\"user\",\"content\":\"c\"}, 7]")).0, Rule::InvalidExampleTypeError);
    assert_eq!(broken(CHAT, &chat("[{\"role\":\"user\",\"content\":\"c\"}, {\"content\":\"c\"}]")).0, Rule::UnknownExampleTypeError);
    assert_eq!(
        broken(CHAT, &chat("[{\"role\":\"user\",\"content\":\"c\"}, {\"role\":[],\"content\":\"c\"}]")).0,
        Rule::InvalidLastChatMessageRoleError
    );
}

#[test]
fn rule_5_each_message_is_an_object_with_role_and_content() {
    let last = message("assistant");
    assert_eq!(broken(CHAT, &chat(&format!("[\"hi\",{last}]"))).0, Rule::InvalidExampleTypeError);
    for message in ["{\"content\":\"c\"}", "{\"role\":\"user\"}", "{\"from\":\"user\",\"value\":\"c\"}"] {
        assert_eq!(broken(CHAT, &chat(&format!("[{message},{last}]"))).0, Rule::UnknownExampleTypeError, "{message}");
    }
}

#[test]
fn rule_6_each_message_has_exactly_two_keys() {
    let line = chat(&format!("[{{\"role\":\"user\",\"content\":\"c\",\"name\":\"n\"}},{}]", message("assistant")));
    assert_eq!(broken(CHAT, &line).0, Rule::IncorrectMessageKeyQuantityError);
}

#[test]
fn rule_7_the_role_is_known_and_tool_is_not() {
    for role in ["tool", "human", "User", ""] {
        let (rule, message) = broken(CHAT, &roles(&[role, "assistant"]));
        assert_eq!(rule, Rule::InvalidRoleError);
        assert!(message.contains(&format!("{role:?}")), "{message}");
    }
}

#[test]
fn rule_8_the_content_is_a_string_and_not_a_list_of_parts() {
    for content in ["null", "[{\"type\":\"text\",\"text\":\"c\"}]", "1"] {
        let line = chat(&format!("[{{\"role\":\"user\",\"content\":{content}}},{}]", message("assistant")));
        assert_eq!(broken(CHAT, &line).0, Rule::InvalidContentTypeError, "{content}");
    }
}

#[test]
fn rule_9_no_role_speaks_twice_in_a_row() {
    for names in [&["user", "user", "assistant"][..], &["user", "assistant", "assistant"], &["system", "system", "assistant"]] {
        assert_eq!(broken(CHAT, &roles(names)).0, Rule::ConsecutiveRepeatedChatRolesError, "{names:?}");
    }
}

#[test]
fn a_system_message_stands_only_at_the_front() {
    let (rule, message) = broken(CHAT, &roles(&["user", "system", "user", "assistant"]));
    assert_eq!((rule, message.starts_with("message 2 has the role system")), (Rule::SystemMessageNotFirstError, true), "{message}");
}

#[test]
fn a_conversation_starts_with_the_user() {
    for names in [&["assistant", "user", "assistant"][..], &["system", "assistant"]] {
        assert_eq!(broken(CHAT, &roles(names)).0, Rule::FirstMessageNotUserError, "{names:?}");
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_even_when_written_with_an_escape() {
    for line in [
        r#"{"prompt":"a","prompt":"b"}"#.to_owned(),
        r#"{"prompt":"a","\u0070rompt":"b"}"#.to_owned(),
        r#"{"messages":[],"messages":[]}"#.to_owned(),
        chat(&format!("[{{\"role\":\"user\",\"role\":\"user\",\"content\":\"c\"}},{}]", message("assistant"))),
    ] {
        assert_eq!(broken(CHAT, &line).0, Rule::DuplicateKeyError, "{line}");
    }
}

#[test]
fn what_is_not_json_names_the_column() {
    let (rule, message) = broken(PAIR, "{\"prompt\": \"é\", response: 1}");
    assert_eq!((rule, message.as_str()), (Rule::InvalidJsonError, "the line is not JSON: a key in quotes was expected (column 17)"));
    for line in ["{", "{\"prompt\":\"a\",\"response\":\"b\"} x", "{\"prompt\":\"\\ud800\",\"response\":\"b\"}", "nope", "{'prompt': 'a'}"] {
        assert_eq!(broken(PAIR, line).0, Rule::InvalidJsonError, "{line}");
    }
}

#[test]
fn a_hostile_row_cannot_put_lines_or_bulk_into_a_message() {
    let line = format!("{{\"{}\\n\\u001b[31m\": 1}}", "k".repeat(100_000));
    let (_, message) = broken(PAIR, &line);
    assert!(message.len() < 400 && !message.contains(char::is_control), "{message}");
}

proptest! {
    #[test]
    fn judging_never_panics(line in r#"[\[\]{}:,"\\ a-z0-9]{0,60}|\PC{0,60}"#) {
        let _ = Judge::new(CHAT).judge(&line);
        let _ = Judge::new(PAIR).judge(&line);
    }
}
