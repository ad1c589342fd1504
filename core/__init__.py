"""The self-contained core: torch, numpy, einops, safetensors and pillow only; it knows of no host."""
