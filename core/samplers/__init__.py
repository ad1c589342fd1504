"""Solvers: generators that walk a latent down the noise levels."""

from .ancestral import euler_ancestral
from .multistep import dpmpp_2m, ipndm
from .runge_kutta import CHURN, euler, heun
from .sampler import Sampler

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler, order=1, options=CHURN),
    "euler_ancestral": Sampler(euler_ancestral, order=1, stochastic=True, options=("noise", "eta", "s_noise", "flow")),
    "ddim": Sampler(euler, order=1, repaints=True),
    "heun": Sampler(heun, order=2, options=CHURN),
    "dpmpp_2m": Sampler(dpmpp_2m, order=2),
    "ipndm": Sampler(ipndm, order=2),
}
"""By ComfyUI's names. A new solver is a generator function and a row here."""
