"""`vitrail train`: a progress bar, a CSV of losses, sample grids; the work is in `core.training`."""

import argparse
import csv
import signal
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

KINDS = ("autoencoder", "diffusion", "refiner", "prior")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, help="what to train")
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures with captions")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/KIND)")
    parser.add_argument("--config", type=Path, help="recipe, a JSON file (default: the shipped model's; a small prior)")
    parser.add_argument("--autoencoder", default="vitrail-1", help="of all others: a file or a shipped name")
    parser.add_argument("--start-from", type=Path, help="go on from the weights of this file, not from random ones")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    parser.add_argument("--steps", type=int, help="optimiser steps in all, instead of the recipe's")
    parser.add_argument("--minutes", type=float, help="stop, resumable, after so many minutes")
    parser.add_argument("--samples-every", type=float, default=10, metavar="MINUTES", help="between sample grids")
    parser.add_argument("--threads", type=int, help="CPU threads of this process")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")


def run(args: argparse.Namespace) -> int:
    """Train to the end of the recipe (or for `--minutes`); returns the exit status."""
    import torch
    from tqdm import tqdm

    from ..core.training import distributed
    from ..core.training.loop import train

    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.out or Path("runs") / args.kind
    task = make_task(args)
    log, looked = Log(folder), time.monotonic()
    ends = looked + args.minutes * 60 if args.minutes else float("inf")
    main = distributed.rank() == 0
    with closing(train(task, folder, resume=args.resume)) as steps, Stop() as stop, tqdm(disable=not main) as bar:
        for step in steps:
            log.add(step.step, step.losses, write=main)
            show(bar, step, log.latest | log.figures)
            if main and (time.monotonic() - looked > args.samples_every * 60 or step.step == step.total):
                look(task, folder, step.step, log)
                looked = time.monotonic()
            if distributed.anyone(stop.asked or time.monotonic() > ends):
                break
    if main:
        made = folder / "model.safetensors"
        print(made if made.exists() else folder / "state.pt")
    return 0


class Stop:
    """Turns Ctrl-C and a polite kill into a wish, so that the step in hand is finished and saved."""

    def __enter__(self) -> "Stop":
        self.asked = False
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


def show(bar: Any, step: Any, losses: dict[str, float]) -> None:
    if bar.total is None:
        bar.reset(step.total)
        bar.initial = bar.n = step.step - 1
    bar.set_postfix({name: f"{value:.4f}" for name, value in losses.items()}, refresh=False)
    bar.update(1)


def make_task(args: argparse.Namespace) -> Any:
    """The task that the command line describes."""
    from dataclasses import replace

    from ..core.training import distributed
    from ..core.training.data import read_examples
    from ..core.training.recipes import build_task, read_recipe

    recipe = read_recipe(args.kind, args.config)
    if args.steps:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=args.steps))
    examples = read_examples(args.data)
    device = distributed.device(args.device)
    return build_task(recipe, examples, autoencoder=args.autoencoder, start_from=args.start_from, device=device)


class Log:
    """`losses.csv`: the mean of every `window` steps, a row a loss, and the task's figures.

    latest: the last means; figures: the last ones noted.
    """

    def __init__(self, folder: Path, window: int = 50) -> None:
        self.path, self.window = folder / "losses.csv", window
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.latest: dict[str, float] = {}
        self.figures: dict[str, float] = {}

    def add(self, step: int, losses: dict[str, float], *, write: bool = True) -> None:
        for name, value in losses.items():
            self.sums[name].append(value)
        if step % self.window == 0 or not self.latest:
            self.latest = {name: sum(values) / len(values) for name, values in self.sums.items()}
            self.sums.clear()
            if write:
                self._write(step, self.latest)

    def note(self, step: int, figures: dict[str, float]) -> None:
        self.figures = figures
        self._write(step, figures)

    def _write(self, step: int, values: dict[str, float]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "loss", "value"])
            writer.writerows([step, name, f"{value:.6f}"] for name, value in values.items())


def look(task: Any, folder: Path, step: int, log: Log) -> None:
    """Sample pictures and figures of the averaged weights, kept beside the losses."""
    with task.ema.applied():
        save_samples(task, folder, step)
        log.note(step, task.figures())


def save_samples(task: Any, folder: Path, step: int, columns: int = 12) -> None:
    """A grid of the task's sample pictures as a PNG."""
    import numpy as np
    from PIL import Image

    pictures = ((task.samples().clamp(-1, 1) + 1) * 127.5).round().byte()
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + 2), columns * (width + 2), 3), 200, np.uint8)
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        grid[top : top + height, left : left + width] = picture
    path = folder / f"samples-{step:06d}.png"
    Image.fromarray(grid).save(path)
