"""Solvers: generators that walk a latent down the noise levels."""

from functools import partial

from .adams import deis, gradient_estimation, ipndm, ipndm_v, lms, plms
from .ancestral import ddpm, dpm_2_ancestral, dpmpp_2s_ancestral, euler_ancestral, lcm
from .cfg_pp import dpmpp_2m_cfg_pp, euler_ancestral_cfg_pp, euler_cfg_pp
from .dpm_solver import dpm_adaptive, dpm_fast
from .multistep import dpmpp_2m, res_multistep
from .runge_kutta import CHURN, dpm_2, euler, heun, heunpp2
from .sampler import Sampler
from .sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde, er_sde
from .uni_pc import uni_pc

ANCESTRAL = ("noise", "eta", "s_noise", "flow")
SDE = ("noise", "eta", "s_noise")

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler, order=1, options=CHURN),
    "euler_ancestral": Sampler(euler_ancestral, order=1, stochastic=True, options=ANCESTRAL),
    "ddim": Sampler(euler, order=1, repaints=True),
    "heun": Sampler(heun, order=2, options=CHURN),
    "dpmpp_2m": Sampler(dpmpp_2m, order=2),
    "ipndm": Sampler(ipndm, order=2),
    "ipndm_v": Sampler(ipndm_v, order=2),
    "plms": Sampler(plms, order=2),
    "lms": Sampler(lms, order=2),
    "deis": Sampler(deis, order=2),
    "dpm_2": Sampler(dpm_2, order=2, options=CHURN),
    "dpm_2_ancestral": Sampler(dpm_2_ancestral, order=2, stochastic=True, options=ANCESTRAL),
    "heunpp2": Sampler(heunpp2, order=1, options=CHURN),
    "dpm_fast": Sampler(dpm_fast, order=2, reaches_zero=False),
    "dpm_adaptive": Sampler(dpm_adaptive, order=3, reaches_zero=False),
    "dpmpp_2s_ancestral": Sampler(dpmpp_2s_ancestral, order=2, stochastic=True, options=ANCESTRAL),
    "dpmpp_sde": Sampler(dpmpp_sde, order=2, stochastic=True, options=SDE, additive=True),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, order=2, stochastic=True, options=SDE, additive=True),
    "dpmpp_2m_sde_heun": Sampler(
        partial(dpmpp_2m_sde, solver_type="heun"), order=2, stochastic=True, options=SDE, additive=True
    ),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, order=2, stochastic=True, options=SDE, additive=True),
    "er_sde": Sampler(er_sde, order=1, stochastic=True, options=("noise", "s_noise"), additive=True),
    "ddpm": Sampler(ddpm, order=1, stochastic=True, options=("noise", "s_noise")),
    "lcm": Sampler(lcm, order=1, stochastic=True, options=("noise", "flow")),
    "uni_pc": Sampler(uni_pc, order=2, reaches_zero=False),
    "uni_pc_bh2": Sampler(partial(uni_pc, bh2=True), order=2, reaches_zero=False),
    "res_multistep": Sampler(res_multistep, order=2),
    "gradient_estimation": Sampler(gradient_estimation, order=1),
    "euler_cfg_pp": Sampler(euler_cfg_pp, order=1, options=("flow",)),
    "euler_ancestral_cfg_pp": Sampler(euler_ancestral_cfg_pp, order=1, stochastic=True, options=ANCESTRAL),
    "dpmpp_2m_cfg_pp": Sampler(dpmpp_2m_cfg_pp, order=2),
}
"""By ComfyUI's names, and plms. A new solver is a generator function and a row here."""
