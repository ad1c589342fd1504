"""Opens a graph in the host's page, in a headless browser, and tells what the page saw."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_server import HostError, Server

DRIVER = Path(__file__).with_name("browser.mjs")


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """What the page saw.

    types: node types of the graph;  missing: those that the host lacks;  dialogs: texts of open dialogs.
    end: "" when it was not queued, else success, error, interrupted, rejected or timeout.
    outputs: node -> what it showed;  api, ui: the graph as the page exports it;  console: errors that the page logged.
    """

    frontend: str
    types: list[str]
    missing: list[str]
    dialogs: list[str]
    api: dict[str, dict[str, Any]]
    ui: dict[str, Any]
    console: list[str]
    end: str = ""
    error: str = ""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def opened(self) -> PageResult:
        assert not self.missing, f"missing nodes: {self.missing}"
        return self

    def succeeded(self) -> PageResult:
        self.opened()
        assert self.end == "success", f"{self.end}: {self.error}"
        return self


def browse(server: Server, **job: Any) -> PageResult:
    """Open `workflow` or `image` (paths), queue it where `queue` is true; see browser.mjs for the rest.

    Raises: HostError with the driver's words when the page could not be driven.
    """
    places = server.places
    settings = {"port": server.port, "modules": str(places.node_modules), "chromium": str(places.chromium), **job}
    command = ["node", str(DRIVER), json.dumps(settings, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise HostError(f"the browser failed: {done.stderr[-2000:]}")
    return PageResult(**json.loads(done.stdout))
