"""Memory and time of an autoencoder whole and in strips.

    python benchmarks/strips.py [--model taming-f16] [--size 512] [--strips 0 64 16 8] [--dtype float32]

Every figure is of a process of its own, on one thread, with random weights. Linux only: a peak is the kernel's (VmHWM)
less what the process held before the call, so that it counts everything, scratch memory of convolutions included.
"live" has the C library give freed tensors back at once, and is what the call needs; "process" leaves it its way of
keeping some for later, which differs from run to run, and is what a user sees. Seconds are the processor's.

Measured on two shared cores with torch 2.13 (seconds differ by a third from run to run), 512 x 512, float32, where one
activation of the finest level is 128 MiB (taming-f16) or 256 MiB (kl-f8):

                   strip  live MiB  process MiB  seconds
    taming-f16 encode  0       768          768      5.5
                      64       193          200      6.9
                      16       145          137      6.2
    taming-f16 decode  0       773          806     10.8
                      64       184          253     11.6
                      16       143          147     11.6
    kl-f8 decode      16       277          352     22.9
"""

import argparse
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import torch

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig

MODELS = {
    "taming-f16": AutoencoderConfig(),
    "kl-f8": AutoencoderConfig(
        ch_mult=(1, 2, 4, 4), attn_resolutions=(), z_channels=4, embed_dim=4, double_z=True, bottleneck=KLConfig()
    ),
}


def resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its highest since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@torch.no_grad()
def measure(name: str, way: str, size: int, strip: int, dtype: torch.dtype) -> None:
    """Print the peak in MiB and the seconds of one call, after a small one that loads its kernels."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MODELS[name]
    model = Autoencoder(config).to(dtype).eval()
    call = model.encode if way == "encode" else model.decode
    shape = (1, 3, size, size) if way == "encode" else (1, config.embed_dim, size // model.factor, size // model.factor)
    x = torch.randn(shape).to(dtype)
    call(x[:, :, : shape[2] // 4, : shape[3] // 4], strip=strip)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.process_time()
    call(x, strip=strip)
    print(f"{resident('VmHWM') - before:.0f} {time.process_time() - start:.1f}")


def apart(options: list[str], **environment: str) -> list[str]:
    """What `measure` prints in a process of its own."""
    command, environ = [sys.executable, __file__, *options], {**os.environ, **environment}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="taming-f16")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--strips", type=int, nargs="+", default=[0, 64, 16, 8])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--one", choices=("encode", "decode"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return measure(args.model, args.one, args.size, args.strips[0], getattr(torch, args.dtype))
    print(f"{args.model}, {args.size} x {args.size}, {args.dtype}\n         strip  live MiB  process MiB  seconds")
    for way, strip in product(("encode", "decode"), args.strips):
        options = ["--model", args.model, "--size", str(args.size), "--strips", str(strip), "--dtype", args.dtype]
        live, _ = apart(["--one", way, *options], MALLOC_MMAP_THRESHOLD_="65536")
        process, seconds = apart(["--one", way, *options])
        print(f"{way:8} {strip:5} {live:>9} {process:>12} {seconds:>8}", flush=True)
    return None


if __name__ == "__main__":
    main()
