"""Whole runs: a file in, nodes run once each, files and messages out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import Canvas, fake_classes
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitrail.core.errors import WorkflowError
from vitrail.headless.execute import NodeFailure, execute
from vitrail.headless.progress import Progress
from vitrail.headless.prompt import from_api
from vitrail.headless.run import input_folders, read_workflow, run_workflow


@pytest.fixture
def classes() -> dict[str, Any]:
    return fake_classes()


def sampling() -> Canvas:
    canvas = Canvas().node(1, "Loader", ["vitrail-1"], outputs="MODEL").node(3, "Sink", inputs="source:*")
    canvas.node(2, "Sampler", [2.0, 5, "fixed", "euler", True, ""], inputs="model:MODEL seed!:INT", outputs="STRING")
    return canvas.link(1, 0, 2, "model").link(2, 0, 3, "source")


def run(tmp_path: Path, data: Any, classes: dict[str, Any], *settings: str) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(data))
    run_workflow(file, settings=settings, output=tmp_path / "out", classes=classes)


API = {
    "1": {"class_type": "Loader", "inputs": {"name": "vitrail-1"}},
    "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "cfg": 2.0, "seed": 5, "solver": "euler"}},
    "3": {"class_type": "Sink", "inputs": {"source": ["2", 0]}},
}


@pytest.mark.parametrize("data", [sampling().data(), API, {"prompt": API}], ids=["graph", "prompt", "request"])
def test_every_format_runs(tmp_path: Path, data: Any, classes: dict[str, Any]) -> None:
    run(tmp_path, data, classes)
    assert classes["Sink"].kept == ["euler 5"]
    assert classes["Sampler"].ran[0]["model"] == "model vitrail-1"


def test_a_png_that_carries_a_workflow_runs(tmp_path: Path, classes: dict[str, Any]) -> None:
    info = PngInfo()
    info.add_text("prompt", json.dumps(API))
    info.add_text("workflow", json.dumps(sampling().data()))
    Image.new("RGB", (4, 4)).save(tmp_path / "made.png", pnginfo=info)
    run_workflow(tmp_path / "made.png", output=tmp_path, classes=classes)
    assert classes["Sink"].kept == ["euler 5"]
    assert read_workflow(tmp_path / "made.png", classes).graph == sampling().data()


def test_a_node_wanted_twice_runs_once(tmp_path: Path, classes: dict[str, Any]) -> None:
    canvas = sampling().node(4, "Sink", inputs="source:*").link(2, 0, 4, "source")
    run(tmp_path, canvas.data(), classes)
    assert (len(classes["Sampler"].ran), classes["Sink"].kept) == (1, ["euler 5", "euler 5"])


@pytest.mark.parametrize("node", ["2", "Sampler"])
def test_set_changes_a_value(tmp_path: Path, classes: dict[str, Any], node: str) -> None:
    run(tmp_path, sampling().data(), classes, f"{node}.seed=77", f"{node}.solver=heun", f"{node}.note=a=b.c")
    assert classes["Sink"].kept == ["heun 77"]
    assert classes["Sampler"].ran[0]["note"] == "a=b.c"


@pytest.mark.parametrize(("word", "value"), [("false", False), ("0", False), ("Off", False), ("1", True)])
def test_set_takes_the_usual_words_for_yes_and_no(
    tmp_path: Path, classes: dict[str, Any], word: str, value: bool
) -> None:
    run(tmp_path, sampling().data(), classes, f"2.add_noise={word}")
    assert classes["Sampler"].ran[0]["add_noise"] is value


def test_set_cuts_a_line_and_shows_in_the_saved_graph(tmp_path: Path, classes: dict[str, Any]) -> None:
    seen: list[Any] = []

    class Watcher(classes["Sink"]):
        def execute(self, source: Any, me: str, extra: Any) -> None:
            seen.append(extra["workflow"])

    canvas = sampling().node(8, "Number", [9], outputs="INT").link(8, 0, 2, "seed")
    run(tmp_path, canvas.data(), {**classes, "Sink": Watcher}, "2.seed=77")
    (graph,) = seen
    changed = next(node for node in graph["nodes"] if node["id"] == 2)
    assert changed["widgets_values"] == [2.0, 77, "fixed", "euler", True, ""]
    assert changed["inputs"][1]["link"] is None and [line[0] for line in graph["links"]] == [1, 2]
    assert next(node for node in graph["nodes"] if node["id"] == 8)["outputs"][0]["links"] == []
    assert classes["Sampler"].ran[0]["seed"] == 77
    assert canvas.nodes[2]["widgets_values"][1] == 5, "what was read is not changed"


def test_set_inside_a_subgraph_leaves_the_graph_out(tmp_path: Path, classes: dict[str, Any]) -> None:
    inside = Canvas(objects=True).node(7, "Number", [1], outputs="INT")
    canvas = Canvas().subgraph("one", inside.leave(7, 0, 0), outputs="n:INT").node(2, "one", outputs="n:INT")
    canvas.node(3, "Sink", inputs="source:*").link(2, 0, 3, "source")
    run(tmp_path, canvas.data(), classes, "2:7.value=42")
    assert classes["Sink"].kept == [42]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed=1", "expected NODE.INPUT=VALUE"),
        ("2.seed", "expected NODE.INPUT=VALUE"),
        ("9.seed=1", "no node 9"),
        ("2.sed=1", "the values of Sampler are cfg, seed"),
        ("2.model=1", "the values of Sampler are cfg, seed"),
        ("Sink.source=1", "2 nodes are called Sink"),
        ("2.seed=often", "seed is 'often', expected INT"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, classes: dict[str, Any], setting: str, words: str) -> None:
    canvas = sampling().node(4, "Sink", inputs="source:*").link(2, 0, 4, "source")
    with pytest.raises(WorkflowError, match=words):
        run(tmp_path, canvas.data(), classes, setting)
    assert not classes["Sampler"].ran, "nothing runs once something is wrong"


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "{}", '{"nodes": 3}', '{"a": 1}'])
def test_files_that_are_no_workflow(tmp_path: Path, classes: dict[str, Any], text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(WorkflowError):
        read_workflow(file, classes)


@pytest.mark.parametrize("name", ["missing.json", "missing.png", "."])
def test_files_that_cannot_be_read(tmp_path: Path, classes: dict[str, Any], name: str) -> None:
    with pytest.raises(WorkflowError, match=r"missing|directory"):
        read_workflow(tmp_path / name, classes)


def test_a_failure_names_its_node(classes: dict[str, Any]) -> None:
    class Broken(classes["Loader"]):
        def execute(self, name: str) -> None:
            raise RuntimeError("no such thing")

    with pytest.raises(NodeFailure, match="Loader #1") as caught:
        execute(from_api(API), ["1", "2", "3"], {**classes, "Loader": Broken})
    assert str(caught.value.__cause__) == "no such thing"


def test_results_are_dropped_once_nobody_needs_them(classes: dict[str, Any]) -> None:
    alive: set[int] = set()

    class Tracked:
        def __init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    class Heavy(classes["Loader"]):
        def execute(self, name: str) -> tuple[Tracked]:
            return (Tracked(),)

    class Light(classes["Sampler"]):
        def execute(self, **inputs: Any) -> tuple[str]:
            return ("light",)

    class Watcher(classes["Sink"]):
        def execute(self, source: Any, me: str, extra: Any) -> None:
            assert not alive

    execute(from_api(API), ["1", "2", "3"], {**classes, "Loader": Heavy, "Sampler": Light, "Sink": Watcher})


def test_progress_off_a_terminal_is_a_line_a_node(classes: dict[str, Any]) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step(1, 5)
    execute(from_api(API), ["1", "2", "3"], classes, titles={"Sampler": "The Sampler"}, progress=progress)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[1/3] Loader #1") and lines[1].startswith("[2/3] The Sampler #2")
    assert lines[3] == "Sink #3: 3: euler 5"


def test_progress_on_a_terminal_shows_steps(classes: dict[str, Any]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream)
    with progress.node("Sampling", 1, 1):
        for value in range(1, 5):
            progress.step(value, 4)
        assert progress.bar is not None and (progress.bar.n, progress.bar.total) == (4, 4)
    assert progress.bar is None and "Sampling: " in stream.getvalue()


def test_where_pictures_are_looked_for(tmp_path: Path) -> None:
    workflow, examples = tmp_path / "w.json", tmp_path / "examples"
    assert input_folders(workflow, tmp_path / "mine", examples) == [tmp_path / "mine"]
    assert input_folders(workflow, None, examples)[:3] == [tmp_path, tmp_path / "input", examples]
