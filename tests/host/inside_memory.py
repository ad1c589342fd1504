"""Our models in the host's account of memory, the flags that it was started with, and what a cancelled run leaves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from inside_parts import Parts, same, worst


def memory_is_given_back(parts: Parts) -> str:
    import comfy.model_management as management

    own = Parts()
    own.ours()
    own.nodes.VAEDecode().decode(own.vae, own.latent)
    watched = [weakref.ref(own.diffusion.network), weakref.ref(own.autoencoder), weakref.ref(own.diffusion.conditioner)]
    del own
    gc.collect()
    management.cleanup_models_gc()
    gc.collect()
    assert [ref() for ref in watched] == [None] * 3
    return f"{len(watched)} models freed"


def models_offload_and_come_back(parts: Parts) -> str:
    import comfy.model_management as management

    before = parts.ours()
    picture = parts.nodes.VAEDecode().decode(parts.vae, {"samples": before})[0]
    held = [entry.model for entry in management.current_loaded_models]
    assert parts.model in held and parts.vae.patcher in held, held
    management.unload_all_models()
    assert not management.current_loaded_models
    same(parts.ours(), before)
    same(parts.nodes.VAEDecode().decode(parts.vae, {"samples": before})[0], picture)
    return f"{len(held)} models unloaded, the same latent and picture afterwards"


@contextmanager
def small_device(limit: int) -> Iterator[list[int]]:
    """A device of its own for the manager, the CPU under another name, that holds `limit` bytes of weights.

    Hands over the bytes that were loaded after each model that was.
    """
    import comfy.model_management as management
    import torch

    device, used = torch.device("cpu", 0), []
    kept = management.get_torch_device, management.get_free_memory, management.load_models_gpu

    def loaded() -> int:
        entries = management.current_loaded_models
        return sum(entry.model_loaded_memory() for entry in entries if entry.device == device)

    def free(dev: Any = None, torch_free_too: bool = False) -> Any:
        left = limit - loaded() if dev == device else kept[1](dev)
        return (left, left) if torch_free_too else left

    def load(*given: Any, **options: Any) -> None:
        kept[2](*given, **options)
        used.append(loaded())

    names = ("get_torch_device", "get_free_memory", "load_models_gpu")
    for name, stand_in in zip(names, (lambda: device, free, load), strict=True):
        setattr(management, name, stand_in)
    try:
        yield used
    finally:
        management.unload_all_models()
        for name, function in zip(names, kept, strict=True):
            setattr(management, name, function)


def two_models_larger_than_the_limit_finish(parts: Parts) -> str:
    """Each fits alone; the manager sends one away for the other, back and forth, and the latents stay the same."""
    import comfy.model_management as management

    plain = parts.ours(negative=parts.negative)
    size = parts.model.model_size()
    management.unload_all_models()
    extra = management.extra_reserved_memory, management.minimum_inference_memory
    management.extra_reserved_memory = management.minimum_inference_memory = lambda: 0
    try:
        with small_device(int(1.5 * size)) as used:
            pair = [Parts(), Parts()]
            for own in pair:
                own.diffusion.load_state_dict(parts.diffusion.state_dict())
            for own in (*pair, *pair):
                same(own.ours(positive=parts.positive, negative=parts.negative), plain)
            assert pair[0].model.load_device.index == 0
        assert used and max(used) <= 1.5 * size, (used, size)
    finally:
        management.extra_reserved_memory, management.minimum_inference_memory = extra
    same(parts.ours(negative=parts.negative), plain)
    return f"2 of {size / 1e6:.1f} MB on a device of {1.5 * size / 1e6:.1f} MB: at most {max(used) / 1e6:.1f} MB loaded"


def nothing_is_left_after_a_cancel(parts: Parts) -> str:
    """As many tensors and loaded models as before, weights without the LoRA of the cancelled run."""
    import comfy.model_management as management
    import comfy.sd
    import comfy.utils
    import torch
    from inside_checks import lora_of

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    def stop(done: int, *_: Any, **__: Any) -> None:
        """The host's own hook of its progress bars looks for a request to stop, made here after two steps."""
        if done == 2:
            management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    def cancelled() -> None:
        patched, _ = comfy.sd.load_lora_for_models(parts.model, parts.clip, lora_of(parts), 1.0, 1.0)
        comfy.utils.set_progress_bar_global_hook(stop)
        try:
            parts.ours(patched)
        except management.InterruptProcessingException:
            return
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
        raise AssertionError("it was not cancelled")

    before, weights = parts.ours(), {n: w.clone() for n, w in parts.diffusion.network.state_dict().items()}
    cancelled()
    same(parts.ours(), before)
    counted = tensors()
    for _ in range(3):
        cancelled()
        same(parts.ours(), before)
    found = tensors()
    assert found <= counted, f"{found - counted} tensors more"
    assert all(torch.equal(weights[name], w) for name, w in parts.diffusion.network.state_dict().items())
    return f"{found} tensors, as before; weights as before"


def flags_of_precision_are_honoured(parts: Parts) -> str:
    import comfy.cli_args
    import torch

    from vitrail.nodes.loaders import LoadAutoencoder, LoadDiffusion

    args, files = comfy.cli_args.args, {"name": "vitrail-1", "config": "auto"}
    exact = sampled = None
    figures = []
    for flags in ((), ("bf16_unet", "bf16_vae"), ("fp16_unet", "fp16_vae", "fp16_text_enc")):
        for name in flags:
            setattr(args, name, True)
        try:
            model, clip, vae, _ = LoadDiffusion().execute(**files, dtype="auto", prediction="auto")
            forced = LoadDiffusion().execute(**files, dtype="fp32", prediction="auto")[0]
            vq_model, _ = LoadAutoencoder().execute(**files, dtype="auto")
        finally:
            for name in flags:
                setattr(args, name, False)
        wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(flags[0][:4] if flags else "", torch.float32)
        assert model.model.diffusion_model.dtype == wanted and forced.model.diffusion_model.dtype == torch.float32
        assert vq_model.decoder.conv_in.weight.dtype == wanted and vq_model.codebook.dtype == torch.float32
        words = {"positive": "cat", "negative": ""}
        text = {side: parts.nodes.CLIPTextEncode().encode(clip, word)[0] for side, word in words.items()}
        latent = parts.host.empty_latent(model, None, 64, 64, 1)
        sampled = parts.nodes.VAEDecode().decode(vae, {"samples": parts.ours(model, latent=latent, **text)})[0]
        exact = sampled if exact is None else exact
        figures.append(f"{'+'.join(flags) or 'none'} {worst(sampled, exact):.3f}")
    return "picture against fp32: " + ", ".join(figures)


CHECKS: tuple[Callable[[Parts], Any], ...] = (
    memory_is_given_back,
    models_offload_and_come_back,
    two_models_larger_than_the_limit_finish,
    nothing_is_left_after_a_cancel,
    flags_of_precision_are_honoured,
)
