"""Checks of nodes.host inside a ComfyUI process without a server: stock node classes on our MODEL, CLIP and VAE.

python inside_host.py PACK [WORDS]   run in a ComfyUI checkout by its Python; prints JSON, {check: figure or error}
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import inside_checks
import inside_conditions
import inside_guidance
import inside_memory
import inside_patches
import inside_public
from inside_parts import Parts, enter_host

MODULES = (inside_checks, inside_patches, inside_memory, inside_conditions, inside_guidance, inside_public)
CHECKS = {check.__name__: check for module in MODULES for check in module.CHECKS}


def main(pack: str, words: str = "") -> None:
    enter_host(pack)
    import torch

    results: dict[str, Any] = {}
    with torch.inference_mode():
        parts = Parts()
        for name, check in CHECKS.items():
            if not any(word in name for word in words.split(",")):
                continue
            try:
                results[name] = {"figure": check(parts)}
            except Exception:
                results[name] = {"error": traceback.format_exc()}
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
