"""`python -m finetune_llmfoundry train|worker|register|convert|tiny-model`."""

import argparse
import os
import sys

ETC = "/etc/finetune"


def parse(arguments):
    parser = argparse.ArgumentParser(prog="finetune_llmfoundry", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run one attempt of a run on this node")
    train.add_argument("--plan", default=f"{ETC}/train.json")
    worker = commands.add_parser("worker", help="one training process; started by train")
    worker.add_argument("--plan", default=f"{ETC}/train.json")
    register = commands.add_parser("register", help="register the export of a run, once")
    register.add_argument("--plan", default=f"{ETC}/register.json")
    convert = commands.add_parser("convert", help="make what preflight reads: files of tables, a tokenizer.json")
    convert.add_argument("--plan", default=f"{ETC}/convert.json")
    tiny = commands.add_parser("tiny-model", help="make a tiny Llama for demos and tests")
    tiny.add_argument("folder")
    tiny.add_argument("--text", action="append", required=True, help="a file that the tokenizer is trained on")
    tiny.add_argument("--vocab-size", type=int, default=512)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    # MLflow's git library refuses to be imported where there is no git, unless it is told not to mind.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if options.command == "train":
        from . import supervisor

        return supervisor.main(options.plan)
    if options.command == "worker":
        from . import worker

        return worker.main(options.plan)
    if options.command == "register":
        from . import register

        return register.main(options.plan)
    if options.command == "convert":
        from . import convert

        return convert.main(options.plan)
    from pathlib import Path

    from . import tiny_model

    texts = [Path(path).read_text() for path in options.text]
    print(f"{tiny_model.make(options.folder, texts, options.vocab_size)} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
