"""Tiny models of ours inside a ComfyUI process without a server, and ways to sample and compare them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

STEPS, SAME = 4, 1e-4


def enter_host(pack: str) -> None:
    """Import ComfyUI's parts on the CPU, then the pack under the name that the core's tests use."""
    sys.path.insert(0, ".")
    sys.argv = sys.argv[:1]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.preview_method = comfy.cli_args.LatentPreviewMethod.Auto
    import nodes  # noqa: F401

    spec = importlib.util.spec_from_file_location("vitrail", f"{pack}/__init__.py", submodule_search_locations=[pack])
    assert spec and spec.loader
    module = sys.modules["vitrail"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


class Parts:
    """Tiny random models behind the host's sockets, two conditions and an empty latent."""

    def __init__(self) -> None:
        from tiny import AUTOENCODER, DIFFUSION, Autoencoder, LatentDiffusion, randomise

        import nodes
        from vitrail.nodes import host

        self.host, self.nodes = host, nodes
        self.autoencoder = randomise(Autoencoder(AUTOENCODER), 0)
        self.diffusion = randomise(LatentDiffusion(DIFFUSION), 1)
        self.diffusion.autoencoder = self.autoencoder
        self.model, self.vae = host.wrap_model(self.diffusion), host.wrap_vae(self.autoencoder)
        self.clip = host.wrap_clip(self.diffusion.conditioner)
        self.positive = nodes.CLIPTextEncode().encode(self.clip, "red cat style:pixel")[0]
        self.negative = nodes.CLIPTextEncode().encode(self.clip, "")[0]
        self.latent = host.empty_latent(self.model, None, 32, 32, 1)

    def stock(self, model: Any = None, positive: Any = None, sampler: str = "euler") -> Any:
        """The latent of the stock KSampler."""
        return self.nodes.common_ksampler(
            model or self.model, 7, STEPS, 3.0, sampler, "karras", positive or self.positive, self.negative, self.latent
        )[0]["samples"]

    def ours(self, model: Any = None, sampler: str = "euler", solver: Any = None, **changes: Any) -> Any:
        """The latent of host.sample with the same settings; solver: a SAMPLER in the place of one of ours."""
        from vitrail.core.diffusion.schedules import make_sigmas

        model = model or self.model
        sigmas = make_sigmas("karras", self.host.table(model), STEPS)
        settings = {
            "latent": self.latent, "positive": self.positive, "negative": self.negative, "cfg": 3.0, "seed": 7,
            "sampler": solver or self.host.solver(sampler), **changes,
        }  # fmt: skip
        return self.host.sample(model, sigmas, **settings)[0]["samples"]


def worst(a: Any, b: Any) -> float:
    assert a.shape == b.shape and bool(a.isfinite().all()), (a.shape, b.shape)
    return float((a - b).abs().max())


def same(a: Any, b: Any) -> float:
    assert (found := worst(a, b)) <= SAME, found
    return found


def differs(a: Any, b: Any) -> float:
    assert (found := worst(a, b)) > 0.01, found
    return found
