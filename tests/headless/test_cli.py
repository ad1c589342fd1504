"""The command line: what goes to stdout and stderr, and with which exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import Canvas, fake_classes
from golden_cases import case

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import save_model
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.headless import run as runner
from vitrail.headless.cli import main

TINY: dict[str, Any] = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (), "z_channels": 4}
PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "2": {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 0.5}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "small"}},
}


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 6), "red").save(tmp_path / "x.png")
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(PICTURE))
    return file


def test_run_prints_its_files_and_nothing_else(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workflow.parent / "out"
    assert main(["run", str(workflow), "--output", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out / "small_00001_.png")] and (out / "small_00001_.png").is_file()
    assert "[3/3] SaveImage #3" in said.err


def test_run_takes_its_own_pictures_again(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workflow.parent / "out"
    assert main(["run", str(workflow), "--output", str(out)]) == 0
    again = ["run", str(out / "small_00001_.png"), "--output", str(out), "--input", str(workflow.parent)]
    assert main([*again, "--set", "2.scale_by=2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("small_00002_.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("3.filename_prefix", "../x"), "leads out"),
        (("2.scale_by", "9"), "outside 0.01 to 8.0"),
        (("1.image", "none.png"), "no file 'none.png'"),
    ],
)
def test_what_cannot_run_is_one_line(
    workflow: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: str
) -> None:
    status = main(["run", str(workflow), "--output", str(workflow.parent / "out"), "--set", "=".join(change)])
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if not line.startswith("[")]
    assert line.startswith("vitrail: ") and words in line and not said.out
    assert status == (1 if "prefix" in change[0] else 2), "2 for what is known before anything runs"


@pytest.mark.parametrize("name", ["missing.json", "missing.safetensors"])
def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = "run" if name.endswith("json") else "inspect"
    assert main([command, str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "trace"),
    [(ConfigError("set it right"), 1, False), (CheckpointError("cut short"), 2, False), (RuntimeError("why"), 1, True)],
)
def test_a_node_that_fails(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    trace: bool,
) -> None:
    """One line for what was foreseen, the whole trace for what was not; a wrong file is wrong input."""
    classes = fake_classes()

    class Broken(classes["Number"]):
        def execute(self, value: int) -> None:
            raise error

    monkeypatch.setattr(runner, "all_classes", lambda: {**classes, "Number": Broken})
    canvas = Canvas().node(1, "Number", [7], outputs="INT").node(2, "Sink", inputs="source:*").link(1, 0, 2, "source")
    (tmp_path / "w.json").write_text(json.dumps(canvas.data()))
    assert main(["run", str(tmp_path / "w.json")]) == status
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "vitrail: Number #1: " + " ".join(str(error).split())
    assert (len(lines) > 1) is trace


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_ends_cleanly(tmp_path: Path) -> None:
    """Ctrl-C while a node works: one line, exit status 130."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job inherits it ignored
        "from vitrail.headless import run\n"
        "from vitrail.headless.cli import main\n"
        "class Slow:\n"
        "    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), 'execute', True\n"
        "    @classmethod\n"
        "    def INPUT_TYPES(cls): return {}\n"
        "    def execute(self): print('working', flush=True); time.sleep(60)\n"
        "run.all_classes = lambda: {'Slow': Slow}\n"
        "sys.exit(main(['run', sys.argv[1]]))\n"
    )
    (tmp_path / "w.json").write_text('{"1": {"class_type": "Slow", "inputs": {}}}')
    command = [sys.executable, script, tmp_path / "w.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "working\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read().splitlines() == ["vitrail: interrupted"]


def test_inspect_describes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Autoencoder(AutoencoderConfig(**TINY, embed_dim=3, bottleneck=VQConfig(codes=16, dim=3)))
    save_model(model, tmp_path / "tiny.safetensors")
    assert main(["inspect", str(tmp_path / "tiny.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "vitrail-autoencoder" in text and "health      sound" in text
    assert main(["inspect", "--json", str(tmp_path / "tiny.safetensors")]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["family"], found["codebook"]["codes"]) == ("vitrail-autoencoder", 16)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_inspect_finds_a_sick_codebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Autoencoder(AutoencoderConfig(**TINY, embed_dim=3, bottleneck=VQConfig(codes=16, dim=3)))
    weight = model.quantize.get_parameter("embedding.weight").data
    weight[1] = weight[0]
    save_model(model, tmp_path / "sick.safetensors")
    assert main(["inspect", str(tmp_path / "sick.safetensors")]) == 0
    assert "copies of others" in capsys.readouterr().out


def test_inspect_refuses_weights_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Autoencoder(AutoencoderConfig(**TINY, embed_dim=3, bottleneck=VQConfig(codes=16, dim=3)))
    model.decoder.conv_in.weight.data[0, 0, 0, 0] = float("nan")
    save_model(model, tmp_path / "nan.safetensors")
    assert main(["inspect", str(tmp_path / "nan.safetensors")]) == 2
    assert "1 tensors: decoder.conv_in.weight" in capsys.readouterr().err


def test_inspect_of_a_continuous_latent_has_no_codebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Autoencoder(AutoencoderConfig(**TINY, embed_dim=4, double_z=True, bottleneck=KLConfig()))
    save_model(model, tmp_path / "kl.safetensors")
    assert main(["inspect", "--json", str(tmp_path / "kl.safetensors")]) == 0
    assert "codebook" not in json.loads(capsys.readouterr().out)[0]


def test_inspect_refuses_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.ckpt").write_text("hello")
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "x.json", "--device", "abacus"]])
def test_a_wrong_command_line_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: vitrail" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "vitrail", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vitrail ")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_text_is_shown(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / b"m\xff\x1b[2J.ckpt".decode("utf-8", "surrogateescape")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes only text for names")
    path.write_bytes((case("rrdb_new_x2").path / "model.pth").read_bytes())
    command = [sys.executable, "-m", "vitrail", "inspect", str(path)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    said = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (said.returncode, said.stderr) == (0, b"") and b"m\\udcff\\x1b[2J.ckpt" in said.stdout
