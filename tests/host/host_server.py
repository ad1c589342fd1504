"""Starts a ComfyUI that is already on this machine with this pack linked into it; downloads and builds nothing.

COMFYUI_DIR           folder of the ComfyUI checkout
COMFYUI_VENV          its virtual environment (default: the Python that runs this)
VITRAIL_NODE_MODULES  folder `node_modules` that holds playwright-core (for the checks in a browser)
VITRAIL_FRONTEND      folder `static` of another comfyui-frontend-package, checked beside the host's own
VITRAIL_CHROMIUM      the browser (default: the first of chromium, chromium-browser, google-chrome on the PATH)
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
LINK_NAME = "x-y.1"  # no identifier, and a dot: nothing may depend on the folder's name
MODEL_FOLDERS = ("checkpoints", "vae", "vae_approx", "loras", "diffusion_models", "text_encoders", "controlnet",
                 "configs", "embeddings", "clip_vision", "style_models", "upscale_models")  # fmt: skip


class HostError(RuntimeError):
    """The host did not start, or it died."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """What this machine has of a real host."""

    comfyui: Path
    python: Path
    node_modules: Path | None = None
    chromium: Path | None = None
    frontend: Path | None = None

    @classmethod
    def from_environment(cls) -> Places | None:
        """Return the places, None where COMFYUI_DIR is not set."""
        if not (checkout := os.environ.get("COMFYUI_DIR")):
            return None
        venv = os.environ.get("COMFYUI_VENV")
        modules = os.environ.get("VITRAIL_NODE_MODULES")
        names = (os.environ.get("VITRAIL_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
        browser = next((found for name in names if name and (found := shutil.which(name))), None)
        return cls(
            comfyui=Path(checkout).resolve(),
            python=Path(venv, "bin", "python").absolute() if venv else Path(sys.executable),
            node_modules=Path(modules).resolve() if modules and Path(modules, "playwright-core").is_dir() else None,
            chromium=Path(browser) if browser else None,
            frontend=Path(other).resolve() if (other := os.environ.get("VITRAIL_FRONTEND")) else None,
        )

    @property
    def browser(self) -> bool:
        """True where the checks in a browser can run."""
        return bool(self.node_modules and self.chromium and shutil.which("node"))


def free_port() -> int:
    """Return a port that nobody uses; two that ask at once are told different ones."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(kw_only=True)
class Server:
    """One ComfyUI process on loopback with a base folder of its own; a context manager that ends it.

    base: scratch folder for custom_nodes, models, input, output, temp and user.
    Raises: HostError when the process dies, is not ready within `limit` seconds, or says that the pack failed.
    """

    places: Places
    base: Path
    port: int = field(default_factory=free_port)
    limit: float = 180.0
    extra: tuple[str, ...] = ("--cpu",)
    process: subprocess.Popen[bytes] | None = None
    boot_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything the host has written so far."""
        return (self.base / "server.log").read_text(errors="replace")

    def prepare(self) -> None:
        """Make the base folder and link the pack into it; safe to call twice."""
        for name in ("input", "output", "temp", "user", "custom_nodes", *(f"models/{n}" for n in MODEL_FOLDERS)):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / LINK_NAME
        if not link.is_symlink():
            link.symlink_to(PACK, target_is_directory=True)

    def __enter__(self) -> Server:
        self.prepare()
        started = time.perf_counter()
        with (self.base / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.places.comfyui, env=self.environment(), stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        self.boot_seconds = time.perf_counter() - started
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def command(self) -> list[str]:
        return [
            str(self.places.python), "main.py", "--listen", "127.0.0.1", "--port", str(self.port),
            "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto",
            "--base-directory", str(self.base), "--database-url", f"sqlite:///{self.base}/user/comfyui.db", *self.extra,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **quiet}

    def wait(self) -> None:
        """Return when the server answers."""
        assert self.process is not None
        end = time.monotonic() + self.limit
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise HostError(f"the host died:\n{self.log[-3000:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        else:
            raise HostError(f"the host is not ready after {self.limit:.0f} s:\n{self.log[-3000:]}")
        if "IMPORT FAILED" in self.import_line:
            raise HostError(f"the host could not import the pack:\n{self.log[-6000:]}")

    @property
    def import_line(self) -> str:
        """The line of the host's log that tells how long this pack took to import."""
        lines = re.findall(r"^.*seconds.*custom_nodes/.*$", self.log, flags=re.MULTILINE)
        return next((line for line in lines if line.endswith(LINK_NAME)), "")

    @property
    def import_seconds(self) -> float:
        """What that line says, in seconds; the host rounds it to a tenth."""
        return float(self.import_line.split()[0])
