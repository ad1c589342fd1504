"""The one door between the nodes and ComfyUI. Everything here also works without it.

| socket | in the host | headless |
|---|---|---|
| MODEL | ModelPatcher | core LatentDiffusion |
| CLIP | the host's CLIP | core StyleTextEncoder |
| VAE | a subclass of the host's VAE | core Autoencoder |
| UPSCALE_MODEL | callable with .model, .scale, .to() | core Refiner |
| SAMPLER | KSAMPLER | Solver |
| VQ_MODEL, GAN_REFINER, VQ_CODES | core objects | core objects |
| IMAGE, MASK, LATENT, SIGMAS, CONDITIONING | the host's own tensors, dicts and lists | the same |

Only the modules host*.py import ComfyUI, and only inside functions.
"""

from .host_clip import encode_text, unwrap_clip, wrap_clip
from .host_concat import picture_keys, with_keys
from .host_condition import Conditioning, conditioning, to_condition
from .host_data import FILES, data_changed, data_names, find_data, save_data
from .host_dtype import honour_flags
from .host_env import IN_HOST, absent, headless_device, set_headless_device
from .host_files import changed, find, names
from .host_guidance import with_guidance
from .host_images import preview_image, preview_ui, split_alpha, to_image
from .host_memory import loaded
from .host_model import unwrap_model, wrap_model
from .host_progress import counted, one_by_one, progress, set_headless_progress
from .host_sampling import Latent, Solver, empty_latent, factor_of, sample, solver
from .host_table import table
from .host_upscale import unwrap_upscaler, wrap_upscaler
from .host_vae import wrap_vae

__all__ = [
    "FILES",
    "IN_HOST",
    "Conditioning",
    "Latent",
    "Solver",
    "absent",
    "changed",
    "conditioning",
    "counted",
    "data_changed",
    "data_names",
    "empty_latent",
    "encode_text",
    "factor_of",
    "find",
    "honour_flags",
    "find_data",
    "headless_device",
    "loaded",
    "names",
    "one_by_one",
    "picture_keys",
    "preview_image",
    "preview_ui",
    "progress",
    "sample",
    "save_data",
    "set_headless_device",
    "set_headless_progress",
    "solver",
    "split_alpha",
    "table",
    "to_condition",
    "to_image",
    "with_guidance",
    "unwrap_clip",
    "unwrap_model",
    "unwrap_upscaler",
    "with_keys",
    "wrap_clip",
    "wrap_model",
    "wrap_upscaler",
    "wrap_vae",
]
