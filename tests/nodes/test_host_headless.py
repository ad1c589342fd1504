"""nodes.host without ComfyUI: what each socket carries, and what every function does."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import save_model
from vitrail.core.diffusion.guidance import guided
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.priors import Prior, PriorConfig
from vitrail.core.priors.gpt import GPTConfig
from vitrail.core.refine import Refiner
from vitrail.core.samplers.run import sample as core_sample
from vitrail.core.text.encoder import TextConfig
from vitrail.core.types import Condition
from vitrail.nodes import host, host_dtype
from vitrail.nodes.host_images import colours
from vitrail.nodes.host_model import layout
from vitrail.nodes.host_vae import FirstStage, HostVAE

Conditioning = list[list[Any]]


def tiny_autoencoder(**changes: Any) -> Autoencoder:
    settings: dict[str, Any] = {
        "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (), "attn_type": "none", "resolution": 32,
        "z_channels": 3, "embed_dim": 3, "bottleneck": VQConfig(codes=32, dim=3), "latent_shift": (0.3, -0.2, 0.1),
        "latent_scale": (2.0,),
    }  # fmt: skip
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(**{**settings, **changes})).eval()


AUTOENCODER = tiny_autoencoder()


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    text = TextConfig(vocab=("cat", "red"), styles=("pixel",), width=16, depth=1, heads=2, context_dim=16, vector_dim=8)
    unet = UNetConfig(
        in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, attention_resolutions=(2,),
        channel_mult=(1, 2), num_head_channels=32, context_dim=16, vector_dim=8,
    )  # fmt: skip
    config = LatentDiffusionConfig(unet=unet, table=TableConfig(kind="cosine"), prediction="v", text=text)
    torch.manual_seed(1)
    made = LatentDiffusion(config, tiny_autoencoder()).eval()
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return made


@pytest.fixture(scope="module")
def cat(model: LatentDiffusion) -> Conditioning:
    assert model.conditioner is not None
    with torch.no_grad():
        return host.conditioning(model.conditioner.encode(["cat"], ["pixel"]))


@pytest.fixture(autouse=True)
def on_the_cpu() -> Any:
    host.set_headless_device("cpu")
    yield
    host.set_headless_device(None)
    host.set_headless_progress(None)


def run(model: LatentDiffusion, **changes: Any) -> tuple[Tensor, Tensor]:
    """host.sample with 4 steps, by keyword."""
    settings: dict[str, Any] = {
        "sigmas": make_sigmas("karras", host.table(model), 4), "latent": host.empty_latent(model, None, 16, 16, 1),
        "positive": None, "negative": None, "sampler": host.solver("euler"), "cfg": 1.0, "seed": 5,
    }  # fmt: skip
    sampled, denoised = host.sample(model, **{**settings, **changes})
    return sampled["samples"], denoised["samples"]


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sockets_carry_core_objects(model: LatentDiffusion) -> None:
    assert not host.IN_HOST
    assert host.wrap_model(model) is model and host.unwrap_model(model) is model and host.table(model) is model.table
    assert host.wrap_vae(model.autoencoder) is model.autoencoder
    assert host.wrap_clip(model.conditioner) is model.conditioner and host.unwrap_clip(model.conditioner) is not None


def test_sample_is_the_cores_run_between_scale_and_unscale(model: LatentDiffusion, cat: Conditioning) -> None:
    assert model.autoencoder is not None
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    sigmas = make_sigmas("normal", model.table, 4, denoise=0.5)
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:] = 1
    scaled = model.autoencoder.scale(z)
    denoise = guided(model.denoise, host.to_condition(cat[0]), model.null(1), 3.0)
    *_, last = core_sample(
        denoise, scaled, sigmas, sampler="ddim", noise=seeded(z, 5), mask=mask, sigma_max=model.table.sigma_max
    )
    latent = {"samples": z, "noise_mask": mask}
    settings = {"sigmas": sigmas, "latent": latent, "positive": cat, "cfg": 3.0, "sampler": host.solver("ddim")}
    sampled, denoised = run(model, **settings)
    torch.testing.assert_close(sampled, model.autoencoder.unscale(last.x))
    torch.testing.assert_close(denoised, model.autoencoder.unscale(last.denoised))
    torch.testing.assert_close(sampled[:, :, :3], z[:, :, :3], msg="what the mask keeps is kept")


@pytest.mark.parametrize("name", ["euler", "euler_ancestral"])
def test_image_i_of_a_batch_equals_its_own_run(model: LatentDiffusion, cat: Conditioning, name: str) -> None:
    settings: dict[str, Any] = {"positive": cat, "cfg": 2.0, "sampler": host.solver(name)}
    batch, _ = run(model, latent=host.empty_latent(model, None, 16, 16, 3), **settings)
    for i in range(3):
        torch.testing.assert_close(batch[i : i + 1], run(model, seed=5 + i, **settings)[0], atol=1e-5, rtol=1e-4)
    chosen = {**host.empty_latent(model, None, 16, 16, 2), "batch_index": [2, 0]}
    torch.testing.assert_close(run(model, latent=chosen, **settings)[0], batch[[2, 0]], atol=1e-5, rtol=1e-4)


def test_the_last_seed_wraps_around(model: LatentDiffusion) -> None:
    batch, _ = run(model, latent=host.empty_latent(model, None, 16, 16, 2), seed=2**64 - 1)
    torch.testing.assert_close(batch[1:], run(model, seed=0)[0], atol=1e-5, rtol=1e-4)


def test_zeros_are_not_shifted_and_get_the_models_channels(model: LatentDiffusion) -> None:
    """A stock empty latent has 4 channels of zeros: it starts the same run as ours."""
    foreign, _ = run(model, latent={"samples": torch.zeros(1, 4, 8, 8)})
    torch.testing.assert_close(foreign, run(model)[0])
    with pytest.raises(ShapeError, match="3, height"):
        run(model, latent={"samples": torch.ones(1, 4, 8, 8)})


def test_missing_conditions_are_the_models_null(model: LatentDiffusion, cat: Conditioning) -> None:
    null = host.conditioning(model.null(1) or Condition())
    guided = [run(model, positive=cat, negative=negative, cfg=3.0)[0] for negative in (None, null)]
    torch.testing.assert_close(*guided)
    torch.testing.assert_close(run(model)[0], run(model, positive=null)[0])


@dataclass
class Noise:
    seed: int
    start: Tensor

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        return self.start


def test_a_noise_replaces_the_seed(model: LatentDiffusion) -> None:
    start = seeded(torch.zeros(1, 3, 8, 8), 9).start
    settings = {"sampler": host.solver("euler_ancestral")}
    torch.testing.assert_close(run(model, noise=Noise(9, start), **settings)[0], run(model, seed=9, **settings)[0])


def test_a_run_in_two_halves_is_the_whole_run(model: LatentDiffusion) -> None:
    sigmas = make_sigmas("karras", model.table, 4)
    half, _ = run(model, sigmas=sigmas[:3])
    whole, _ = run(model, sigmas=sigmas[2:], latent={"samples": half}, add_noise=False)
    torch.testing.assert_close(whole, run(model, sigmas=sigmas)[0], atol=1e-4, rtol=1e-4)


def test_no_sigmas_change_nothing_and_one_only_adds_noise(model: LatentDiffusion) -> None:
    z = torch.ones(1, 3, 8, 8)
    assert torch.equal(run(model, sigmas=torch.zeros(0), latent={"samples": z})[0], z)
    noised, _ = run(model, sigmas=torch.tensor([0.5]), latent={"samples": z})
    torch.testing.assert_close(noised, z + 0.5 * seeded(z, 5).start / 2)  # latent_scale 2


def test_other_entries_of_the_latent_come_along(model: LatentDiffusion) -> None:
    mask = torch.ones(1, 16, 16)
    latent = {**host.empty_latent(model, None, 16, 16, 1), "noise_mask": mask}
    sampled, denoised = host.sample(model, torch.zeros(0), latent, None, None, host.solver("euler", 1.0), 1.0, 0)
    assert sampled["noise_mask"] is mask and denoised["noise_mask"] is mask


def test_unknown_solver_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match="dpmpp_2m"):
        host.solver("eulr", 1.0)


@given(width=st.integers(1, 100), height=st.integers(1, 100), batch=st.integers(1, 3))
def test_empty_latents_cover_the_picture(width: int, height: int, batch: int) -> None:
    samples = host.empty_latent(diffusion_like(AUTOENCODER), None, width, height, batch)["samples"]
    assert samples.shape[:2] == (batch, 3) and not samples.any()
    assert 0 <= samples.shape[2] * 2 - height < 2 and 0 <= samples.shape[3] * 2 - width < 2


def diffusion_like(autoencoder: Autoencoder | None) -> Any:
    unet = UNetConfig(in_channels=3, out_channels=3, model_channels=32, num_heads=1, channel_mult=(1,))
    config = LatentDiffusionConfig(unet=unet)
    return type("Model", (), {"autoencoder": autoencoder, "config": config})()


def test_a_model_without_autoencoder_takes_the_factor_of_a_vae() -> None:
    bare = diffusion_like(None)
    assert host.empty_latent(bare, tiny_autoencoder(), 32, 16, 1)["samples"].shape == (1, 3, 8, 16)
    assert host.empty_latent(bare, None, 32, 16, 1)["samples"].shape == (1, 3, 2, 4)


# -- progress ---------------------------------------------------------------------------------------------------------


def test_progress_reports_each_step_with_its_picture(model: LatentDiffusion) -> None:
    seen: list[tuple[int, int, Any]] = []
    host.set_headless_progress(lambda value, total, picture: seen.append((value, total, picture())))
    run(model)
    assert [(value, total) for value, total, _ in seen] == [(i, 4) for i in (1, 2, 3, 4)]
    assert all(picture.size == (128, 128) for _, _, picture in seen)


def test_progress_closes_what_it_walks_when_the_report_raises() -> None:
    closed: list[bool] = []

    def steps() -> Any:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    def cancel(value: int, total: int, preview: Any) -> None:
        if value == 3:
            raise KeyboardInterrupt

    host.set_headless_progress(cancel)
    taken: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        taken.extend(host.progress(steps(), 10))
    assert closed == [True]


def test_pictures_are_not_drawn_when_nobody_looks() -> None:
    def never(step: int) -> None:
        raise AssertionError("drawn")

    assert list(host.progress(range(3), 3, never)) == [0, 1, 2]


def test_a_missing_gpu_is_named() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            host.set_headless_device("cuda")


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_transparent_pictures_lie_on_white() -> None:
    image = torch.tensor([[[[0.2, 0.4, 0.6, 0.5]]]])
    x, alpha = host.split_alpha(image)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.6, 0.7, 0.8]) * 2 - 1)
    assert alpha is not None and alpha.shape == (1, 1, 1)
    assert host.to_image(x, alpha).shape == (1, 1, 1, 4)


@given(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))
def test_pictures_survive_the_way_there_and_back(batch: int, channels: int, height: int, width: int) -> None:
    image = torch.rand(batch, height, width, channels)
    x, alpha = host.split_alpha(image)
    assert alpha is None and x.shape == (batch, 3, height, width)
    torch.testing.assert_close(host.to_image(x), image.expand(-1, -1, -1, 3))


def test_to_image_cuts_off_what_is_out_of_range() -> None:
    assert host.to_image(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)).flatten().tolist() == [0.0, 1.0]


def test_another_shape_of_picture_is_refused() -> None:
    with pytest.raises(ShapeError, match="1, 3 or 4"):
        host.split_alpha(torch.zeros(4, 4, 2))


@pytest.mark.parametrize("bottleneck", ["vq", "kl"])
def test_preview_colours_are_those_of_the_decoder(bottleneck: str) -> None:
    """A decoder that is linear in each cell is found exactly."""
    changes = {} if bottleneck == "vq" else {"bottleneck": KLConfig(), "double_z": True}
    autoencoder = tiny_autoencoder(**changes)
    weight, bias = torch.randn(3, 3) * 0.1, torch.tensor([0.1, -0.2, 0.0])

    def decode(z: Tensor) -> Tensor:
        cells = z.movedim(1, -1) @ weight + bias
        return cells.movedim(-1, 1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    if bottleneck == "vq":
        torch.nn.init.normal_(autoencoder.quantize.embedding.weight)  # pyright: ignore
    autoencoder.decode = decode  # type: ignore[method-assign]
    factors, offset = colours(autoencoder)
    z = torch.randn(1, 3, 4, 4) * 0.5
    shown = autoencoder.scale(z).movedim(1, -1) @ factors + offset
    torch.testing.assert_close(shown, z.movedim(1, -1) @ weight + bias, atol=0.02, rtol=0)
    picture = host.preview_image(autoencoder, z)
    assert picture.size == (128, 128) and picture.mode == "RGB"


def test_no_preview_entries_without_the_host() -> None:
    assert host.preview_ui(torch.zeros(1, 4, 4, 3)) == {}


# -- conditions -------------------------------------------------------------------------------------------------------


def test_conditions_survive_the_way_there_and_back() -> None:
    cond = Condition(context=torch.randn(1, 3, 4), vector=torch.randn(1, 5), concat=torch.randn(1, 2, 4, 4))
    back = host.to_condition(host.conditioning(cond)[0])
    assert all(torch.equal(getattr(back, name), getattr(cond, name)) for name in ("context", "vector", "concat"))
    labels = host.conditioning(Condition(vector=torch.tensor([3])))
    assert labels[0][0] is None and labels[0][1]["pooled_output"].dtype == torch.int64


def test_what_only_the_host_can_sample_is_named() -> None:
    with pytest.raises(ConfigError, match="control"):
        host.to_condition([None, {"control": object()}])


# -- files ------------------------------------------------------------------------------------------------------------


def test_names_lead_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "vae" / "mine"
    folder.mkdir(parents=True)
    save_model(tiny_autoencoder(), folder / "a.safetensors")
    (folder / "a.json").write_text("{}")
    (folder / "notes.txt").write_text("no weights")
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    assert host.names("autoencoder")[-1] == "vae/mine/a.safetensors"
    assert host.names("config") == ["vae/mine/a.json"] and not [n for n in host.names("refiner") if "/" in n]
    assert host.find("vae/mine/a.safetensors", "autoencoder") == folder / "a.safetensors"
    before = host.changed("vae/mine/a.safetensors", "autoencoder")
    (folder / "a.safetensors").write_bytes(b"other")
    assert before != host.changed("vae/mine/a.safetensors", "autoencoder") != ""


def test_new_files_are_seen_and_lists_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    assert not [name for name in host.names("refiner") if "/" in name]
    inner = tmp_path / "upscale_models" / "deep" / "er"
    inner.mkdir(parents=True)
    assert not [name for name in host.names("refiner") if "/" in name]
    (inner / "b.pth").write_bytes(b"")
    assert host.names("refiner")[-1] == "upscale_models/deep/er/b.pth"
    monkeypatch.setattr("os.walk", None)
    assert host.names("refiner")[-1] == "upscale_models/deep/er/b.pth"


@pytest.mark.parametrize("name", ["vae/nothing.ckpt", "vae/../../etc/passwd", "nothing", ""])
def test_a_missing_file_is_named_with_the_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    with pytest.raises(ConfigError, match="looked among"):
        host.find(name, "autoencoder")
    assert host.changed(name, "autoencoder") == ""


# -- memory and the host's words --------------------------------------------------------------------------------------


def test_loaded_hands_over_the_device(model: LatentDiffusion) -> None:
    with host.loaded(model.network, (1, 3, 8, 8)) as device:
        assert next(model.network.parameters()).device == device == torch.device("cpu")


def test_the_layout_names_a_depth_for_every_block() -> None:
    config = UNetConfig(
        in_channels=4, out_channels=4, model_channels=32, num_res_blocks=(1, 2), attention_resolutions=(2,),
        channel_mult=(1, 2), num_heads=1, transformer_depth=(1, 3), context_dim=8,
    )  # fmt: skip
    found = layout(config)
    assert found["transformer_depth"] == [0, 3, 3] and found["transformer_depth_output"] == [0, 0, 3, 3, 3]
    assert found["transformer_depth_middle"] == 3 and found["num_res_blocks"] == [1, 2]


def test_importing_the_nodes_imports_no_network_and_no_host() -> None:
    code = (
        "import sys, vitrail.nodes.host\n"
        "heavy = ('vitrail.core.diffusion', 'vitrail.core.samplers', 'vitrail.core.checkpoints', 'comfy', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["device", "current_patcher", "model_lowvram", "lowvram_patch_counter"])
def test_the_hosts_notes_have_a_place_on_every_model(
    name: str, vq_model: Autoencoder, diffusion: LatentDiffusion, refiner: Refiner
) -> None:
    """Its ModelPatcher writes them on the model that it moves."""
    prior = Prior(PriorConfig(transformer=GPTConfig(vocab=8, block=8, width=8, depth=1, heads=1)))
    for model in (prior, vq_model, refiner, diffusion, diffusion.network, diffusion.conditioner):
        setattr(model, name, "noted")
        assert getattr(model, name) == "noted"
        delattr(model, name)


@pytest.mark.parametrize("bottleneck", ["vq", "kl"])
def test_the_hosts_tiles_of_our_vae_are_exact_strips(bottleneck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host calls for its tiled nodes, and out of memory: no seams, and lower strips where those do not fit."""
    changes = {} if bottleneck == "vq" else {"bottleneck": KLConfig(), "double_z": True}
    autoencoder = tiny_autoencoder(**changes)
    vae: Any = object.__new__(HostVAE)
    vae.first_stage_model, vae.upscale_ratio = FirstStage(autoencoder).eval(), 2
    vae.device = vae.output_device = torch.device("cpu")
    vae.vae_dtype = torch.float32
    image = torch.rand(2, 3, 100, 60, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []

    def cramped(call: Any) -> Any:
        def run(x: Tensor, strip: int) -> Any:
            seen.append(strip)
            if strip > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return call(x, strip=strip)

        return run

    with torch.no_grad():
        z = autoencoder.encode(image * 2 - 1)
        rounded = z if bottleneck == "kl" else autoencoder.quantize(z).latent
        expected = ((autoencoder.decode(rounded) + 1) / 2).clamp(0, 1)
        for name in ("encode_steps", "decode_steps"):
            monkeypatch.setattr(autoencoder, name, cramped(getattr(autoencoder, name)))
        torch.testing.assert_close(vae.encode_tiled_(image, tile_x=32, tile_y=32, overlap=8), z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vae.decode_tiled_(z, tile_y=32), expected, atol=1e-5, rtol=0)
    assert seen == [32, 16, 16, 64, 32, 16, 16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_keeps_its_codebook_in_float32(dtype: torch.dtype) -> None:
    model = tiny_autoencoder()
    kept = model.codebook
    host_dtype.cast(model, dtype)
    assert model.decoder.conv_in.weight.dtype == dtype and model.codebook.dtype == torch.float32
    torch.testing.assert_close(model.codebook, kept)


def test_headless_there_are_no_flags() -> None:
    model = tiny_autoencoder()
    assert host.honour_flags(model) is model and model.decoder.conv_in.weight.dtype == torch.float32
