"""Tempered guidance across the door: on our own model headless, through the host's official hooks in the host."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .host_env import IN_HOST

if TYPE_CHECKING:
    from ..core.diffusion.guidance import Guidance

POST, CALC = "sampler_post_cfg_function", "sampler_calc_cond_batch_function"
"""Where the host's model options keep what works after guidance, and what computes both of its sides."""


def with_guidance(model: Any, guidance: "Guidance") -> Any:
    """The MODEL for samplers that temper guidance, in place of what an earlier call said; the weights are shared.

    In the host it works on any model and in any sampler, after a stock node's own guidance function.
    """
    if not IN_HOST:
        return model.with_guidance(guidance)
    hooks, patched = Hooks(guidance), model.clone()
    options = patched.model_options
    options[POST] = [hook for hook in options.get(POST, []) if not _is_ours(hook)]
    patched.set_model_sampler_post_cfg_function(hooks.after)
    if CALC not in options or _is_ours(options[CALC]):
        patched.set_model_sampler_calc_cond_batch_function(hooks.sides)
    return patched


class Hooks:
    """What the host calls at each step. sigma: [B]."""

    def __init__(self, guidance: "Guidance") -> None:
        self.guidance = guidance

    def after(self, args: dict[str, Any]) -> Tensor:
        """denoised -> denoised, once guidance was applied."""
        from ..core.diffusion.guidance import rescaled
        from .host_table import HostTable

        table = HostTable(args["model"].model_sampling)
        if not self.guidance.works_at(args["sigma"], table):
            return args["cond_denoised"]
        if self.guidance.rescale == 0:
            return args["denoised"]
        sides = args["denoised"], args["cond_denoised"]
        return rescaled(*sides, args["input"], args["sigma"], self.guidance.rescale, table.flow)

    def sides(self, args: dict[str, Any]) -> list[Tensor]:
        """[positive, negative]; where guidance is off, the positive for both, at the price of one."""
        from comfy.samplers import calc_cond_batch

        from .host_table import HostTable

        conds, rest = args["conds"], (args["input"], args["sigma"], args["model_options"])
        works = self.guidance.works_at(args["sigma"], HostTable(args["model"].model_sampling))
        if works or conds[1] is None:
            return calc_cond_batch(args["model"], conds, *rest)
        return calc_cond_batch(args["model"], conds[:1], *rest) * 2


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), Hooks)
