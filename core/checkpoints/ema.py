"""Averaged weights: CompVis keeps a moving average of a model's weights in the same file.

The average of `model.a.b.weight` is `model_ema.abweight`: the dots of its name are gone, so the plain names tell which
is which. Averages that a torch file keeps under "ema", beside the plain weights, are read by the same names.
Source: github.com/CompVis/latent-diffusion, ldm/modules/ema.py; github.com/FoundationVision/LlamaGen,
tokenizer/tokenizer_image/vq_train.py.
"""

from ..errors import CheckpointError
from .header import Header

PREFIX = "model_ema."
COUNTERS = frozenset(("decay", "num_updates"))


def with_weights(header: Header, ema: bool | None) -> tuple[Header, str]:
    """The header without averages, its weights the averaged or the plain ones, and which of them in words.

    ema: True for the averages, False for the plain weights, None for the averages where they are complete. BasicSR's
    `params_ema` are what its own code opens: they are taken whatever is asked for.
    Raises: CheckpointError where averages are asked for and missing or incomplete.
    """
    if header.averaged:
        return header, f"averaged ({header.averaged})"
    averages = {name[len(PREFIX) :]: name for name in header.tensors if name.startswith(PREFIX)}
    plain = {name: name for name in header.tensors if not name.startswith(PREFIX)}
    if not averages:
        if ema:
            raise CheckpointError(f"{header.path.name} holds no averaged weights (model_ema): open the plain ones")
        return header, "plain"
    pairs = _pairs(header, averages)
    whole = bool(pairs) and len(pairs) == len(set(averages) - COUNTERS) and not _lacking(header, pairs)
    if ema and not whole:
        raise CheckpointError(f"{header.path.name}: its averages (model_ema) are incomplete: take the plain ones")
    if ema is False or not whole:
        return header.renamed(plain), "plain"
    return header.renamed({pairs.get(name, name): name for name in plain}), "averaged (model_ema)"


def _pairs(header: Header, averages: dict[str, str]) -> dict[str, str]:
    """Each plain name that has an average of its shape -> the name of that."""
    pairs = {}
    for name, info in header.tensors.items():
        average = averages.get(name.removeprefix("model.").replace(".", ""))
        if average is not None and header.tensors[average].shape == info.shape:
            pairs[name] = average
    return pairs


def _lacking(header: Header, pairs: dict[str, str]) -> list[str]:
    """Plain names without an average, in the parts of the model that have averages; lists of numbers have none."""
    parts = {name.partition(".")[0] for name in pairs} - {"loss"}  # buffers of a loss have none
    weights = (name for name, info in header.tensors.items() if info.dtype.is_floating_point)
    return [name for name in weights if name not in pairs and name.partition(".")[0] in parts]
