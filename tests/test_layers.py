"""Who may import whom: the host only in nodes/host_*.py, the core only its few libraries, and downwards only."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("core", "headless", "nodes")
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
HOST |= {"node_helpers", "nodes", "server"}
CORE_LIBRARIES = {"torch", "numpy", "einops", "safetensors", "PIL"}
FILES = [ROOT / "__init__.py", ROOT / "__main__.py", *(file for part in PARTS for file in (ROOT / part).rglob("*.py"))]


def absolute_imports(source: str) -> Iterator[str]:
    """First names of the absolute imports, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_from_outside(file: Path) -> None:
    found = set(absolute_imports(file.read_text(encoding="utf-8")))
    assert "vitrail" not in found, "the folder may be loaded under any name: import relatively"
    if not (file.parent == ROOT / "nodes" and file.name.startswith("host")):
        assert not found & HOST, "only nodes/host_*.py may import ComfyUI"
    if file.is_relative_to(ROOT / "core"):
        assert found <= CORE_LIBRARIES | set(sys.stdlib_module_names)


def test_imports_inside_functions_are_seen() -> None:
    assert list(absolute_imports("def f():\n    import comfy.sd\n    from .nodes import x\n")) == ["comfy"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package's Python files in a folder of their own."""
    for file in FILES:
        target = tmp_path / "vitrail" / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path / "vitrail"


def test_the_layers_hold(package: Path) -> None:
    done = lint_imports(package.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/types.py", "from ..nodes import NODE_CLASS_MAPPINGS"),
        ("core/nn/pad.py", "from ..samplers import run"),
        ("core/bottlenecks/vq.py", "from .. import checkpoints"),
        ("nodes/__init__.py", "from ..headless import cli"),
    ],
)
def test_a_step_upwards_is_found(package: Path, file: str, line: str) -> None:
    with (package / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    done = lint_imports(package.parent)
    assert done.returncode != 0 and "BROKEN" in done.stdout


def test_a_new_folder_in_core_needs_a_place(package: Path) -> None:
    (package / "core" / "novelty").mkdir()
    (package / "core" / "novelty" / "__init__.py").touch()
    done = lint_imports(package.parent)
    assert done.returncode != 0 and "vitrail.core.novelty" in done.stdout
