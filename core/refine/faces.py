"""What restorers of faces have in common: they take one aligned face of one size, whole."""

import torch
from torch import Tensor, nn

from ..errors import ConfigError, VitrailError
from ..memory import out_of_memory
from .resize import resize


class FaceRestorer(nn.Module):
    """A network that restores the picture of an aligned face of `face` x `face` pixels.

    forward: (x, fidelity), x [B, 3, face, face] in -1..1 -> the same shape, about -1..1.
    Outside of tests use `picture` or `refine`, which take pictures of any size in 0..1.
    """

    scale = 1
    discriminator = None
    whole = True
    """It must see a face whole, never in tiles."""

    @property
    def face(self) -> int:
        """The side in pixels of the pictures that it restores."""
        raise NotImplementedError

    @torch.no_grad()
    def picture(self, image: Tensor, fidelity: float = 0.5) -> Tensor:
        """Restored pictures of the same size: each is brought to the size that the network learnt on, and back.

        image: [B, 3, H, W] in 0..1. fidelity: 0..1, passed over by a network that has no such control.
        Returns [B, 3, H, W] float32 in 0..1.
        Raises: ConfigError for another fidelity, VitrailError where memory runs out for one face.
        """
        if not 0 <= fidelity <= 1:
            raise ConfigError(f"fidelity is {fidelity}; expected 0 (invents most) to 1 (nearest to the picture)")
        try:
            return torch.cat([self._restored(one, fidelity) for one in image.split(1)])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise VitrailError(f"memory ran out for a face of {self.face} x {self.face} pixels: free some") from error

    def refine(self, image: Tensor, tile: int = 0, overlap: int = 16, fidelity: float = 0.5) -> Tensor:
        """As `picture`; a face is restored whole, so that tiles do not apply."""
        return self.picture(image, fidelity)

    def realism(self, image: Tensor) -> Tensor:
        """Raises: ConfigError: its files have no critic."""
        raise ConfigError("this refiner was saved without its critic; load one that has a discriminator")

    def _restored(self, image: Tensor, fidelity: float) -> Tensor:
        x = resize(image, (self.face, self.face)).to(next(self.parameters())) * 2 - 1
        made = (self(x, fidelity).float() + 1) / 2
        return resize(made, (image.shape[2], image.shape[3])).clamp(0, 1).to(image.device)
