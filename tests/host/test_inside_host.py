"""Runs the checks of inside_host.py in the ComfyUI of COMFYUI_DIR with the Python of COMFYUI_VENV."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inside_host import CHECKS

SCRIPT = Path(__file__).with_name("inside_host.py")
PACK = SCRIPT.parents[2]

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    if not (checkout := os.environ.get("COMFYUI_DIR")):
        pytest.skip("COMFYUI_DIR is not set")
    venv = os.environ.get("COMFYUI_VENV")
    python = Path(venv, "bin", "python") if venv else sys.executable
    command = [str(python), str(SCRIPT), str(PACK)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_inside_the_host(results: dict[str, Any], name: str) -> None:
    assert "error" not in results[name], results[name]["error"]
