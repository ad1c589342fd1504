"""Refiners of other makers against spandrel itself. Needs the extra `peers` where spandrel takes part."""

from __future__ import annotations

import importlib.util
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail.core.checkpoints import load
from vitrail.core.checkpoints.families import FAMILIES
from vitrail.core.checkpoints.family import family_of
from vitrail.core.checkpoints.read import read_header
from vitrail.core.errors import CheckpointError, ConfigError, KeyMismatch, ShapeError, UnknownFamily, UnsafeFile
from vitrail.core.refine import Refiner
from vitrail.headless.examine import as_text, examine
from vitrail.nodes import host, spandrel_refiner
from vitrail.nodes.host_upscale import HostUpscaler
from vitrail.nodes.loaders import LoadRefiner
from vitrail.nodes.refine import GANRefine
from vitrail.nodes.spandrel_refiner import FACE, OtherRefiner

Pictures = Callable[..., Tensor]
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def spandrel() -> Any:
    """The package; at import it asks for names of torchvision, given here where that is not installed."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    missing = importlib.util.find_spec("torchvision") is None
    with pytest.MonkeyPatch.context() as patch:
        for name in names if missing else ():
            module = ModuleType(name)
            module.InterpolationMode = module.rotate = module.normalize = None  # type: ignore[attr-defined]
            patch.setitem(sys.modules, name, module)
        return pytest.importorskip("spandrel", reason='needs pip install "vitrail[peers]"')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that names are looked up in."""
    monkeypatch.setattr(host, "find", lambda name, kind: tmp_path / name)
    return tmp_path


def random_state(network: nn.Module) -> State:
    """Weights of a size that keeps numbers as large as they come in."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight[0].numel() ** -0.5 if weight.ndim > 1 else weight.round() + 0.1 * noise)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def swinir(**changes: Any) -> State:
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "mlp_ratio": 2, "img_size": 8}
    return random_state(SwinIR(**{**sizes, "upscale": 2, "upsampler": "nearest+conv", **changes}))


def compact(upscale: int = 4, channels: int = 3) -> State:
    from spandrel.architectures.Compact import Compact

    network = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=6, num_conv=2, upscale=upscale)
    return random_state(network)


def rrdb(scale: int = 4) -> State:
    """In the oldest layout."""
    from spandrel.architectures.ESRGAN import ESRGAN

    fold = {4: 1, 2: 2, 1: 4}[scale]
    network = ESRGAN(
        in_nc=3 * fold**2, out_nc=3, num_filters=8, num_blocks=2, scale=4, shuffle_factor=fold if fold > 1 else None
    )
    state = random_state(network)
    return state | {"model.10.bias": state["model.10.bias"] + 0.5}


def written(state: State, path: Path, wrapper: str | None = "params_ema") -> str:
    """A file of the state, as .safetensors or as torch writes it; its name."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save({wrapper: state} if wrapper else state, path)
    return path.name


def opened(name: str, dtype: str = "auto") -> OtherRefiner:
    refiner, upscaler = LoadRefiner().execute(name=name, dtype=dtype)
    assert upscaler is refiner
    return refiner


def refine(image: Tensor, refiner: Any, **changes: Any) -> Tensor:
    settings = {"scale": 0.0, "strength": 1.0, "fidelity": 0.5, "tile_size": 0}
    return GANRefine().execute(image=image, refiner=refiner, **{**settings, **changes})[0]


def theirs(spandrel: Any, state: State, image: Tensor) -> Tensor:
    """What spandrel makes of IMAGEs, one by one."""
    descriptor = spandrel.ModelLoader().load_from_state_dict(dict(state)).eval()
    return torch.cat([descriptor(one) for one in image.movedim(-1, 1).split(1)]).movedim(1, -1)


MADE = {
    "SwinIR x2": swinir,
    "SwinIR x3, pixel shuffle": lambda: swinir(upscale=3, upsampler="pixelshuffle"),
    "SwinIR x1": lambda: swinir(upscale=1, upsampler=""),
    "Compact x4": compact,
    "Compact x1": lambda: compact(1),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", MADE)
def test_the_picture_is_spandrels(spandrel: Any, folder: Path, pictures: Pictures, kind: str, ending: str) -> None:
    state, image = MADE[kind](), pictures(3, 18, 13)
    refiner = opened(written(state, folder / f"a{ending}"))
    expected = theirs(spandrel, state, image)
    assert refiner.scale == expected.shape[1] // 18 and not refiner.training
    assert expected.std() > 0.01 and (expected - expected[:1]).abs().max() > 0.01
    torch.testing.assert_close(refine(image, refiner), expected, atol=1e-5, rtol=0)
    by_stock = HostUpscaler(refiner)(image.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(by_stock, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrapper", [None, "params", "params-ema", "state_dict", "model_state_dict", "net"])
def test_weights_are_found_wherever_trainers_put_them(
    spandrel: Any, folder: Path, pictures: Pictures, wrapper: str | None
) -> None:
    state = compact()
    refiner = opened(written({f"module.{name}": tensor for name, tensor in state.items()}, folder / "a.pth", wrapper))
    torch.testing.assert_close(refine(pictures(), refiner), theirs(spandrel, state, pictures()), atol=1e-5, rtol=0)


def test_scale_strength_mask_and_alpha_are_gan_refines(spandrel: Any, folder: Path, pictures: Pictures) -> None:
    refiner = opened(written(compact(2), folder / "a.safetensors"))
    image = pictures(2, 20, 12, channels=4)
    found = refine(image, refiner, scale=3.0, strength=0.5)
    assert found.shape == (2, 60, 36, 4)
    mask = torch.zeros(20, 12)
    mask[:, 6:] = 1
    plain, whole, masked = (refine(image, refiner, **given) for given in ({"strength": 0.0}, {}, {"mask": mask}))
    torch.testing.assert_close(masked[:, :, :10], plain[:, :, :10], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[:, :, 14:], whole[:, :, 14:], atol=1e-5, rtol=0)
    assert (plain - whole).abs().max() > 0.01


def test_tiles_agree_with_the_whole(spandrel: Any, folder: Path, pictures: Pictures) -> None:
    refiner, image = opened(written(compact(2), folder / "a.safetensors")), pictures(1, 70, 50)
    torch.testing.assert_close(refine(image, refiner, tile_size=32), refine(image, refiner), atol=1e-5, rtol=0)
    x = image.movedim(-1, 1)
    torch.testing.assert_close(refiner.refine(x, tile=32), refiner.refine(x), atol=1e-5, rtol=0)


def test_a_network_of_one_channel_is_handed_each_by_itself(spandrel: Any, folder: Path, pictures: Pictures) -> None:
    state, image = compact(2, channels=1), pictures(2, 9, 12)
    found = refine(image, opened(written(state, folder / "a.pth")))
    for channel in range(3):
        expected = theirs(spandrel, state, image[..., channel : channel + 1])[..., 0]
        torch.testing.assert_close(found[..., channel], expected, atol=1e-5, rtol=0)


# -- precision --------------------------------------------------------------------------------------------------------


def test_half_precision_where_the_network_takes_it(spandrel: Any, folder: Path, pictures: Pictures) -> None:
    name = written(compact(), folder / "a.safetensors")
    full, half = opened(name), opened(name, "bf16")
    assert next(half.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(refine(pictures(), half), refine(pictures(), full), atol=0.05, rtol=0)


def restoreformer() -> State:
    from spandrel.architectures.RestoreFormer import RestoreFormer

    network = RestoreFormer(
        n_embed=4, embed_dim=32, ch=32, out_ch=3, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(16,),
        dropout=0.0, in_channels=3, resolution=512, z_channels=32, double_z=False, enable_mid=True, head_size=8,
    )  # fmt: skip
    return network.state_dict()


def test_a_precision_that_it_lacks_is_refused(spandrel: Any, folder: Path) -> None:
    name = written(restoreformer(), folder / "a.safetensors")
    with pytest.raises(ConfigError, match=r"RestoreFormer does not compute in torch\.float16: choose another dtype"):
        opened(name, "fp16")
    assert opened(name).whole, "it looks like a VQGAN, but restores faces"


# -- faces ------------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Takes only faces of 512 x 512, as GFPGAN does, and adds noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape == (1, 3, FACE, FACE), x.shape
        return self.gain * x + 0.1 * torch.rand(1)


@pytest.fixture
def face(spandrel: Any) -> OtherRefiner:
    network = Noisy()
    descriptor = spandrel.ImageModelDescriptor(
        network, network.state_dict(), spandrel.MAIN_REGISTRY["GFPGAN"].architecture, "FaceSR", [], False, True, 1, 3, 3
    )
    return OtherRefiner(descriptor)


@pytest.mark.parametrize(("size", "tile"), [((512, 512), 0), ((512, 512), 128), ((40, 30), 16), ((600, 520), 0)])
def test_a_face_is_seen_whole_at_512(face: OtherRefiner, pictures: Pictures, size: tuple[int, int], tile: int) -> None:
    image = pictures(2, *size)
    found = refine(image, face, tile_size=tile)
    noise = found - image / 2
    assert found.shape == image.shape and (noise - noise.mean()).abs().max() < 0.02
    torch.testing.assert_close(found, refine(image, face, tile_size=tile)), "noise is the same again"
    torch.testing.assert_close(found[1:], refine(image[1:], face)), "and for each of a batch"


def test_memory_that_runs_out_for_a_face_is_told(
    face: OtherRefiner, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, x: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Noisy, "forward", full)
    with pytest.raises(Exception, match="memory ran out for a face of 512 x 512 pixels"):
        refine(pictures(), face)


# -- RRDB: ours against spandrel's ------------------------------------------------------------------------------------

OLDEST_NAMES = {"0": "conv_first", "1.sub.2": "conv_body", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr"}
OLDEST_NAMES |= {"10": "conv_last"}
OLD_NAMES = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}


def newest(state: State) -> State:
    def name(old: str) -> str:
        if dense := re.fullmatch(r"model\.1\.sub\.(\d)\.RDB(\d)\.conv(\d)\.0\.(\w+)", old):
            return "body.{}.rdb{}.conv{}.{}".format(*dense.groups())
        place, _, part = old.removeprefix("model.").rpartition(".")
        return f"{OLDEST_NAMES[place]}.{part}"

    return {name(old): tensor for old, tensor in state.items()}


def older(state: State) -> State:
    def name(new: str) -> str:
        if dense := re.fullmatch(r"body\.(\d)\.rdb(\d)\.(.*)", new):
            return "RRDB_trunk.{}.RDB{}.{}".format(*dense.groups())
        layer, _, part = new.partition(".")
        return f"{OLD_NAMES.get(layer, layer)}.{part}"

    return {name(new): tensor for new, tensor in newest(state).items()}


LAYOUTS = {"esrgan": newest, "esrgan-old": older, "esrgan-oldest": dict}


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_rrdb_is_spandrels(spandrel: Any, tmp_path: Path, pictures: Pictures, layout: str, scale: int) -> None:
    state, image = LAYOUTS[layout](rrdb(scale)), pictures(2, 20, 24)
    path = tmp_path / "a.safetensors"
    written(state, path)
    assert family_of(read_header(path), FAMILIES).name == layout
    expected = theirs(spandrel, state, image)
    assert expected.shape[1] == 20 * scale and expected.std() > 0.01
    torch.testing.assert_close(refine(image, load(path)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_other_scales_of_the_oldest_rrdb_are_ours(
    spandrel: Any, folder: Path, pictures: Pictures, scale: int, plus: bool
) -> None:
    from spandrel.architectures.ESRGAN import ESRGAN

    state = random_state(ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=2, scale=scale, plus=plus))
    refiner = opened(written(state, folder / "a.pth"))
    found = refine(pictures(), refiner)
    assert isinstance(refiner, Refiner) and found.shape == (1, 32 * scale, 32 * scale, 3)
    torch.testing.assert_close(found, theirs(spandrel, state, pictures()), atol=1e-5, rtol=0)


# -- what cannot be opened --------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


def test_code_in_a_pickle_is_refused_before_spandrel_sees_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spandrel_refiner, "open_other", lambda *_: pytest.fail("spandrel was asked"))
    torch.save({"params": {"body.0.weight": torch.ones(1)}, "more": Evil()}, folder / "a.pth")
    with pytest.raises(UnsafeFile, match="print"):
        opened("a.pth")
    (folder / "b.pth").write_bytes(pickle.dumps({"body.0.weight": Evil()}, protocol=2))
    with pytest.raises(UnsafeFile):
        opened("b.pth")
    assert capsys.readouterr().out == ""


UNKNOWN = {"layers.0.residual_group.blocks.0.norm1.weight": torch.ones(4)}


def one_line(error: pytest.ExceptionInfo[Any], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_without_spandrel_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UnknownFamily) as error:
        opened(written(UNKNOWN, folder / "a.safetensors"))
    one_line(error, "a.safetensors is of no family known here", "the package spandrel is not installed: pip install")


def test_what_spandrel_lacks_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "packages" / "spandrel").mkdir(parents=True)
    (folder / "packages" / "spandrel" / "__init__.py").write_text("import no_such_vision.transforms\n")
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.syspath_prepend(folder / "packages")
    with pytest.raises(UnknownFamily) as error:
        opened(written(UNKNOWN, folder / "a.safetensors"))
    one_line(error, "the package no_such_vision, which spandrel needs, is not installed: pip install no_such_vision")


def test_what_nobody_knows_is_one_line(spandrel: Any, folder: Path) -> None:
    with pytest.raises(UnknownFamily) as error:
        opened(written({"nothing.weight": torch.ones(2)}, folder / "a.safetensors"))
    one_line(error, "of no family known here", f"spandrel {spandrel.__version__} knows no such refiner either")


def test_keys_that_do_not_fit_are_one_line(spandrel: Any, folder: Path) -> None:
    state = compact()
    del state["body.2.bias"]
    with pytest.raises(UnknownFamily) as error:
        opened(written(state, folder / "a.safetensors"))
    one_line(error, "spandrel cannot build it", "body.2.bias")
    state = newest(rrdb())
    del state["conv_hr.bias"]
    with pytest.raises(KeyMismatch) as error:
        opened(written(state, folder / "b.pth"))
    one_line(error, "1 keys missing: conv_hr.bias")


def test_weights_that_are_no_numbers_are_refused(spandrel: Any, folder: Path) -> None:
    state = compact()
    state["body.2.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match="no numbers.*body.2.bias"):
        opened(written(state, folder / "a.safetensors"))


def test_a_name_that_claims_a_tower_of_layers_is_refused(spandrel: Any, folder: Path) -> None:
    state = compact() | {"body.99999999999.bias": torch.ones(48)}
    with pytest.raises(UnknownFamily, match="names a layer 99999999999; expected 10000 at most"):
        opened(written(state, folder / "a.safetensors"))


def test_sizes_that_ask_for_far_more_memory_than_the_file_are_refused(spandrel: Any, folder: Path) -> None:
    state = compact() | {"body.0.weight": torch.ones(20_000, 3, 1, 1)}
    with pytest.raises(UnknownFamily, match="cannot build it: it is far larger than its file"):
        opened(written(state, folder / "a.safetensors"))


def test_inspect_says_what_it_is(spandrel: Any, tmp_path: Path) -> None:
    (found,) = examine(str(tmp_path / written(compact(2), tmp_path / "a.pth")))
    assert (found["kind"], found["family"]) == ("refiner", "RealESRGAN Compact (through spandrel)")
    assert found["config"]["scale"] == 2 and "RealESRGAN Compact" in as_text([found])
    with pytest.raises(UnknownFamily, match="of no family known here.*no such refiner either"):
        examine(str(tmp_path / written({"nothing.weight": torch.ones(2)}, tmp_path / "b.safetensors")))
    state = newest(rrdb())
    del state["conv_hr.bias"]
    with pytest.raises(KeyMismatch, match="1 keys missing.*spandrel cannot build it"):
        examine(str(tmp_path / written(state, tmp_path / "c.pth")))


def test_a_network_that_needs_a_mask_is_refused(spandrel: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Noisy()
    masked = spandrel.MaskedImageModelDescriptor(
        network, network.state_dict(), spandrel.MAIN_REGISTRY["LaMa"].architecture, "Inpainting", [], True, True, 4, 3
    )
    monkeypatch.setattr(spandrel_refiner, "_built", lambda *_: masked)
    with pytest.raises(UnknownFamily, match="LaMa for Inpainting that makes 3 channels of 4"):
        opened(written(UNKNOWN, folder / "a.safetensors"))


def test_pictures_of_another_shape_are_refused(spandrel: Any, folder: Path) -> None:
    refiner = opened(written(compact(), folder / "a.safetensors"))
    with pytest.raises(ShapeError, match=r"handed \(1, 4, 8, 8\); expected \[batch, 3, height, width\]"):
        refiner(torch.rand(1, 4, 8, 8))
    with pytest.raises(ConfigError, match="without its critic"):
        refiner.realism(torch.rand(1, 3, 8, 8))
