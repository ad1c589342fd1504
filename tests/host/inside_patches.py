"""Patches of stock nodes on our network, against the host's own network with the same weights and the same patches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from inside_parts import Parts, differs, same

SIDE, STEPS = 16, 4


@dataclass(frozen=True)
class Twins:
    """Two MODELs with the same weights: our network, and the host's in its place."""

    ours: Any
    stock: Any
    parts: Parts

    def sampled(self, model: Any, positive: Any = None, cfg: float = 3.0) -> Any:
        """The latent of the stock KSampler; the host's own random numbers always start alike."""
        import torch

        torch.manual_seed(3)
        latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}
        ends = positive or self.parts.positive, self.parts.negative
        return self.parts.nodes.common_ksampler(model, 7, STEPS, cfg, "euler", "normal", *ends, latent)[0]["samples"]

    def compare(self, patch: Callable[[Any], Any], cfg: float = 3.0) -> float:
        """How much the patch changes our result; AssertionError where the host's network becomes another."""
        plain, ours, stock = (self.sampled(m, cfg=cfg) for m in (self.ours, patch(self.ours), patch(self.stock)))
        scale = max(10.0, float(stock.abs().max()))  # some of these latents are large
        same(10 * ours / scale, 10 * stock / scale)
        return differs(ours, plain)


def twins(parts: Parts) -> Twins:
    """Transformers at both sizes, since some patches are for the larger one only."""
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from tiny import DIFFUSION, LatentDiffusion, randomise

    from vitrail.nodes.host_model import layout

    config = replace(DIFFUSION, unet=replace(DIFFUSION.unet, attention_resolutions=(1, 2), legacy=False))
    diffusions = [randomise(LatentDiffusion(config), 1) for _ in range(2)]
    diffusions[1].load_state_dict(diffusions[0].state_dict())
    for diffusion in diffusions:
        diffusion.autoencoder = parts.autoencoder
    models = [parts.host.wrap_model(diffusion) for diffusion in diffusions]
    unknown = ("disable_unet_model_creation", "attention_resolutions")
    settings = {name: value for name, value in layout(config.unet).items() if name not in unknown}
    network = UNetModel(
        **settings, use_spatial_transformer=True, num_classes="sequential", legacy=False, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    network.load_state_dict(diffusions[0].network.state_dict())
    models[1].model.diffusion_model = network.eval()
    return Twins(*models, parts)


def first(result: Any) -> Any:
    """The MODEL that a stock node returned, of the old kind or of the new."""
    return result[0] if isinstance(result, tuple) else result.args[0]


def wiggle(name: str) -> Callable[[Any], Any]:
    """A patch of our own making for one place, of the arguments that the host hands over there."""

    def patch(model: Any) -> Any:
        model = model.clone()
        if name in ("attn1", "attn2"):
            replaced = lambda q, k, v, options: v.mean(1, keepdim=True) + q * options["dim_head"] / 64  # noqa: E731
            model.set_model_patch_replace(replaced, name, "input", 1, 0)
            model.set_model_patch_replace(replaced, name, "output", 2)
        else:
            model.set_model_patch(WIGGLES[name], name)
        return model

    return patch


WIGGLES: dict[str, Callable[..., Any]] = {
    "emb_patch": lambda emb, width, options: emb * (1 + width / 100),
    "input_block_patch": lambda h, options: h * (1 + 0.1 * options["block"][1]),
    "input_block_patch_after_skip": lambda h, options: h * (1 + 0.1 * options["block"][1]),
    "output_block_patch": lambda h, skip, options: (h * 1.1, skip * (1 + 0.1 * options["block"][1])),
    "attn1_patch": lambda n, context, value, options: (n, context * 1.5, value * options["n_heads"]),
    "attn1_output_patch": lambda n, options: n * (1 + options["transformer_index"]),
    "attn2_patch": lambda n, context, value, options: (n * 1.3, context[:, :2], value[:, :2] * 2),
    "attn2_output_patch": lambda n, options: n * (1.5 + options["block_index"]),
    "middle_patch": lambda x, options: x * (1 + options["activations_shape"][-1] / SIDE),
}


def every_place_of_patches_equals_the_hosts_network(parts: Parts) -> str:
    pair = twins(parts)
    plain = same(pair.sampled(pair.ours), pair.sampled(pair.stock))
    changes = {name: pair.compare(wiggle(name)) for name in (*WIGGLES, "attn1", "attn2")}
    return f"unpatched {plain:.1e}; change made: " + ", ".join(f"{name} {value:.1f}" for name, value in changes.items())


def stock_nodes() -> dict[str, Callable[[Any], Any]]:
    from comfy_extras import (
        nodes_attention_multiply,
        nodes_cfg,
        nodes_easycache,
        nodes_eps,
        nodes_freelunch,
        nodes_fresca,
        nodes_hypertile,
        nodes_mahiro,
        nodes_model_advanced,
        nodes_model_downscale,
        nodes_pag,
        nodes_sag,
        nodes_tcfg,
        nodes_tomesd,
    )

    multiply, downscale = nodes_attention_multiply, nodes_model_downscale.PatchModelAddDownscale
    return {
        "FreeU": lambda m: nodes_freelunch.FreeU().patch(m, 1.4, 1.6, 0.9, 0.2),
        "FreeU_V2": lambda m: nodes_freelunch.FreeU_V2().patch(m, 1.3, 1.4, 0.9, 0.2),
        "HyperTile": lambda m: nodes_hypertile.HyperTile.execute(m, 32, 2, 1, False),
        "PerturbedAttentionGuidance": lambda m: nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0),
        "SelfAttentionGuidance": lambda m: nodes_sag.SelfAttentionGuidance.execute(m, 0.5, 2.0),
        "TomePatchModel": lambda m: nodes_tomesd.TomePatchModel.execute(m, 0.3),
        "PatchModelAddDownscale": lambda m: downscale.execute(m, 1, 2.0, 0.0, 0.9, False, "bicubic", "bicubic"),
        "UNetSelfAttentionMultiply": lambda m: multiply.UNetSelfAttentionMultiply.execute(m, 1.5, 1.0, 0.5, 1.2),
        "UNetCrossAttentionMultiply": lambda m: multiply.UNetCrossAttentionMultiply.execute(m, 1.5, 1.0, 0.5, 1.2),
        "RescaleCFG": lambda m: nodes_model_advanced.RescaleCFG().patch(m, 0.7),
        "Epsilon Scaling": lambda m: nodes_eps.EpsilonScaling.execute(m, 1.05),
        "Mahiro": lambda m: nodes_mahiro.Mahiro.execute(m),
        "TCFG": lambda m: nodes_tcfg.TCFG.execute(m),
        "CFGZeroStar": lambda m: nodes_cfg.CFGZeroStar.execute(m),
        "CFGNorm": lambda m: nodes_cfg.CFGNorm.execute(m, 0.5),
        "FreSca": lambda m: nodes_fresca.FreSca.execute(m, 1.0, 1.5, 4),
        "EasyCache": lambda m: nodes_easycache.EasyCacheNode.execute(m, 3.0, 0.0, 1.0, False),
        "LazyCache": lambda m: nodes_easycache.LazyCacheNode.execute(m, 3.0, 0.0, 1.0, False),
        "ModelSamplingDiscrete eps": lambda m: nodes_model_advanced.ModelSamplingDiscrete().patch(m, "eps", False),
    }


def stock_patch_nodes_equal_the_hosts_network(parts: Parts) -> str:
    pair = twins(parts)
    nodes, figures, wrong = stock_nodes(), {}, {}
    for name, node in nodes.items():
        try:
            figures[name] = pair.compare(lambda model, node=node: first(node(model)))
        except Exception as error:  # so that one run names all
            wrong[name] = f"{type(error).__name__}: {error}"
    assert not wrong, wrong
    return "change made: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


def stock_samplings_keep_the_levels_of_training(parts: Parts) -> str:
    """ModelSamplingDiscrete and its kin change what they are for, and not our noise levels."""
    import torch
    from comfy_extras import nodes_model_advanced as stock
    from tiny import DIFFUSION, LatentDiffusion, LatentDiffusionConfig, TableConfig, randomise

    own = parts.host.table(parts.model)
    discrete = stock.ModelSamplingDiscrete().patch
    assert torch.equal(parts.host.table(discrete(parts.model, "v_prediction", False)[0]).sigmas, own.sigmas)
    figure = same(parts.ours(discrete(parts.model, "v_prediction", False)[0]), parts.ours())
    terminal = parts.host.table(discrete(parts.model, "v_prediction", True)[0])
    assert terminal.sigma_max > 1000 and abs(terminal.sigma_min - own.sigma_min) < 1e-3, terminal.sigma_max
    few = parts.host.table(discrete(parts.model, "lcm", False)[0])
    assert torch.equal(few.sigmas, own.sigmas[19::20]), few.sigmas
    table = TableConfig(kind="flow")
    flow = LatentDiffusionConfig(unet=DIFFUSION.unet, text=DIFFUSION.text, table=table, prediction="flow")
    flowing = parts.host.wrap_model(randomise(LatentDiffusion(flow), 3))
    shifted = stock.ModelSamplingAuraFlow().patch_aura(flowing, 1.73)[0].get_model_object("model_sampling")
    assert float(shifted.timestep(torch.tensor(0.5))) == 500 and shifted.shift == 1.73
    return f"v_prediction {figure:.1e}; zero terminal SNR up to {terminal.sigma_max:.0f}; lcm keeps {len(few.sigmas)}"


def samplings_of_another_kind_are_warned_of(parts: Parts) -> str:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    said = heard(lambda: ModelSamplingSD3().patch(parts.model, 3.0))
    assert len(said) == 1 and "not trained on" in said[0], said
    return said[0]


def controlnets_equal_the_hosts_network(parts: Parts) -> float:
    import comfy.controlnet
    import comfy.ops
    import torch
    from comfy.cldm.cldm import ControlNet
    from tiny import randomise

    pair = twins(parts)
    settings = {k: getattr(pair.stock.model.diffusion_model, k) for k in ("in_channels", "model_channels")}
    network = ControlNet(
        **settings, image_size=32, hint_channels=3, num_res_blocks=[1, 1], channel_mult=(1, 2), num_head_channels=32,
        transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=32, use_spatial_transformer=True,
        legacy=False, num_classes="sequential", adm_in_channels=32, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    for weight in network.parameters():  # the host leaves them as the memory was
        weight.zero_()
    network = randomise(network, 4)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    picture = torch.rand(1, 64, 64, 3)
    positive = parts.nodes.ControlNetApply().apply_controlnet(parts.positive, control, picture, 1.0)[0]
    plain, ours, stock = (
        pair.sampled(model, cond) for model, cond in ((pair.ours, None), (pair.ours, positive), (pair.stock, positive))
    )
    same(ours, stock)
    return differs(ours, plain)


def heard(run: Callable[[], Any]) -> list[str]:
    """What our part logs meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("vitrail").addHandler(handler)
    run()
    logging.getLogger("vitrail").removeHandler(handler)
    return said


def patches_without_a_place_are_named_once(parts: Parts) -> str:
    patched = parts.model.clone()
    patched.set_model_patch(lambda *given: given[0], "double_block")
    said = heard(lambda: [parts.stock(patched) for _ in range(2)])
    assert len(said) == 1 and "double_block" in said[0], said
    return said[0]


def controlnets_of_another_shape_are_named_once(parts: Parts) -> str:
    import comfy.controlnet
    import torch

    class Foreign(comfy.controlnet.ControlBase):
        def get_control(self, x: Any, *_: Any) -> dict[str, Any]:
            return {"input": [], "middle": [torch.ones(len(x), 320, 8, 8)], "output": []}

        def copy(self) -> Foreign:
            self.copy_to(made := Foreign())
            return made

    positive = parts.nodes.ControlNetApply().apply_controlnet(parts.positive, Foreign(), torch.rand(1, 8, 8, 3), 1.0)[0]
    said = heard(lambda: [parts.stock(positive=positive) for _ in range(2)])
    assert len(said) == 1 and "320" in said[0], said
    return said[0]


CHECKS: tuple[Callable[[Parts], Any], ...] = (
    every_place_of_patches_equals_the_hosts_network,
    stock_patch_nodes_equal_the_hosts_network,
    stock_samplings_keep_the_levels_of_training,
    samplings_of_another_kind_are_warned_of,
    controlnets_equal_the_hosts_network,
    patches_without_a_place_are_named_once,
    controlnets_of_another_shape_are_named_once,
)
