"""`vitrail evaluate`: figures of a model on captioned pictures, as JSON on standard output."""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="the folder of captioned pictures it was trained on")
    parser.add_argument("--name", default="vitrail-1", help="name of a shipped model")
    parser.add_argument("--size", type=int, default=64, help="pixels of a picture's side")
    parser.add_argument("--prompts", type=int, default=240, help="how many prompts of each kind to draw")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--sampler")
    parser.add_argument("--scheduler")


def run(args: argparse.Namespace) -> int:
    """Print autoencoder, retrieval, chance, refiner and speed figures; returns the exit status."""
    from ..core.checkpoints import load, shipped_path
    from ..core.errors import ConfigError
    from ..core.training.data import read_examples
    from ..core.training.evaluation import (
        Settings,
        autoencoder_figures,
        refiner_figures,
        retrieval_figures,
        seconds_a_picture,
        spread,
    )

    given = {name: getattr(args, name) for name in ("steps", "cfg", "sampler", "scheduler")}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    examples = read_examples(args.data)
    if not any(example.split != "train" for example in examples):
        raise ConfigError(f'{args.data} holds nothing out of training: give some lines of its captions.jsonl a "split"')
    model: Any = load(shipped_path(args.name, "diffusion") or args.name)
    held_out, seen = (spread(examples, args.prompts, held_out=held_out) for held_out in (True, False))
    shuffled = [examples[i].text for i in held_out]
    random.Random(0).shuffle(shuffled)
    figures: dict[str, Any] = {}

    def note(name: str, values: Any) -> None:
        figures[name] = values
        print(f"{name}: {values}", file=sys.stderr)

    note("settings", vars(settings))
    note("autoencoder", autoencoder_figures(model.autoencoder, examples, args.size))
    note("seen", retrieval_figures(model, examples, seen, args.size, settings))
    note("held_out", retrieval_figures(model, examples, held_out, args.size, settings))
    note("shuffled", retrieval_figures(model, examples, held_out, args.size, settings, texts=shuffled))
    if refiner := shipped_path(args.name, "refiner"):
        note("refiner", refiner_figures(load(refiner), model.autoencoder, examples, args.size))
    note("seconds_a_picture_one_thread", seconds_a_picture(model, args.size, settings))
    print(json.dumps(figures, indent=2))
    return 0
