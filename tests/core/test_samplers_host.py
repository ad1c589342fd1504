"""The host's own numbers: every schedule and every solver with its noise, start, mask and end.

Made with ComfyUI 0.3.64's KSampler and KSAMPLER, torch 2.13 on a CPU, a batch of one, and the network, tables, latents
and masks below. Four values of each result, by flat index. Where the host draws from a Brownian tree it was handed our
draws; its uni_pc and deis were run in float64, for in float32 they are up to 1e-4 off from rounding. Left out: a flow
by ddpm (the host's rounding), by dpmpp_sde (its tree is in another variable) and by uni_pc (the host also divides by
1 - 0.001, for it writes the last level into the levels).
"""

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.diffusion.tables import FlowTable, NoiseTable, Table
from vitrail.core.samplers.run import sample
from vitrail.core.types import Condition

# fmt: off
SIGMAS: dict[tuple[str, str, int, float], list[float]] = {
    ("scaled_linear", "normal", 5, 1.0): [14.6146402, 4.08608103, 1.61558032, 0.695149541, 0.0291671604, 0.0],
    ("scaled_linear", "normal", 3, 0.4): [0.932357967, 0.493551701, 0.0291671604, 0.0],
    ("scaled_linear", "simple", 5, 1.0): [14.6146412, 5.08776331, 2.27646303, 1.16057837, 0.569284916, 0.0],
    ("scaled_linear", "simple", 3, 0.4): [1.2762351, 0.790060937, 0.438061744, 0.0],
    ("scaled_linear", "ddim_uniform", 5, 1.0): [5.13443089, 2.29285383, 1.16821599, 0.574050248, 0.0413144119, 0.0],
    ("scaled_linear", "ddim_uniform", 3, 0.4): [0.790060937, 0.440309018, 0.0413144119, 0.0],
    ("scaled_linear", "ddim_uniform", 7, 1.0): [
        14.2651091, 6.57064962, 3.4854548, 2.04731178, 1.2720629, 0.790060937, 0.440309018, 0.0413144119, 0.0,
    ],
    ("scaled_linear", "sgm_uniform", 5, 1.0): [14.6146402, 5.09240818, 2.27973056, 1.16286457, 0.571188867, 0.0],
    ("scaled_linear", "sgm_uniform", 3, 0.4): [1.2768321, 0.791259825, 0.439665735, 0.0],
    ("scaled_linear", "karras", 5, 1.0): [14.6146431, 4.79653454, 1.27410078, 0.247949973, 0.0291671772, 0.0],
    ("scaled_linear", "karras", 3, 0.4): [0.446918577, 0.130307689, 0.0291671772, 0.0],
    ("scaled_linear", "exponential", 5, 1.0): [14.6146402, 3.08897638, 0.652891755, 0.137996376, 0.0291671604, 0.0],
    ("scaled_linear", "exponential", 3, 0.4): [0.231664181, 0.0822008997, 0.0291671604, 0.0],
    ("flow", "normal", 5, 1.0): [1.0, 0.900359035, 0.751121104, 0.50298506, 0.00892857183, 0.0],
    ("flow", "normal", 3, 0.4): [0.602150559, 0.379194617, 0.00892857183, 0.0],
    ("flow", "simple", 5, 1.0): [1.0, 0.923076987, 0.818181813, 0.666666687, 0.428571463, 0.0],
    ("flow", "simple", 3, 0.4): [0.69268024, 0.54580152, 0.333592534, 0.0],
    ("flow", "ddim_uniform", 5, 1.0): [0.92396307, 0.819419265, 0.668514431, 0.431623936, 0.0059760958, 0.0],
    ("flow", "ddim_uniform", 3, 0.4): [0.54580152, 0.335403711, 0.0059760958, 0.0],
    ("flow", "ddim_uniform", 7, 1.0): [
        0.998663068, 0.946085632, 0.881188154, 0.799065471, 0.691810369, 0.54580152, 0.335403711, 0.0059760958, 0.0,
    ],
    ("flow", "sgm_uniform", 5, 1.0): [1.0, 0.923342466, 0.818923295, 0.668326676, 0.432225078, 0.0],
    ("flow", "sgm_uniform", 3, 0.4): [0.693793058, 0.548045635, 0.337972194, 0.0],
    ("flow", "karras", 5, 1.0): [1.0, 0.345090359, 0.0983614475, 0.0212884843, 0.00299401279, 0.0],
    ("flow", "karras", 3, 0.4): [0.0368316881, 0.0117442962, 0.00299401279, 0.0],
    ("flow", "exponential", 5, 1.0): [1.0, 0.233917862, 0.0547175631, 0.0127994185, 0.00299401185, 0.0],
    ("flow", "exponential", 3, 0.4): [0.02077315, 0.00788638461, 0.00299401185, 0.0],
}
RUNS: dict[tuple[str, str, str], list[float]] = {
    ("eps", "euler", "text"): [-1.112496, -0.915747, -2.938816, -0.8591146],
    ("eps", "euler", "image"): [-1.026212, -0.8792785, -1.213163, 0.9563901],
    ("eps", "euler", "mask"): [-2.0, -0.8792785, -0.2608695, 0.9563901],
    ("eps", "euler_ancestral", "text"): [-0.8917851, -0.9525455, -3.510585, -0.5466819],
    ("eps", "euler_ancestral", "image"): [-0.7168919, -0.9201032, -1.325457, 0.8246111],
    ("eps", "euler_ancestral", "mask"): [-2.0, -0.9201032, -0.2608695, 0.8246111],
    ("eps", "ddim", "text"): [-1.112496, -0.915747, -2.938816, -0.8591146],
    ("eps", "ddim", "image"): [-1.026212, -0.8792785, -1.213163, 0.9563901],
    ("eps", "ddim", "mask"): [-2.0, -0.8792785, -0.2608695, 0.9563901],
    ("eps", "heun", "text"): [0.2447479, -0.8790946, -2.621091, 1.658771],
    ("eps", "heun", "image"): [-1.158675, -0.9899258, -1.348256, 1.048495],
    ("eps", "heun", "mask"): [-2.0, -0.9899258, -0.2608695, 1.048495],
    ("eps", "dpmpp_2m", "text"): [0.5665948, -0.6565005, -2.719296, 1.755806],
    ("eps", "dpmpp_2m", "image"): [-1.105803, -0.9464997, -1.290575, 1.005684],
    ("eps", "dpmpp_2m", "mask"): [-2.0, -0.9464997, -0.2608695, 1.005684],
    ("eps", "ipndm", "text"): [-0.7430321, -0.9131006, -2.856359, -0.2203293],
    ("eps", "ipndm", "image"): [-1.076885, -0.9221851, -1.265126, 0.9897913],
    ("eps", "ipndm", "mask"): [-2.0, -0.9221851, -0.2608695, 0.9897913],
    ("v", "euler", "text"): [-0.2203795, -0.1059445, -0.0002484999, -0.3499804],
    ("v", "euler", "image"): [-0.2552724, -0.2526718, -0.3214191, -0.05508398],
    ("v", "euler", "mask"): [-2.0, -0.2526718, -0.2608695, -0.05508398],
    ("v", "euler_ancestral", "text"): [0.00690813, -0.04254162, 0.336922, -0.2724948],
    ("v", "euler_ancestral", "image"): [-0.0745291, -0.2436738, -0.2834595, -0.1451365],
    ("v", "euler_ancestral", "mask"): [-2.0, -0.2436738, -0.2608695, -0.1451365],
    ("v", "ddim", "text"): [-0.2203795, -0.1059445, -0.0002484999, -0.3499804],
    ("v", "ddim", "image"): [-0.2552724, -0.2526718, -0.3214191, -0.05508398],
    ("v", "ddim", "mask"): [-2.0, -0.2526718, -0.2608695, -0.05508398],
    ("v", "heun", "text"): [-0.6065425, -1.648253, -2.990807, 0.7171893],
    ("v", "heun", "image"): [-0.9027657, -0.8784451, -1.226242, 0.5968018],
    ("v", "heun", "mask"): [-2.0, -0.8784451, -0.2608695, 0.5968018],
    ("v", "dpmpp_2m", "text"): [-0.2862812, -0.4646094, -0.6421823, -0.07403212],
    ("v", "dpmpp_2m", "image"): [-0.7429681, -0.7247767, -0.9709783, 0.3897891],
    ("v", "dpmpp_2m", "mask"): [-2.0, -0.7247767, -0.2608695, 0.3897891],
    ("v", "ipndm", "text"): [-0.2928064, -0.3720857, -0.5371828, -0.1609668],
    ("v", "ipndm", "image"): [-0.4518738, -0.4429602, -0.5890362, 0.1296722],
    ("v", "ipndm", "mask"): [-2.0, -0.4429602, -0.2608695, 0.1296722],
    ("flow", "euler", "text"): [-0.2470359, -0.2078867, -0.408023, -0.1935428],
    ("flow", "euler", "image"): [-1.615778, -0.7117518, -0.395712, 1.624831],
    ("flow", "euler", "mask"): [-2.0, -0.7117518, -0.2608695, 1.624831],
    ("flow", "euler_ancestral", "text"): [-0.2243764, -0.2288757, -0.4194299, -0.1585332],
    ("flow", "euler_ancestral", "image"): [-1.516312, -0.6984935, -0.4232947, 1.544863],
    ("flow", "euler_ancestral", "mask"): [-2.0, -0.6984935, -0.2608695, 1.544863],
    ("flow", "ddim", "text"): [-0.2470359, -0.2078867, -0.408023, -0.1935428],
    ("flow", "ddim", "image"): [-1.615778, -0.7117518, -0.395712, 1.624831],
    ("flow", "ddim", "mask"): [-2.0, -0.7117518, -0.2608695, 1.624831],
    ("flow", "heun", "text"): [-0.2539819, -0.4010638, -0.7169419, -0.006896676],
    ("flow", "heun", "image"): [-1.623878, -0.7166877, -0.3978903, 1.628336],
    ("flow", "heun", "mask"): [-2.0, -0.7166877, -0.2608695, 1.628336],
    ("flow", "dpmpp_2m", "text"): [-0.2501167, -0.3163033, -0.5797605, -0.08868144],
    ("flow", "dpmpp_2m", "image"): [-1.620563, -0.7147044, -0.3970127, 1.626874],
    ("flow", "dpmpp_2m", "mask"): [-2.0, -0.7147044, -0.2608695, 1.626874],
    ("flow", "ipndm", "text"): [-0.2487376, -0.2520445, -0.4788852, -0.1512329],
    ("flow", "ipndm", "image"): [-1.618119, -0.7131689, -0.3963388, 1.625847],
    ("flow", "ipndm", "mask"): [-2.0, -0.7131689, -0.2608695, 1.625847],
    ("eps", "ipndm_v", "image"): [-1.052725, -0.9018131, -1.241042, 0.9740416],
    ("eps", "lms", "image"): [-1.04241, -0.8929755, -1.229152, 0.9665676],
    ("eps", "deis", "image"): [-1.052233, -0.9012551, -1.238579, 0.9726343],
    ("eps", "dpm_2", "image"): [-1.134033, -0.9668894, -1.322066, 1.035086],
    ("eps", "dpm_2_ancestral", "image"): [-1.025952, -1.209235, -1.667557, 1.055671],
    ("eps", "heunpp2", "image"): [-1.054391, -0.9022645, -1.242257, 0.9774324],
    ("eps", "dpm_fast", "image"): [-1.134449, -0.9702663, -1.328655, 1.047508],
    ("eps", "dpm_adaptive", "image"): [-1.113391, -0.9491125, -1.30557, 1.037803],
    ("eps", "dpmpp_2s_ancestral", "image"): [-0.7980798, -0.9959726, -1.421717, 0.8900441],
    ("eps", "dpmpp_sde", "image"): [-0.5830506, -0.8082227, -0.9791335, 0.6249893],
    ("eps", "dpmpp_2m_sde", "image"): [-0.6057954, -1.047994, -1.591626, 0.7776116],
    ("eps", "dpmpp_2m_sde_heun", "image"): [-0.5443133, -1.131558, -1.781993, 0.740529],
    ("eps", "dpmpp_3m_sde", "image"): [-0.4670147, -1.108786, -1.603122, 0.8029403],
    ("eps", "er_sde", "image"): [-0.9981559, -0.9938437, -1.440632, 1.076849],
    ("eps", "ddpm", "image"): [-0.7168921, -0.9201033, -1.325458, 0.8246112],
    ("eps", "lcm", "image"): [-0.6289726, -0.8561609, -1.21124, 0.6483309],
    ("eps", "uni_pc", "image"): [-1.243205, -1.062282, -1.422929, 1.09095],
    ("eps", "uni_pc_bh2", "image"): [-1.116411, -0.9553984, -1.300994, 1.012901],
    ("eps", "res_multistep", "image"): [-1.131914, -0.9685345, -1.315832, 1.021801],
    ("eps", "gradient_estimation", "image"): [-1.118327, -0.957009, -1.304387, 1.015399],
    ("eps", "euler_cfg_pp", "image"): [-1.026212, -0.8792784, -1.213163, 0.9563902],
    ("eps", "euler_ancestral_cfg_pp", "image"): [-0.7168919, -0.9201031, -1.325457, 0.8246112],
    ("eps", "dpmpp_2m_cfg_pp", "image"): [-1.105803, -0.9464996, -1.290575, 1.005684],
    ("flow", "ipndm_v", "image"): [-1.616694, -0.7122947, -0.3959533, 1.625234],
    ("flow", "lms", "image"): [-1.616679, -0.712305, -0.395956, 1.625217],
    ("flow", "deis", "image"): [-1.616684, -0.7123084, -0.3959574, 1.625219],
    ("flow", "dpm_2", "image"): [-1.625908, -0.7181466, -0.3985135, 1.629122],
    ("flow", "dpm_2_ancestral", "image"): [-1.536462, -0.7107752, -0.4288025, 1.553634],
    ("flow", "heunpp2", "image"): [-1.617804, -0.7129902, -0.3962581, 1.625706],
    ("flow", "dpm_fast", "image"): [-1.622887, -0.7155598, -0.3971427, 1.629157],
    ("flow", "dpm_adaptive", "image"): [-1.624363, -0.716657, -0.3976094, 1.629706],
    ("flow", "dpmpp_2s_ancestral", "image"): [-1.522513, -0.7022893, -0.4249889, 1.54755],
    ("flow", "dpmpp_2m_sde", "image"): [-1.444014, -0.6917114, -0.4518814, 1.481533],
    ("flow", "dpmpp_2m_sde_heun", "image"): [-1.39908, -0.6880239, -0.4721871, 1.441315],
    ("flow", "dpmpp_3m_sde", "image"): [-1.398106, -0.6869594, -0.4583469, 1.449618],
    ("flow", "er_sde", "image"): [-1.612596, -0.7176139, -0.4081587, 1.62833],
    ("flow", "lcm", "image"): [-1.478626, -0.6850796, -0.4195981, 1.503578],
    ("flow", "res_multistep", "image"): [-1.622189, -0.7157093, -0.3974551, 1.627567],
    ("flow", "gradient_estimation", "image"): [-1.621159, -0.7150562, -0.3971688, 1.627139],
    ("flow", "euler_cfg_pp", "image"): [-1.615778, -0.7117516, -0.395712, 1.62483],
    ("flow", "euler_ancestral_cfg_pp", "image"): [-1.513657, -0.6976227, -0.4232387, 1.542017],
    ("flow", "dpmpp_2m_cfg_pp", "image"): [-1.620563, -0.7147045, -0.3970127, 1.626874],
}
# fmt: on

LEVELS: dict[str, Table] = {"scaled_linear": NoiseTable.scaled_linear(), "flow": FlowTable(shift=3.0)}
TABLES: dict[str, Table] = {
    "eps": NoiseTable.scaled_linear(),
    "v": NoiseTable.cosine(1000, end=0.98),
    "flow": FlowTable(shift=2.0),
}
SEED = 1234


@pytest.mark.parametrize(("table", "name", "steps", "denoise"), SIGMAS)
def test_schedules_are_the_host_s(table: str, name: str, steps: int, denoise: float) -> None:
    expected = torch.tensor(SIGMAS[table, name, steps, denoise])
    got = make_sigmas(name, LEVELS[table], steps, denoise)
    assert got.shape == expected.shape and torch.allclose(got, expected, rtol=2e-7, atol=0)


def network(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
    return torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000) + 0.3)


@pytest.mark.parametrize(("kind", "name", "what"), RUNS)
def test_runs_are_the_host_s(kind: str, name: str, what: str) -> None:
    table = TABLES[kind]
    latent = torch.zeros(1, 2, 3, 4) if what == "text" else torch.linspace(-2, 2, 24).reshape(1, 2, 3, 4)
    mask = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(3, 4) if what == "mask" else None
    *_, last = sample(
        Denoiser(network, table, kind),
        latent,
        make_sigmas("karras", table, 4, 1.0 if what == "text" else 0.6),
        sampler=name,
        noise=seeded(latent, SEED),
        mask=mask,
        sigma_max=table.sigma_max,
        flow=table.flow,
    )
    assert last.x.flatten()[[0, 7, 10, 23]].tolist() == pytest.approx(RUNS[kind, name, what], rel=1e-5, abs=1e-5)
