"""The places inside the UNet where a caller may look at what passes and change it."""

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.unet import UNet, UNetConfig
from vitrail.core.nn.attention import CrossAttention
from vitrail.core.nn.hooks import Hooks

CONFIG = UNetConfig(
    in_channels=4, out_channels=4, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=2,
    attention_resolutions=(2,), context_dim=8, transformer_depth=2,
)  # fmt: skip


class Recorder(Hooks):
    """Writes down where it is, and what it was handed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def start(self, h: Tensor, emb: Tensor) -> Tensor:
        self.seen.append(f"start {tuple(h.shape)} {tuple(emb.shape)}")
        return emb

    def block(self, part: str, index: int) -> None:
        self.seen.append(f"{part} {index}")

    def transformer(self, x: Tensor, depth: int) -> None:
        self.seen.append(f"transformer {depth} {tuple(x.shape)}")

    def attend(self, name: str, layer: CrossAttention, x: Tensor, context: Tensor | None) -> Tensor:
        self.seen.append(f"{name} {None if context is None else tuple(context.shape)}")
        return layer(x, context)


class Doubling(Hooks):
    """Changes what passes at one place."""

    def __init__(self, place: str) -> None:
        self.place = place

    def start(self, h: Tensor, emb: Tensor) -> Tensor:
        return emb * 2 if self.place == "start" else emb

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return h * (2 if self.place == "down" else 1), h * (2 if self.place == "skip" else 1)

    def after_middle(self, h: Tensor) -> Tensor:
        return h * 2 if self.place == "middle" else h

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return (h * 2, skip * 2) if self.place == "up" else (h, skip)

    def attend(self, name: str, layer: CrossAttention, x: Tensor, context: Tensor | None) -> Tensor:
        return layer(x, context) * (2 if self.place == name else 1)

    def between(self, x: Tensor) -> Tensor:
        return x * 2 if self.place == "between" else x


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    made = UNet(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return made


@torch.no_grad()
def predict(network: UNet, hooks: Hooks | None = None) -> Tensor:
    torch.manual_seed(1)
    given = torch.randn(2, 4, 7, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 8)
    return network(*given) if hooks is None else network(*given, hooks=hooks)


def test_hooks_see_every_block_in_its_order_and_change_nothing_by_themselves(network: UNet) -> None:
    hooks = Recorder()
    assert torch.equal(predict(network, hooks), predict(network))
    inside = [f"transformer {i} (2, 64, 4, 4)" for i in range(2)]
    block = [line for name in inside for line in (name, "attn1 None", "attn2 (2, 5, 8)")]
    assert hooks.seen == [
        "start (2, 4, 8, 8) (2, 128)",
        "input 0", "input 1", "input 2", "input 3", *block, "middle 0", *block,
        "output 0", *block, "output 1", *block, "output 2", "output 3",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["start", "down", "skip", "middle", "up", "attn1", "attn2", "between"])
def test_what_a_hook_changes_reaches_the_result(network: UNet, place: str) -> None:
    assert torch.equal(predict(network, Doubling("nowhere")), predict(network))
    assert (predict(network, Doubling(place)) - predict(network)).abs().max() > 1e-3


def test_the_parts_of_an_attention_make_the_whole() -> None:
    layer = CrossAttention(8, None, heads=2, head_width=4, dropout=0.0)
    x = torch.randn(2, 6, 8)
    assert torch.equal(layer.to_out(layer.mix(layer.to_q(x), layer.to_k(x), layer.to_v(x))), layer(x))
