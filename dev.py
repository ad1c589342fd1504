#!/usr/bin/env python3
"""Vitrail from a fresh clone: `python3 dev.py demo` makes pictures, `python3 dev.py test` passes the tests.

Needs Python 3.10 or newer and nothing else. The first call makes .venv beside this file and installs into it;
later calls start at once, until pyproject.toml or constraints.txt change.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"Vitrail needs Python 3.10 or newer; this is {sys.version.split()[0]}. Try python3.12 dev.py ...")

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "vitrail.json"
CONSTRAINTS = ROOT / "constraints.txt"
DEMO = ROOT / "example_workflows" / "prompt-to-picture.json"
OLDEST_PIP = (22, 2)
"""First pip that can report what it would install."""


def main() -> int:
    options, rest = parser().parse_known_args()
    try:
        prepare(extras=("test",) if options.command == "test" else ())
        return demo(rest) if options.command == "demo" else test(rest, slow=options.slow)
    except subprocess.CalledProcessError as error:
        return fail(f"this command failed with status {error.returncode}: {' '.join(map(str, error.cmd))}")
    except KeyboardInterrupt:
        return fail("interrupted")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("command", choices=("demo", "test"), help="demo: pictures in output/; test: linter and tests")
    made.add_argument("--slow", action="store_true", help="with test: the slow tests too")
    return made


def demo(rest: Sequence[str]) -> int:
    """Run the first example workflow; further arguments go to `vitrail run`, such as --set VitrailSampler.seed=7."""
    start = time.perf_counter()
    status = subprocess.call([BIN / "vitrail", "run", DEMO, "--output", ROOT / "output", *rest])
    if status == 0:
        print(f"Done in {time.perf_counter() - start:.0f} s. The pictures are in {ROOT / 'output'}.", flush=True)
    return status


def test(rest: Sequence[str], *, slow: bool) -> int:
    """Linter, then tests; further arguments go to pytest. Nothing here uses the network."""
    lint = subprocess.call([BIN / "ruff", "check", ROOT], cwd=ROOT)
    marks = ["-m", "slow or not slow"] if slow else []
    status = subprocess.call([BIN / "python", "-m", "pytest", "--durations=10", *marks, *rest], cwd=ROOT / "tests")
    return status or lint


# The environment


def prepare(*, extras: Sequence[str]) -> None:
    """Make .venv and install into it, unless a stamp says that this was done with the same versions."""
    stamp, base, versions = read_stamp(), fingerprint_of_base(), fingerprint_of_versions()
    same_base = stamp.get("base") == base
    if same_base and stamp["versions"] == versions and set(extras) <= set(stamp["extras"]):
        return
    start = time.perf_counter()
    print(f"Setting up {VENV} (once; a minute or two) ...", flush=True)
    if not same_base:
        make_venv()
        pip("install", "-c", CONSTRAINTS, "setuptools")
        install_torch()
    print("Installing Vitrail and what it needs ...", flush=True)
    wanted = sorted({*extras, *(stamp["extras"] if same_base else ())})
    group = f"[{','.join(wanted)}]" if wanted else ""
    pip("install", "-c", CONSTRAINTS, "--no-build-isolation", "-e", f"{ROOT}{group}")
    STAMP.write_text(json.dumps({"base": base, "versions": versions, "extras": wanted}))
    print(f"Set up in {time.perf_counter() - start:.0f} s.", flush=True)


def fingerprint_of_base() -> str:
    """Changes with this Python, with torch, and with the folder (a moved .venv does not work): start anew."""
    return fingerprint(sys.version, sys.executable, str(ROOT), torch_pin())


def fingerprint_of_versions() -> str:
    """Changes with what is asked for: install again into the .venv that is there."""
    return fingerprint(*((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", CONSTRAINTS.name)))


def fingerprint(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def torch_pin() -> str:
    return next(line.strip() for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def make_venv() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            f"{sys.executable} cannot make virtual environments: its ensurepip module is missing. "
            "On Debian or Ubuntu: apt install python3-venv. Or run dev.py with another Python (3.10 or newer)."
        )
    if VENV.exists():
        shutil.rmtree(VENV)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    import ensurepip

    if tuple(int(part) for part in ensurepip.version().split(".")[:2]) < OLDEST_PIP:
        pip("install", "--upgrade", "pip")


def install_torch() -> None:
    """The pinned torch as pip's own settings find it: a CPU build where one is at hand."""
    torch = torch_pin()
    if brings_cuda(torch):
        print(
            f"pip finds only a build of {torch} with CUDA, several GB. To take a smaller one, stop here (Ctrl-C), "
            "point PIP_FIND_LINKS or PIP_INDEX_URL at a place that has a CPU build, and call this again.",
            flush=True,
        )
    print(f"Installing {torch} ...", flush=True)
    pip("install", torch)


def brings_cuda(requirement: str) -> bool:
    """Whether what pip would install for this requirement pulls in CUDA packages."""
    if not sys.platform.startswith("linux"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--no-deps", "--ignore-installed", "--report", report, requirement)
        found = json.loads(report.read_text())["install"]
    needs = [need for item in found for need in item["metadata"].get("requires_dist", ())]
    return any(need.startswith(("nvidia-", "cuda-")) for need in needs)


def pip(*arguments: object) -> None:
    command = [BIN / "python", "-m", "pip", "--disable-pip-version-check", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def fail(message: str) -> int:
    print(f"dev.py: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
