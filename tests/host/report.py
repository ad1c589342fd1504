"""Makes every check of host_checks.py in a real host and writes docs/host-report.md.

COMFYUI_DIR=.. COMFYUI_VENV=.. VITRAIL_NODE_MODULES=.. python tests/host/report.py [--only WORDS] [--output FILE]
Exit status 1 when a check failed.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from host_checks import CHECKS, Check
from host_rig import Host, NotHere, running_host
from host_server import PACK, Places


@dataclass(frozen=True)
class Row:
    title: str
    result: str
    figures: str
    seconds: float
    group: str = ""


Rows = Callable[[Host, str], list[Row]]


def make(title: str, check: Check, host: Host, group: str = "") -> Row:
    """Make one check; a failure is a row, not an end."""
    started = time.perf_counter()
    try:
        result, figures = "passes", check(host)
    except NotHere as reason:
        result, figures = "left out", str(reason)
    except Exception as error:  # the report must name every failure
        traceback.print_exc()
        result, figures = "FAILS", f"{type(error).__name__}: {error}"
    row = Row(title, result, " ".join(figures.split())[:1500].replace("|", "\\|"), time.perf_counter() - started, group)
    print(f"{row.result:9} {row.seconds:6.1f} s  {row.title}: {row.figures}", flush=True)
    return row


def render(rows: list[Row], host: Host, day: datetime) -> str:
    """The page in Markdown."""
    system = host.client.get("/system_stats")["system"]
    frontend = next((page.frontend for page in host.pages.values()), system.get("required_frontend_version", "unknown"))
    passed = sum(row.result == "passes" for row in rows)
    lines = [
        "# Vitrail in a real host",
        "",
        "Written by `tests/host/report.py`; each row is a function of `host_checks.py` or of what it joins there.",
        "",
        f"- Date: {day:%Y-%m-%d}; Vitrail {version('vitrail')}",
        f"- Host: ComfyUI {host.version}, frontend {frontend}, torch {system['pytorch_version']},"
        f" Python {system['python_version'].split()[0]}, {platform.machine()} CPU",
        f"- Models: diffusion `{host.diffusion}`, autoencoder `{host.autoencoder}`, refiner `{host.refiner}`",
        f"- Start of the host with the pack: {host.server.boot_seconds:.1f} s",
        f"- {passed} of {len(rows)} checks pass, {sum(row.result == 'FAILS' for row in rows)} fail,"
        f" {sum(row.result == 'left out' for row in rows)} left out",
        "",
        "| check | result | measured |",
        "|---|---|---|",
        *(f"| {row.title} | {row.result} | {row.figures} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def publish(about: str, page: str, rows: Rows, render: Callable[[list[Row], Host, datetime], str]) -> int:
    """Start a host, make the rows, write the page; 1 where a row failed.

    about: what `--help` says. page: its file in docs. rows: (host, words that a title must hold) -> rows.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--only", default="", help="words, parted by commas: only titles with one of them; no page")
    parser.add_argument("--output", type=Path, default=PACK / "docs" / page)
    options = parser.parse_args()
    if (places := Places.from_environment()) is None:
        parser.error("COMFYUI_DIR is not set; see tests/host/host_server.py")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the host ends too
    with TemporaryDirectory(prefix="vitrail-host-") as base, running_host(places, Path(base)) as host:
        made = rows(host, options.only)
        text = render(made, host, datetime.now(timezone.utc))
    if not options.only:
        options.output.write_text(text, encoding="utf-8")
        print(f"wrote {options.output}")
    return int(any(row.result == "FAILS" for row in made))


def wanted(title: str, only: str) -> bool:
    """Whether a title holds one of the words, which commas part."""
    return any(word in title for word in only.split(","))


def make_checks(host: Host, only: str) -> list[Row]:
    return [make(title, check, host) for title, check in CHECKS.items() if wanted(title, only)]


if __name__ == "__main__":
    sys.exit(publish(__doc__ or "", "host-report.md", make_checks, render))
