"""Blocks of CompVis's autoencoders; attribute names are the keys of public checkpoints.

Source: Esser et al. 2021 (VQGAN), Rombach et al. 2022 (latent diffusion); both after Ho et al. 2020.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm over so many groups, or over as many as `channels` has where it is narrower; eps 1e-6."""
    return nn.GroupNorm(min(groups, channels), channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), a 1x1 convolution on the short way where the width changes.

    forward: [B, inputs, H, W] -> [B, outputs, H, W].
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs, groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs, groups), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """x + attention of one head over all positions.

    forward: [B, channels, H, W] -> the same shape.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out[:, 0].transpose(1, 2).reshape(x.shape))


class LinearAttnBlock(nn.Module):
    """Attention whose cost grows with the number of positions, not with its square; neither normed nor added.

    out(context^T q),  context = softmax_positions(k) v^T
    forward: [B, channels, H, W] -> the same shape.
    Source: Shen et al. 2018, "Efficient attention", without the softmax of q, as latent-diffusion has it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).flatten(2).chunk(3, dim=1)
        return self.answer(q, self.context(k, v)).view(x.shape)

    def context(self, k: Tensor, v: Tensor) -> Tensor:
        """Keys and values of all positions, [B, channels, N] each -> [B, channels, channels]."""
        return v @ k.softmax(dim=-1).transpose(1, 2)

    def answer(self, q: Tensor, context: Tensor) -> Tensor:
        """Queries of some positions, [B, channels, n] -> [B, channels, n]."""
        return self.to_out((context @ q)[..., None])[..., 0]


class Downsample(nn.Module):
    """Halve the size by a strided convolution, padded on the right and below only, as the public models were trained.

    conv: or else by the mean of 2x2 pixels.
    forward: [B, channels, H, W] -> [B, channels, H / 2, W / 2].
    """

    def __init__(self, channels: int, conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the size by repeating pixels, then convolve unless `conv` is false.

    forward: [B, inputs, H, W] -> [B, outputs, 2 H, 2 W]; outputs: None for as many as inputs.
    """

    def __init__(self, inputs: int, conv: bool = True, outputs: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs or inputs, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class BilinearDownsample(nn.Module):
    """Halve the size bilinearly (the mean of each 2 x 2 pixels), then convolve to another width.

    forward: [B, inputs, H, W] -> [B, outputs, H / 2, W / 2].
    Source: Gu et al. 2022 (VQFR), as published.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False))


class BilinearUpsample(nn.Module):
    """Convolve to another width, then double the size bilinearly.

    forward: [B, inputs, H, W] -> [B, outputs, 2 H, 2 W].
    Source: as `BilinearDownsample`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(self.conv(x))


def enlarged(x: Tensor) -> Tensor:
    """A picture of twice the size, bilinearly: [B, C, H, W] -> [B, C, 2 H, 2 W]."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
