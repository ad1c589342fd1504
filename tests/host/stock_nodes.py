"""Tries every pair of stock_pairs.py in a real host and writes docs/stock-nodes.md.

COMFYUI_DIR=.. COMFYUI_VENV=.. python tests/host/stock_nodes.py [--only WORDS] [--output FILE]
Exit status 1 when a pair does not work.
"""

from __future__ import annotations

import sys
from datetime import datetime
from itertools import groupby

from host_rig import Host
from report import Row, make, publish, wanted
from stock_left_out import LEFT_OUT, untried
from stock_pairs import PAIRS


def tried(host: Host, only: str) -> list[Row]:
    """What came of each pair."""
    return [
        make(name, lambda host, name=name, form=form, inputs=inputs: form(host, kind_of(name), inputs), host, group)
        for group, pairs in PAIRS.items()
        for name, form, inputs in pairs
        if wanted(name, only)
    ]


def kind_of(name: str) -> str:
    """The node that a row is about: "SplitSigmas (low)" is one of SplitSigmas."""
    return name.split(" (")[0].split(",")[0]


def render(rows: list[Row], host: Host, day: datetime) -> str:
    """The page in Markdown."""
    lines = [
        "# Stock nodes with ours",
        "",
        "Written by `tests/host/stock_nodes.py`: each row is a graph that was run in the host, on CPU with"
        f" `{host.diffusion}`; ComfyUI {host.version}, {day:%Y-%m-%d}."
        f" {sum(row.result == 'passes' for row in rows)} of {len(rows)} work.",
    ]
    for group, members in groupby(rows, lambda row: row.group):
        lines += ["", f"## {group}", "", "| stock node | result | what was seen |", "|---|---|---|"]
        lines += [
            f"| {row.title} | {'works' if row.result == 'passes' else row.result} | {row.figures} |" for row in members
        ]
    lines += ["", "## Not tried", "", "| names with | why |", "|---|---|"]
    lines += [f"| {', '.join(words)} | {reason} |" for reason, words in LEFT_OUT.items()]
    if rest := untried(host.info):
        lines.append(f"| {', '.join(rest)} | not looked at yet |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(publish(__doc__ or "", "stock-nodes.md", tried, render))
