"""Runs every check of host_checks.py in a ComfyUI that is on this machine; see host_server.py for the variables."""

from collections.abc import Iterator

import pytest
from host_checks import CHECKS
from host_rig import Host, NotHere, running_host
from host_server import Places

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if (places := Places.from_environment()) is None:
        pytest.skip("COMFYUI_DIR is not set")
    with running_host(places, tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.mark.parametrize("title", CHECKS)
def test_in_the_host(host: Host, title: str) -> None:
    try:
        CHECKS[title](host)
    except NotHere as reason:
        pytest.skip(str(reason))
