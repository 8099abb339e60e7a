"""Answers questions on standard input, one JSON object a line, with what the training engine's own code says."""

import itertools
import json
import os
import sys
import traceback
from pathlib import Path

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever the libraries print is not an answer

from finetune_llmfoundry import tiny_model  # noqa: E402

WORDS = Path(tiny_model.__file__).read_text() + " The quick brown fox, 12345 naïve cafés — 日本語 и русский. \n\n\t" * 20
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def write_model(folder, tokenizer, config, drop_added=()):
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in drop_added]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, **config}))


def byte_level(pattern, special, normalizer=None, begin=None):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=begin is not None))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), splitter])
    tokenizer.pre_tokenizer = splitter
    if normalizer == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([WORDS], trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if begin is not None:
        template = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))])
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return tokenizer


def pieces(special, prepend):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + of_bytes, show_progress=False)
    tokenizer.train_from_iterator(WORDS.splitlines(), trainer)
    replace = normalizers.Replace(" ", "▁")
    if prepend:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
        tokenizer.pre_tokenizer = None
    else:
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer, of_bytes


def make_model(kind, folder, **_):
    """Tokenizers that are made as those of the catalogue's families are, with small vocabularies."""
    folder = Path(folder)
    templates = Path(__file__).parent / "templates"
    if kind == "tiny":
        tiny_model.make(folder, [WORDS])
    elif kind == "llama2":
        tokenizer, of_bytes = pieces(["<unk>", "<s>", "</s>"], prepend=True)
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        write_model(folder, tokenizer, config, of_bytes)
    elif kind == "llama3":
        begin = "<|begin_of_text|>"
        special = [begin, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        template = (templates / "llama-3.jinja").read_text()
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": "<|eot_id|>"}
        write_model(folder, byte_level(LLAMA3_PATTERN, special, begin=begin), {**config, "chat_template": template})
    elif kind == "qwen":
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        template = (templates / "qwen-3.jinja").read_text()
        config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        write_model(folder, byte_level(QWEN_PATTERN, special, "NFC"), {**config, "chat_template": template})
    elif kind == "gemma":
        tokenizer, of_bytes = pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], prepend=False)
        template = (templates / "gemma.jinja").read_text()
        config = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
        write_model(folder, tokenizer, {**config, "chat_template": template}, of_bytes)
    elif kind == "mpt":
        config = {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": "<|endoftext|>"}
        write_model(folder, byte_level(None, ["<|endoftext|>", "<|padding|>"], "NFC"), config)
    else:
        raise ValueError(kind)
    return {}


def load(model):
    from llmfoundry.utils.builders import build_tokenizer

    return build_tokenizer(str(model), {"model_max_length": 512})


def note_surrogates(value, traits):
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        traits.add("half of a surrogate pair")


def read_line(line, traits):
    """The row as Python reads it, and what is special about it."""

    def pairs(items):
        if len({key for key, _ in items}) < len(items):
            traits.add("duplicate key")
        note_surrogates(items, traits)
        return dict(items)

    def constant(_):
        traits.add("constant")

    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        traits.add("not UTF-8")
        raise
    if max(itertools.accumulate((c in "[{") - (c in "]}") for c in text)) > 128:
        traits.add("deep")
    row = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    note_surrogates(row, traits)
    if isinstance(row, dict):
        traits.add("chat" if "messages" in row else "pair")
    return row


def chat_traits(row, traits):
    messages = row["messages"] if isinstance(row, dict) and "messages" in row else None
    if not isinstance(messages, list):
        return
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if "tool" in roles:
        traits.add("tool")
    if any(isinstance(role, (dict, list)) for role in roles):
        traits.add("role that has no hash")
    if any(isinstance(message, dict) and isinstance(message.get("content"), list) for message in messages):
        traits.add("list of parts")
    if "system" in roles[1:]:
        traits.add("system behind the first")
    spoken = [role for role in roles if role != "system"]
    if spoken and spoken[0] != "user":
        traits.add("user is not first")


def judge_rows(model, rows, contexts, out, **_):
    from llmfoundry.data.finetuning.collator import stitch_turns_decoder_only
    from llmfoundry.data.finetuning.tasks import is_valid_ift_example, tokenize_formatted_example

    tokenizer = load(model)
    with open(rows, "rb") as lines, open(out, "w") as results:
        for line in lines:
            result, traits = {}, set()
            try:
                row = read_line(line, traits)
                chat_traits(row, traits)
                example = tokenize_formatted_example(row, tokenizer)
            except Exception as error:
                result["error"] = type(error).__name__
            else:
                ids, _ = stitch_turns_decoder_only(example["turns"], "none", "last")
                # As the collator does it, but also for an answer without tokens.
                ended = example["turns"][-1]["labels"][-1:] == [tokenizer.eos_token_id]
                result["tokens"] = len(ids) + (0 if ended else 1)
                result["kept"] = [is_valid_ift_example(context, "none", "last", True, example) for context in contexts]
            results.write(json.dumps({**result, "traits": sorted(traits)}) + "\n")
    return {}


def render_templates(model, cases, **_):
    import jinja2
    from llmfoundry.tokenizers import get_date_string

    tokenizer, rendered = load(model), []
    for template, messages, prompt_next in cases:
        try:
            text = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=prompt_next, date_string=get_date_string()
            )
            rendered.append({"text": text})
        except Exception as error:
            raised = str(error) if type(error) is jinja2.exceptions.TemplateError else None
            rendered.append({"error": f"{type(error).__name__}: {error}", "raised": raised})
    return {"rendered": rendered}


def read_samples(folder):
    from streaming import StreamingDataset

    samples = list(StreamingDataset(local=str(folder), shuffle=False, batch_size=1))
    return [sample["tokens"].tolist() if "tokens" in sample else sample for sample in samples]


def read(folder, model=None, context=None, **_):
    answer = {"samples": read_samples(folder)}
    if model is not None:
        from llmfoundry.data.finetuning.collator import stitch_turns_decoder_only
        from llmfoundry.data.finetuning.tasks import StreamingFinetuningDataset

        tokenizer = load(model)
        loader = StreamingFinetuningDataset(tokenizer, local=folder, max_seq_len=context, batch_size=1)
        stitched = [stitch_turns_decoder_only(row["turns"], "none", "last", tokenizer.eos_token_id)[0] for row in loader]
        answer["tokens"] = sum(min(len(ids), context) for ids in stitched)
    return answer


def convert_text(folder, out, model, concat_tokens, bos_text, eos_text, no_wrap, **_):
    from llmfoundry.command_utils.data_prep import convert_text_to_mds as converter
    from llmfoundry.utils.exceptions import CannotUnicodeDecodeFile

    # The engine takes files in the order that the disk has them in.
    unsorted = converter.get_object_names
    converter.get_object_names = lambda folder: sorted(unsorted(folder))
    try:
        converter.convert_text_to_mds(
            tokenizer_name=model,
            output_folder=out,
            input_folder=folder,
            concat_tokens=concat_tokens,
            eos_text=eos_text,
            bos_text=bos_text,
            no_wrap=no_wrap,
            compression="zstd",
            processes=1,
            args_str="",
            reprocess=True,
            trust_remote_code=False,
        )
    except CannotUnicodeDecodeFile:
        return {"error": "CannotUnicodeDecodeFile"}
    finally:
        converter.get_object_names = unsorted
    return {"samples": read_samples(out)}


TASKS = {"model": make_model, "rows": judge_rows, "templates": render_templates, "read": read, "text": convert_text}

for question in sys.stdin:
    question = json.loads(question)
    try:
        answer = TASKS[question["do"]](**question)
    except Exception:
        answer = {"failed": traceback.format_exc()}
    print(json.dumps(answer), file=answers, flush=True)
