//! Rows of well-known datasets in their own columns to rows that can be judged, as LLM Foundry's built-in adapters make them; pure.

use std::io;

use serde_json::{Value, json};

use super::blocks::{Block, Cut, lines};

/// The adapter of one dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// `tatsu-lab/alpaca`
    Alpaca,
    /// `HuggingFaceH4/databricks_dolly_15k`
    Dolly,
    /// `bigscience/P3`
    P3,
    /// `Muennighoff/P3` and `Muennighoff/flan`
    Flan,
    /// `teknium/OpenHermes-2.5`
    OpenHermes,
    /// `math-ai/StackMathQA`
    StackMath,
    /// `AI-MO/NuminaMath-CoT`
    NuminaMath,
}

impl Adapter {
    /// The adapter of a dataset on the hub; most need none.
    #[must_use]
    pub fn of(dataset: &str) -> Option<Self> {
        Some(match dataset {
            "tatsu-lab/alpaca" => Self::Alpaca,
            "HuggingFaceH4/databricks_dolly_15k" => Self::Dolly,
            "bigscience/P3" => Self::P3,
            "Muennighoff/P3" | "Muennighoff/flan" => Self::Flan,
            "teknium/OpenHermes-2.5" => Self::OpenHermes,
            "math-ai/StackMathQA" => Self::StackMath,
            "AI-MO/NuminaMath-CoT" => Self::NuminaMath,
            _ => return None,
        })
    }

    /// The row that this one stands for; none if it is not as the dataset's rows are.
    #[must_use]
    pub fn adapt(self, row: &str) -> Option<String> {
        let row: Value = serde_json::from_str(row).ok()?;
        let text = |key: &str| row[key].as_str();
        let pair = |prompt: String, response: &str| json!({"prompt": prompt, "response": response});
        let adapted = match self {
            Self::Alpaca => {
                const MARK: &str = "### Response:";
                let (prompt, response) = text("text")?.split_once(MARK).filter(|(_, response)| !response.contains(MARK))?;
                pair(format!("{prompt}{MARK}"), response)
            }
            Self::Dolly => {
                let instruction = match text("input")? {
                    "" => text("instruction")?.to_owned(),
                    input => format!("{}\n{input}", text("instruction")?),
                };
                let task = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
                pair(format!("{task}\n\n### Instruction:\n{instruction}\n\n### Response:\n"), text("output")?)
            }
            Self::P3 => pair(format!("{}:", text("inputs")?), text("targets")?),
            Self::Flan => {
                let (prompt, response) = (text("inputs")?, text("targets")?);
                let is_apart = prompt.ends_with([' ', '\n', '\t']) || response.starts_with([' ', '\n', '\t']);
                pair(prompt.to_owned(), &format!("{}{response}", if is_apart { "" } else { " " }))
            }
            Self::OpenHermes => {
                let message = |message: &Value| {
                    let role = match message["from"].as_str()? {
                        "human" => "user",
                        "gpt" => "assistant",
                        other => other,
                    };
                    Some(json!({"role": role, "content": message["value"].as_str()?}))
                };
                let messages: Option<Vec<_>> = row["conversations"].as_array()?.iter().map(message).collect();
                json!({"messages": messages?})
            }
            Self::StackMath => {
                json!({"messages": [{"role": "user", "content": text("Q")?}, {"role": "assistant", "content": text("A")?}]})
            }
            Self::NuminaMath => json!({"messages": row.get("messages")?}),
        };
        Some(adapted.to_string())
    }
}

/// Blocks with their rows adapted. A row that cannot be stays as it is, so that a rule names what is wrong with it.
pub struct Adapted<C>(pub C, pub Adapter);

impl<C: Cut> Cut for Adapted<C> {
    fn next_block(&mut self) -> io::Result<Option<Block>> {
        let block = match self.0.next_block()? {
            Some(block) if !block.too_long => block,
            other => return Ok(other),
        };
        let mut bytes = Vec::with_capacity(block.bytes.len());
        let mut line = block.first_line;
        for (number, row) in lines(&block) {
            // Blank lines keep the others' numbers.
            bytes.resize(bytes.len() + usize::try_from(number - line).unwrap_or(0), b'\n');
            line = number + 1;
            match std::str::from_utf8(row).ok().and_then(|row| self.1.adapt(row)) {
                Some(adapted) => bytes.extend_from_slice(adapted.as_bytes()),
                None => bytes.extend_from_slice(row),
            }
            bytes.push(b'\n');
        }
        Ok(Some(Block { bytes, ..block }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blocks::Blocks;

    fn adapt(dataset: &str, row: &Value) -> Option<Value> {
        Adapter::of(dataset).unwrap().adapt(&row.to_string()).map(|row| serde_json::from_str(&row).unwrap())
    }

    #[test]
    fn each_known_dataset_becomes_what_the_engine_makes_of_it() {
        let dolly = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n";
        for (dataset, row, expected) in [
            (
                "tatsu-lab/alpaca",
                json!({"text": "Do.\n### Response:\nDone", "input": ""}),
                json!({"prompt": "Do.\n### Response:", "response": "\nDone"}),
            ),
            (
                "HuggingFaceH4/databricks_dolly_15k",
                json!({"instruction": "i", "input": "", "output": "o", "category": "c"}),
                json!({"prompt": format!("{dolly}i\n\n### Response:\n"), "response": "o"}),
            ),
            (
                "HuggingFaceH4/databricks_dolly_15k",
                json!({"instruction": "i", "input": "x", "output": "o"}),
                json!({"prompt": format!("{dolly}i\nx\n\n### Response:\n"), "response": "o"}),
            ),
            ("bigscience/P3", json!({"inputs": "a", "targets": "b"}), json!({"prompt": "a:", "response": "b"})),
            ("Muennighoff/P3", json!({"inputs": "a", "targets": "b"}), json!({"prompt": "a", "response": " b"})),
            ("Muennighoff/flan", json!({"inputs": "a\n", "targets": "b"}), json!({"prompt": "a\n", "response": "b"})),
            (
                "teknium/OpenHermes-2.5",
                json!({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a", "weight": null}, {"from": "gpt", "value": "b"}]}),
                json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            ),
            (
                "math-ai/StackMathQA",
                json!({"Q": "a", "A": "b", "meta": {}}),
                json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            ),
            ("AI-MO/NuminaMath-CoT", json!({"source": "x", "messages": [1]}), json!({"messages": [1]})),
        ] {
            assert_eq!(adapt(dataset, &row), Some(expected), "{dataset}");
            assert_eq!(adapt(dataset, &json!({"prompt": "a"})), None, "{dataset}");
        }
        assert_eq!(Adapter::of("tatsu-lab/Alpaca"), None);
        assert_eq!(adapt("tatsu-lab/alpaca", &json!({"text": "### Response:### Response:"})), None);
    }

    #[test]
    fn adapted_rows_keep_their_numbers_and_strange_ones_stay_as_they_are() {
        let text = "{\"inputs\":\"a\",\"targets\":\"b\"}\n\nnot json\n{\"inputs\":\"c\",\"targets\":\"d\"}";
        let block = Adapted(Blocks::new(text.as_bytes(), 0, 1), Adapter::P3).next_block().unwrap().unwrap();
        let rows: Vec<_> = lines(&block).map(|(number, line)| (number, std::str::from_utf8(line).unwrap())).collect();
        let expected = [(1, r#"{"prompt":"a:","response":"b"}"#), (3, "not json"), (4, r#"{"prompt":"c:","response":"d"}"#)];
        assert_eq!(rows, expected);
    }
}
