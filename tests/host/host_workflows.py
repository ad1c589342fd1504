"""Checks of the example workflows: in the host's page, by the host's API, and without the host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from host_browser import PageResult, browse
from host_rig import WORKFLOWS, Host, NotHere, add_inputs, read_picture, worst
from host_server import LINK_NAME, free_port


def saved(host: Host, page: PageResult) -> list[Path]:
    """The pictures that the SaveImage nodes of a run wrote, in order of node and number."""
    nodes = sorted((n for n in page.outputs if page.api[n]["class_type"] == "SaveImage"), key=int)
    return [host.client.file(entry) for node in nodes for entry in page.outputs[node]["images"]]


def played(host: Host, workflow: Path) -> PageResult:
    """The workflow opened in the page and run there, once for all checks."""
    host.require_browser()
    if workflow not in host.pages:
        host.pages[workflow] = browse(host.server, workflow=workflow, queue=True)
    return host.pages[workflow].succeeded()


def opens_and_runs(host: Host, workflow: Path) -> str:
    page = played(host, workflow)
    assert not page.dialogs, page.dialogs
    assert not page.console, f"the page complained: {page.console[:3]}"
    return f"{len(page.types)} node types, none missing; {len(saved(host, page))} pictures; the page logged no error"


def run_headless(workflow: Path, folder: Path) -> list[Path]:
    """The pictures that `vitrail run` saves, sorted by name."""
    command = [sys.executable, "-m", "vitrail", "run", str(workflow), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    return sorted(folder.rglob("*.png"))


def label(path: Path) -> str:
    """The prefix that the workflow gives a picture: its name without the running number."""
    return re.sub(r"_\d+_?$", "", path.stem)


def host_equals_headless(host: Host, workflow: Path) -> str:
    page = played(host, workflow)
    with TemporaryDirectory() as folder:
        ours, theirs = run_headless(workflow, Path(folder)), sorted(saved(host, page))
        names = [label(path) for path in theirs]
        assert names and names == [label(path) for path in ours if label(path) in names], (theirs, ours)
        pairs = zip(theirs, [path for path in ours if label(path) in names], strict=True)
        differences = [worst(read_picture(a), read_picture(b)) for a, b in pairs]
    assert max(differences) <= 1, f"they differ by {differences}, of 255"
    return f"{len(differences)} pictures, largest difference {max(differences):.0f}/255"


def essence(ui: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """What a graph is, apart from where its nodes stand."""
    return sorted((str(n["id"]), n["type"], json.dumps(n.get("widgets_values"))) for n in ui["nodes"])


def picture_restores_graph(host: Host, workflow: Path) -> str:
    page = played(host, workflow)
    files = saved(host, page)
    if not files:
        raise NotHere("this workflow saves no picture")
    assert essence(browse(host.server, image=files[0]).opened().ui) == essence(page.ui), "the host's picture"
    with TemporaryDirectory() as folder:
        ours = browse(host.server, image=run_headless(workflow, Path(folder))[0]).opened()
    assert essence(ours.ui) == essence(page.ui), "the picture of `vitrail run`"
    return f"{len(page.ui['nodes'])} nodes and their values come back, from the host's picture and from ours"


def runs_in_another_frontend(host: Host) -> str:
    """Every workflow in the frontend of VITRAIL_FRONTEND, nodes drawn on the canvas and as Vue components."""
    host.require_browser()
    if (root := host.server.places.frontend) is None:
        raise NotHere("VITRAIL_FRONTEND is not set")
    if not (workflows := sorted(WORKFLOWS.glob("*.json"))):
        raise NotHere("there is no example workflow")
    figures, frontend = [], ""
    with TemporaryDirectory(prefix="vitrail-frontend-") as base:
        server = replace(host.server, base=Path(base), port=free_port(), process=None)
        server.extra += ("--front-end-root", str(root))
        server.prepare()
        add_inputs(Path(base) / "input")
        with server:
            for workflow, vue in product(workflows, (False, True)):
                page = browse(server, workflow=workflow, queue=True, vue=vue).succeeded()
                ours = [line for line in page.console if LINK_NAME in line or "itrail" in line]
                assert not ours, f"the page complained: {ours[:3]}"  # it also asks an older server for what it lacks
                figures.append(f"{workflow.stem} {'as Vue nodes' if vue else 'on the canvas'}")
                frontend = page.frontend
    return f"frontend {frontend}: {', '.join(figures)}"


def checks_of(workflow: Path) -> dict[str, Callable[[Host], str]]:
    name = workflow.stem
    return {
        f"`{name}` opens in the browser and runs": partial(opens_and_runs, workflow=workflow),
        f"`{name}`: host and headless pictures agree to 1/255": partial(host_equals_headless, workflow=workflow),
        f"`{name}`: a saved picture restores the graph": partial(picture_restores_graph, workflow=workflow),
    }


WORKFLOW_CHECKS = {
    **{title: check for workflow in sorted(WORKFLOWS.glob("*.json")) for title, check in checks_of(workflow).items()},
    "the workflows open and run in another frontend": runs_in_another_frontend,
}
