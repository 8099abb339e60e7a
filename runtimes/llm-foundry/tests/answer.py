"""Loads an export with transformers and prints its answer to a prompt: `answer.py FOLDER PROMPT`."""

import sys


def main(folder, prompt):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        # A tiny model may see the end first: it must say something to be looked at.
        output = model.generate(
            inputs.input_ids, attention_mask=inputs.attention_mask, min_new_tokens=8, max_new_tokens=20, do_sample=False
        )
    print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
