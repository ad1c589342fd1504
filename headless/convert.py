"""`vitrail convert`: a model's file in another layout."""

import argparse
from pathlib import Path

DTYPES = ("fp32", "bf16", "fp16")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of `vitrail convert`."""
    add = command.add_argument
    add("file", help="a checkpoint, or a folder of diffusers")
    add("out", type=Path, help="OUT.safetensors, or for diffusers a new folder")
    add("--to", default="vitrail", metavar="LAYOUT", help="vitrail (default), compvis, or diffusers")
    add("--dtype", choices=DTYPES, help="of the weights (default: the narrowest that keeps every number)")
    add("--config", type=Path, help="the publisher's config (default: the one beside the file)")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument("--ema", action="store_true", help="the averaged weights, which the loader nodes take")
    weights.add_argument("--plain", dest="ema", action="store_false", help="the plain ones (default)")


def run(options: argparse.Namespace) -> int:
    """Convert, and print what was written. Raises: CheckpointError, ConfigError."""
    import torch

    from ..core.checkpoints.convert import convert

    names = dict(zip(DTYPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))
    dtype = names.get(options.dtype)
    for path in convert(options.file, options.out, to=options.to, dtype=dtype, config=options.config, ema=options.ema):
        print(path)
    return 0
