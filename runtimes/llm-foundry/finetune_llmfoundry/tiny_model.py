"""Makes a tiny Llama with a tokenizer trained on given text; writes only to the folder it is given.

No torch and no transformers: the weights are drawn with numpy and the files are written in the formats that
`transformers` reads, so that it takes a second instead of half a minute.
"""

import json
from pathlib import Path

HIDDEN, LAYERS, HEADS, INTERMEDIATE, CONTEXT = 64, 2, 4, 128, 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def train_tokenizer(texts, vocab_size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, *roles],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def draw_weights(vocab_size, seed):
    import numpy

    generator = numpy.random.default_rng(seed)

    def matrix(rows, columns):
        return generator.normal(0.0, 0.02, (rows, columns)).astype(numpy.float32)

    ones = numpy.ones(HIDDEN, dtype=numpy.float32)
    weights = {
        "model.embed_tokens.weight": matrix(vocab_size, HIDDEN),
        "model.norm.weight": ones,
        "lm_head.weight": matrix(vocab_size, HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{prefix}self_attn.{name}.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{prefix}mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{prefix}mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{prefix}mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        weights[f"{prefix}input_layernorm.weight"] = ones.copy()
        weights[f"{prefix}post_attention_layernorm.weight"] = ones.copy()
    return weights


def make(folder, texts, vocab_size=512, seed=17):
    """Write the model and return its number of parameters."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    # A short text yields fewer merges than asked for; the embedding keeps the asked size.
    ids = {token: tokenizer.token_to_id(token) for token in (PAD, BOS, EOS)}
    weights = draw_weights(vocab_size, seed)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    generation = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "vocab_size": vocab_size,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        **generation,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }
    special = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    for name, content in (
        ("config.json", config),
        ("generation_config.json", {"_from_model_config": True, **generation}),
        ("tokenizer_config.json", tokenizer_config),
        ("special_tokens_map.json", special),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return sum(weight.size for weight in weights.values())
