"""What is installed is what is there, and the folder loads as ComfyUI loads it."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PARTS = ("core", "headless", "nodes")
SHIPPED = ("core/assets", "web", "locales", "example_workflows")
PLAIN = ("__init__.py", "__main__.py", "pyproject.toml", "README.md", "LICENSE")


def subpackages() -> set[str]:
    inits = (file for part in PARTS for file in (ROOT / part).rglob("__init__.py"))
    return {".".join(("vitrail", *file.parent.relative_to(ROOT).parts)) for file in inits}


def shipped_files() -> set[str]:
    found = (file for folder in SHIPPED for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in found if "__pycache__" not in file.parts}


def test_every_subpackage_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {"vitrail", *subpackages()}


def test_every_folder_with_python_is_a_package() -> None:
    folders = {file.parent for part in PARTS for file in (ROOT / part).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_nothing_is_needed_that_comfyui_does_not_have() -> None:
    names = {line.split(">")[0] for line in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "numpy", "einops", "safetensors", "pillow", "tqdm"}


def test_the_node_pack_is_described_for_comfyui() -> None:
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(PROJECT["tool"]["comfy"])
    assert "web" not in PROJECT["tool"]["comfy"], "WEB_DIRECTORY says it"
    assert "comfyui" not in PROJECT["project"]["name"].lower()


def test_exact_versions_lie_within_the_floors() -> None:
    from packaging.requirements import Requirement

    groups = PROJECT["project"]["optional-dependencies"].values()
    asked = [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *groups) for line in lines]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for need in asked:
        versions = [str(pin.specifier).removeprefix("==") for pin in pins if pin.name == need.name]
        assert versions and all(need.specifier.contains(version) for version in versions), need


def test_the_console_script_is_installed() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="vitrail")
    assert callable(script.load())


LOADER = """
import importlib.util, sys, time
import torch
path = sys.argv[1]
name = path.replace(".", "_x_")
start = time.process_time()
spec = importlib.util.spec_from_file_location(name, path + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
milliseconds = (time.process_time() - start) * 1000
own = {key for key in sys.modules if key.split(".")[0] in ("vitrail", "nodes", "core", "headless")}
assert not own, own
assert set(vars(module)) >= {"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"}
assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
assert {key for key in vars(module) if key.isupper()} == {key for key in module.__all__}
for node in module.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
print(len(module.NODE_CLASS_MAPPINGS), milliseconds)
"""


@pytest.fixture
def oddly_named(tmp_path: Path) -> Path:
    """What a person puts into custom_nodes, in a folder whose name is no identifier."""
    target = tmp_path / "x-y.z"
    for name in (*PARTS, *SHIPPED):
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, ignore=ignore, dirs_exist_ok=True)
    for name in PLAIN:
        shutil.copy(ROOT / name, target)
    return target


def test_the_folder_loads_by_its_path(oddly_named: Path) -> None:
    """As ComfyUI does it: under a name made of the path, away from sys.path, without an installed Vitrail."""
    command = [sys.executable, "-c", LOADER, oddly_named]
    for _ in range(2):  # the second time from compiled files, as in any start but the first
        done = subprocess.run(command, cwd=oddly_named.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    count, milliseconds = done.stdout.split()
    assert int(count) > 0
    assert float(milliseconds) < 250, "an import that heavy slows the host's start; alone it takes less than 50 ms"


@pytest.mark.slow
def test_a_wheel_holds_everything(oddly_named: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path]
    subprocess.run([*build, oddly_named], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {f"vitrail/{file}" for file in shipped_files()} <= names
    assert {name.split("/")[0] for name in names} == {"vitrail", wheel.name.split("-py3")[0] + ".dist-info"}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-m", "vitrail", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "run a workflow" in done.stdout
