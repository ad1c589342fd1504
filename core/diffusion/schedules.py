"""Schedules: the noise levels that a sampler walks down."""

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from .spacing import ays, exponential, karras, kl_optimal, laplace, linear_quadratic, polyexponential, vp
from .spacing_time import beta, ddim_quad, ddim_trailing, ddim_uniform, normal, sgm_uniform, simple
from .spans import Schedule, Span
from .tables import FlowTable, LogTable, NoiseTable, Table

__all__ = ["SCHEDULES", "FlowTable", "LogTable", "NoiseTable", "Schedule", "Span", "Table", "make_sigmas"]

SCHEDULES: dict[str, Schedule] = {
    "normal": normal,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
    "polyexponential": polyexponential,
    "vp": vp,
    "laplace": laplace,
    "ays": ays,
    "ddim_trailing": ddim_trailing,
    "ddim_quad": ddim_quad,
}
"""By ComfyUI's names where it has them."""

FREE = ("karras", "exponential", "polyexponential", "vp", "laplace", "kl_optimal", "linear_quadratic", "ays")
"""Schedules that may leave the table, because they only need its ends."""

RHO = 7.0
OWN_RHO = {"polyexponential": 1.0}
"""What the default of rho means where that of karras would make no sense."""


def make_sigmas(
    name: str,
    table: Table,
    steps: int,
    denoise: float = 1.0,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    rho: float = RHO,
) -> Tensor:
    """The noise levels that a sampler walks down.

    name: a key of SCHEDULES. steps: >= 1.
    denoise: 0 .. 1; below 1, the last `steps` steps of a schedule of int(steps / denoise); 0 gives no step at all.
    sigma_min, sigma_max: ends of the schedule in latent units; 0 = the table's.
    rho: exponent of karras and polyexponential, > 0; 7, the default, means 1 for the latter.
    Returns [steps + 1] float32, never rising, the last one 0 ([0] for denoise 0; ddim_uniform may give more steps, beta
    fewer).
    Raises: ConfigError on an unknown name or a value out of range.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"no schedule is named {name!r}; there are {', '.join(SCHEDULES)}")
    if steps < 1 or not 0 <= denoise <= 1 or rho <= 0:
        raise ConfigError(f"a schedule needs steps >= 1, denoise in 0..1 and rho > 0, not {steps}, {denoise}, {rho}")
    if denoise == 0:
        return torch.zeros(0)
    span = _span(name, table, sigma_min, sigma_max, OWN_RHO.get(name, rho) if rho == RHO else rho)
    if denoise > 0.9999:
        return SCHEDULES[name](steps, span)
    return SCHEDULES[name](int(steps / denoise), span)[-(steps + 1) :]


def _span(name: str, table: Table, sigma_min: float, sigma_max: float, rho: float) -> Span:
    span = Span(table=table, sigma_min=sigma_min or table.sigma_min, sigma_max=sigma_max or table.sigma_max, rho=rho)
    if not 0 < span.sigma_min < span.sigma_max < math.inf:
        raise ConfigError(f"sigma_min {span.sigma_min:g} must lie above 0 and below sigma_max {span.sigma_max:g}")
    inside = table.sigma_min * 0.999 <= span.sigma_min and span.sigma_max <= table.sigma_max * 1.001
    if name not in FREE and (not inside or len(span.sigmas) < 2):
        raise ConfigError(
            f"{name} picks levels of the model's table, {table.sigma_min:g} to {table.sigma_max:g}, and finds none "
            f"for {span.sigma_min:g} to {span.sigma_max:g}; use karras or exponential to leave the table"
        )
    return span
