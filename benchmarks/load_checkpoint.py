"""Time and memory to open a Stable Diffusion 1.5 of full size, here, in diffusers and in ComfyUI: docs/speed.md.

    python benchmarks/load_checkpoint.py [--rounds 5] [--dtypes float16 float32]

The weights are float16 numbers from a random block, 2 GB, written twice to a temporary folder (CompVis's single file,
diffusers' folder) and deleted at the end. Every figure is of a process of its own, on one thread, the file in the page
cache, the ways by turns; imports are done before the clock starts. Seconds and the peak are medians. Linux only: a peak
is the kernel's (VmHWM, pages mapped from the file included) less what the process held before the call. COMFYUI_DIR
names a checkout of ComfyUI, COMFYUI_VENV its virtual environment; ComfyUI builds the tokenizer too, and is told to keep
all parts in the dtype. diffusers has accelerate, without which it is far slower, and finds the configs for the single
file in the folder, as there is no network. It maps weights that keep their dtype and reads none of them; Vitrail reads
each once to check that it is a number.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

FILE, FOLDER = "sd15.safetensors", "sd15"
Load = Callable[[], Any]


def vitrail(path: Path, dtype: torch.dtype) -> Load:
    from vitrail.core.checkpoints import load

    return lambda: load(path, dtype=dtype)


def diffusers(path: Path, dtype: torch.dtype) -> Load:
    import diffusers
    import transformers

    pipeline, _ = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel
    unused = dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor"))
    given: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True, **unused}
    if path.is_dir():
        return lambda: pipeline.from_pretrained(path, low_cpu_mem_usage=True, **given)
    return lambda: pipeline.from_single_file(str(path), config=str(path.parent / FOLDER), **given)


def comfyui(path: Path, dtype: torch.dtype) -> Load:
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    args = import_module("comfy.cli_args").args

    args.cpu = True
    for part in ("unet", "vae", "text_enc"):
        setattr(args, f"fp{8 * dtype.itemsize}_{part}", True)
    sd = import_module("comfy.sd")
    return lambda: sd.load_checkpoint_guess_config(str(path), embedding_directory=None)


WAYS: dict[str, tuple[Callable[[Path, torch.dtype], Load], str]] = {
    "Vitrail": (vitrail, FILE),
    "diffusers": (diffusers, FILE),
    "ComfyUI": (comfyui, FILE),
    "Vitrail, folder": (vitrail, FOLDER),
    "diffusers, folder": (diffusers, FOLDER),
}


def write_model(folder: Path) -> None:
    """The model in both layouts."""
    from vitrail.core.autoencoders.config import AutoencoderConfig
    from vitrail.core.bottlenecks import KLConfig
    from vitrail.core.checkpoints.write_compvis import compvis_layout
    from vitrail.core.checkpoints.write_diffusers import diffusers_layout
    from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
    from vitrail.core.diffusion.unet import UNetConfig
    from vitrail.core.text.clip import ClipTextConfig

    unet = UNetConfig(
        in_channels=4, out_channels=4, model_channels=320, num_res_blocks=2, attention_resolutions=(4, 2, 1),
        channel_mult=(1, 2, 4, 4), num_heads=8, context_dim=768,
    )  # fmt: skip
    autoencoder = AutoencoderConfig(
        ch_mult=(1, 2, 4, 4), attn_resolutions=(), z_channels=4, embed_dim=4, double_z=True, bottleneck=KLConfig(),
        latent_scale=(0.18215,),
    )  # fmt: skip
    table = TableConfig(kind="scaled_linear", start=0.00085, end=0.012)
    with torch.device("meta"):
        model = LatentDiffusion(
            LatentDiffusionConfig(unet=unet, table=table, autoencoder=autoencoder, conditioner=ClipTextConfig())
        ).half()
    torch.manual_seed(0)
    for part in model.stored.values():
        part.half().load_state_dict({name: filled(value) for name, value in part.state_dict().items()}, assign=True)
    save_file(compvis_layout(model)[0], folder / FILE)
    for name, content in diffusers_layout(model).items():
        file = folder / FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file(content, file)
        else:
            file.write_text(json.dumps(content))


def filled(value: torch.Tensor, block: int = 1 << 20) -> torch.Tensor:
    """A tensor of that shape, a block of random numbers over and over."""
    flat = torch.empty(value.numel(), dtype=value.dtype)
    first = torch.randn(min(block, flat.numel())).mul(0.02)
    for part in flat.split(block):
        part.copy_(first[: part.numel()])
    return flat.view(value.shape)


def resident(field: str) -> int:
    """MiB of this process: VmRSS now, VmHWM at its highest since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024


@torch.no_grad()
def measure(way: str, folder: Path, dtype: torch.dtype) -> None:
    """Print the seconds, the processor's seconds and the peak in MiB of opening the model once."""
    torch.set_num_threads(1)
    prepare, name = WAYS[way]
    call = prepare(folder / name, dtype)
    Path("/proc/self/clear_refs").write_text("5")
    before, start, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    model = call()
    print(time.perf_counter() - start, time.process_time() - cpu, resident("VmHWM") - before, model is None)


def apart(way: str, folder: Path, dtype: str) -> list[float]:
    """What `measure` prints in a process of its own."""
    python = sys.executable
    if way == "ComfyUI" and (venv := os.environ.get("COMFYUI_VENV")):
        python = f"{venv}/bin/python"
    command = [python, __file__, "--one", way, "--folder", str(folder), "--dtypes", dtype]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return [float(word) for word in done.stdout.splitlines()[-1].split()[:3]]


def table(found: Mapping[str, list[list[float]]], weights: float) -> str:
    """Medians; ratios are to the faster of the other loaders of the same file or folder."""
    rows = {way: [median(column) for column in zip(*runs, strict=True)] for way, runs in found.items()}
    lines = [
        "| opened by | seconds | CPU seconds | times the faster peer | peak MiB | peak / weights |",
        "|" + "---|" * 6,
    ]
    for way, (wall, cpu, peak) in rows.items():
        peers = [rows[w][0] for w in rows if WAYS[w][1] == WAYS[way][1] and not w.startswith("Vitrail")]
        ratio = f"{wall / min(peers):.2f}" if peers else ""
        lines.append(f"| {way} | {wall:.2f} | {cpu:.2f} | {ratio} | {peak:.0f} | {peak / weights:.2f} |")
    return "\n".join(lines)


def ways(wanted: list[str]) -> list[str]:
    """Those that can be run here."""
    return [way for way in wanted if way != "ComfyUI" or "COMFYUI_DIR" in os.environ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", choices=("float16", "float32"), default=["float16", "float32"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="keeps the model for another run")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        return write_model(args.folder)
    if args.one:
        return measure(args.one, args.folder, getattr(torch, args.dtypes[0]))
    with TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        if not (folder / FILE).exists():
            subprocess.run([sys.executable, __file__, "--write", "--folder", str(folder)], check=True)
        for dtype in args.dtypes:
            weights = (folder / FILE).stat().st_size / 2**20 * getattr(torch, dtype).itemsize / 2
            found: dict[str, list[list[float]]] = {way: [] for way in ways(args.ways)}
            for _ in range(args.rounds):
                for way in found:
                    found[way].append(apart(way, folder, dtype))
            print(f"### {dtype}, {weights:.0f} MiB of weights\n\n{table(found, weights)}\n", flush=True)
    return None


if __name__ == "__main__":
    main()
