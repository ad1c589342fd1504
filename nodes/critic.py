"""The node that asks a critic what it thinks of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ConfigError, VitrailError
from . import host
from .spec import InputTypes, Node, given, socket

NO_CRITIC = (
    "it was saved without its discriminator. Take one that has it: the shipped refiner, a refiner trained here, or a "
    "training checkpoint of a VQGAN with loss.discriminator in it"
)


class GANCritic(Node):
    """Ask a critic how real pictures look."""

    ID, TITLE, CATEGORY = "VitrailCritic", "GAN Critic", "Vitrail/refine"
    DESCRIPTION = (
        "Shows where a picture looks real, and where generated, to the critic that a refiner or a VQGAN learnt from. "
        "Inverted, the mask says where to refine or to paint again."
    )
    SEARCH_ALIASES = ["discriminator", "patchgan", "realism", "quality map", "artifacts", "score image"]
    RETURN_TYPES, RETURN_NAMES = ("MASK", "FLOAT"), ("realism", "score")
    OUTPUT_TOOLTIPS = (
        "1 where a picture looks real to the critic, 0 where it looks generated, 0.5 where it cannot tell.",
        "The mean of the mask over all pictures, 0 to 1. Compare it only between pictures judged by one critic.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "image": socket("IMAGE", "Pictures of any size that the critic takes; transparent parts lie on white."),
                "critic": socket(
                    "GAN_REFINER,VQ_MODEL",
                    "From Load GAN Refiner, or from Load VQ Autoencoder where the file still holds the discriminator "
                    "of its training.",
                ),
            }
        }

    def execute(self, image: Tensor, critic: Any) -> tuple[Tensor, float]:
        critic = given(critic, "critic", "its loader gave none: look at Load GAN Refiner or Load VQ Autoencoder")
        discriminator = getattr(critic, "discriminator", None)
        if discriminator is None:
            raise ConfigError(f'what is wired to "critic" has no discriminator: {NO_CRITIC}')
        x = host.split_alpha(image)[0].float().cpu()
        x = critic.from_rgb(x) if hasattr(critic, "from_rgb") else x
        owner = critic if discriminator in critic.children() else discriminator
        with host.loaded(owner, (1, *x.shape[1:])) as device:
            realism = torch.cat(list(host.progress(_judge(discriminator, x, device), len(x))))
        return realism, float(realism.double().mean())


def _judge(discriminator: Any, x: Tensor, device: torch.device) -> Iterator[Tensor]:
    """The realism of one picture after the other, [1, H, W]. Raises: VitrailError where memory runs out."""
    from ..core.losses.critics import realism
    from ..core.memory import out_of_memory

    for picture in x.split(1):
        try:
            found = realism(discriminator, picture.to(device)).cpu()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = f"{x.shape[3]} x {x.shape[2]}"
            raise VitrailError(f"memory ran out for a picture of {size} pixels: make it smaller") from error
        yield found


NODES = (GANCritic,)
