"""The nodes, by id and by title. Importing this imports no network, solver or file format."""

from . import code_tools, codes, condition, critic, loaders, prior, refine, sampling
from .spec import Node

NODES: tuple[type[Node], ...] = (
    *loaders.NODES,
    *codes.NODES,
    *code_tools.NODES,
    *condition.NODES,
    *sampling.NODES,
    *refine.NODES,
    *critic.NODES,
    *prior.NODES,
)

NODE_CLASS_MAPPINGS = {node.ID: node for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {node.ID: node.TITLE for node in NODES}
