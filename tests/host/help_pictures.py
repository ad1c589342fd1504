"""The pictures of the help pages: each node in a small graph of a real host, after its run.

python tests/host/help_pictures.py                                   all of them
python tests/host/help_pictures.py VitrailSampler VitrailCritic      these alone

host_server.py tells which variables name the host and the browser. Graphs whose models Vitrail does not come with are
shown before a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import Any

from host_client import Client
from host_graph import Graph, Link, NodeRef
from host_server import PACK, HostError, Places, Server, free_port
from PIL import Image, ImageDraw

DOCS = PACK / "web" / "docs"
DRIVER = Path(__file__).with_name("help_pictures.mjs")
WIDTH, COLOURS = 640, 240
NODE_WIDTH, GAP = 270, 42
PICTURE_HEIGHT = 250

Columns = Sequence[Sequence[NodeRef]]


@dataclass
class Sketch(Graph):
    """A graph with the parts that most pictures share; heights: node -> least height, of nodes that show pictures."""

    heights: dict[str, int] = field(default_factory=dict)

    def image(self, name: str = "example.png") -> NodeRef:
        return self.tall(self.add("LoadImage", image=name))

    def mask(self) -> NodeRef:
        return self.tall(self.add("LoadImageMask", image="example-mask.png", channel="red"))

    def preview(self, images: Link) -> NodeRef:
        return self.tall(self.add("PreviewImage", images=images))

    def tall(self, node: NodeRef, height: int = PICTURE_HEIGHT) -> NodeRef:
        self.heights[node.key] = height
        return node

    def autoencoder(self) -> NodeRef:
        return self.add("VitrailLoadAutoencoder")

    def encode(self, model: NodeRef, name: str = "example.png") -> NodeRef:
        return self.add("VitrailVQEncode", image=self.image(name)[0], vq_model=model[0])

    def decode(self, model: Link, **what: Link) -> NodeRef:
        return self.add("VitrailVQDecode", vq_model=model, **what)

    def diffusion(self) -> NodeRef:
        return self.add("VitrailLoadDiffusion")

    def text(self, model: NodeRef) -> NodeRef:
        return self.tall(self.add("VitrailTextEncode", clip=model[1], text="evergreen tree", style="noto"), 130)

    def sampler(self, load: NodeRef, **given: Link) -> NodeRef:
        """A sampler of the shipped model; what is not given it gets from nodes that the picture leaves out."""
        made = {
            "model": lambda: load[0],
            "sigmas": lambda: self.add("VitrailNoiseScheduler")[0],
            "latent": lambda: self.add("VitrailEmptyLatent", model=load[0])[0],
            "positive": lambda: self.text(load)[0],
        }
        return self.add("VitrailSampler", **{name: given.get(name) or make() for name, make in made.items()}, **{
            name: link for name, link in given.items() if name not in made})  # fmt: skip

    def end(self, model: Link, **what: Link) -> tuple[NodeRef, NodeRef]:
        """Decode, and the picture."""
        decode = self.decode(model, **what)
        return decode, self.preview(decode[0])


def load_autoencoder(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode = g.encode(load)
    decode, shown = g.end(load[0], codes=encode[0])
    return (load,), (encode, decode), (shown,)


def load_diffusion(g: Sketch) -> Columns:
    load = g.diffusion()
    text, empty = g.text(load), g.add("VitrailEmptyLatent", model=load[0])
    sampler = g.sampler(load, latent=empty[0], positive=text[0])
    g.end(load[3], latent=sampler[0])
    return (load,), (text, empty), (sampler,)


def load_refiner(g: Sketch) -> Columns:
    load = g.add("VitrailLoadRefiner")
    refine = g.add("VitrailGANRefine", image=g.image()[0], refiner=load[0])
    return (load,), (refine,), (g.preview(refine[0]),)


def load_prior(g: Sketch) -> Columns:
    load = g.add("VitrailLoadPrior", name="faceshq.ckpt")
    sample = g.add("VitrailSampleCodes", prior=load[0])
    return (load,), (sample,), (g.decode(load[1], codes=sample[0]),)


def vq_encode(g: Sketch) -> Columns:
    load, image = g.autoencoder(), g.image()
    encode = g.add("VitrailVQEncode", image=image[0], vq_model=load[0])
    decode, shown = g.end(load[0], codes=encode[0])
    return (load, image), (encode, decode), (shown,)


def vq_decode(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode = g.encode(load)
    decode, shown = g.end(load[0], codes=encode[0])
    return (load, encode), (decode,), (shown,)


def codebook_inspect(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode = g.encode(load)
    inspect = g.add("VitrailCodebookInspect", vq_model=load[0], codes=encode[0], view="token map")
    return (load, encode), (inspect,), (g.preview(inspect[0]),)


def codes_to_latent(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode = g.encode(load)
    latent = g.add("VitrailCodesToLatent", vq_model=load[0], codes=encode[0])
    decode = g.add("VAEDecode", samples=latent[0], vae=load[1])
    return (load, encode), (latent, decode), (g.preview(decode[0]),)


def latent_to_codes(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode = g.add("VAEEncode", pixels=g.image()[0], vae=load[1])
    codes = g.add("VitrailLatentToCodes", vq_model=load[0], latent=encode[0])
    decode, shown = g.end(load[0], codes=codes[0])
    return (load, encode), (codes, decode), (shown,)


def edit_codes(g: Sketch) -> Columns:
    load = g.autoencoder()
    encode, other, mask = g.encode(load), g.encode(load, "example-2.png"), g.mask()
    edit = g.add("VitrailEditCodes", codes=encode[0], other=other[0], mask=mask[0], operation="blend", amount=1.0)
    decode, shown = g.end(load[0], codes=edit[0])
    return (encode, other, mask), (edit,), (decode, shown)


def save_codes(g: Sketch) -> Columns:
    load, image = g.autoencoder(), g.image()
    encode = g.add("VitrailVQEncode", image=image[0], vq_model=load[0])
    return (load, image), (encode,), (g.add("VitrailSaveCodes", codes=encode[0]),)


def load_codes(g: Sketch) -> Columns:
    load, codes = g.autoencoder(), g.add("VitrailLoadCodes")
    decode, shown = g.end(load[0], codes=codes[0])
    return (load, codes), (decode,), (shown,)


def text_encode(g: Sketch) -> Columns:
    load = g.diffusion()
    text = g.text(load)
    sampler = g.sampler(load, positive=text[0])
    decode, shown = g.end(load[3], latent=sampler[0])
    return (load, text), (sampler,), (decode, shown)


def class_condition(g: Sketch) -> Columns:
    load = g.add("VitrailLoadDiffusion", name="cin256-v2.ckpt")
    label = g.add("VitrailClassCondition", model=load[0], label="goldfish")
    return (load,), (label,), (g.sampler(load, positive=label[0]),)


def concat_condition(g: Sketch) -> Columns:
    load, image, mask = g.add("VitrailLoadDiffusion", name="inpainting_big.ckpt"), g.image(), g.mask()
    told = g.add("VitrailConcatCondition", vae=load[2], image=image[0], mask=mask[0])
    return (load, image), (mask, told), (g.sampler(load, positive=told[0]),)


def empty_latent(g: Sketch) -> Columns:
    load = g.diffusion()
    empty = g.add("VitrailEmptyLatent", model=load[0])
    sampler = g.sampler(load, latent=empty[0])
    decode, shown = g.end(load[3], latent=sampler[0])
    return (load, empty), (sampler,), (decode, shown)


def noise_scheduler(g: Sketch) -> Columns:
    load = g.diffusion()
    scheduler = g.add("VitrailNoiseScheduler", model=load[0])
    sampler = g.sampler(load, sigmas=scheduler[0])
    g.end(load[3], latent=sampler[0])
    return (scheduler,), (sampler,), (g.preview(scheduler[1]),)


def sampler(g: Sketch) -> Columns:
    load = g.diffusion()
    text, empty, scheduler = g.text(load), g.add("VitrailEmptyLatent", model=load[0]), g.add("VitrailNoiseScheduler")
    node = g.sampler(load, sigmas=scheduler[0], latent=empty[0], positive=text[0])
    decode, shown = g.end(load[3], latent=node[0])
    return (scheduler, text, empty), (node,), (decode, shown)


def solver(g: Sketch) -> Columns:
    load = g.diffusion()
    node = g.add("VitrailSolver", sampler="dpmpp_2m")
    sampler = g.sampler(load, solver=node[0])
    decode, shown = g.end(load[3], latent=sampler[0])
    return (load, node), (sampler,), (decode, shown)


def guidance(g: Sketch) -> Columns:
    load = g.diffusion()
    node = g.add("VitrailGuidance", model=load[0], rescale=0.5)
    sampler = g.sampler(load, model=node[0])
    decode, shown = g.end(load[3], latent=sampler[0])
    return (load, node), (sampler,), (decode, shown)


def gan_refine(g: Sketch) -> Columns:
    load, image = g.add("VitrailLoadRefiner"), g.image()
    refine = g.add("VitrailGANRefine", image=image[0], refiner=load[0])
    return (load, image), (refine,), (g.preview(refine[0]),)


def critic(g: Sketch) -> Columns:
    load, image = g.add("VitrailLoadRefiner"), g.image()
    node = g.add("VitrailCritic", image=image[0], critic=load[0])
    seen = g.add("MaskToImage", mask=node[0])
    return (load, image), (node, seen), (g.preview(seen[0]),)


def sample_codes(g: Sketch) -> Columns:
    load = g.add("VitrailLoadPrior", name="cin_transformer.ckpt")
    label = g.add("VitrailClassCondition", model=load[0], label="goldfish")
    sample = g.add("VitrailSampleCodes", prior=load[0], conditioning=label[0])
    return (load, label), (sample,), (g.decode(load[1], codes=sample[0]),)


def prior_condition(g: Sketch) -> Columns:
    load, image = g.add("VitrailLoadPrior", name="sflckr.ckpt"), g.tall(g.add("LoadImage", image="labels.png"), 190)
    node = g.add("VitrailPriorCondition", prior=load[0], image=image[0])
    sample = g.add("VitrailSampleCodes", prior=load[0], conditioning=node[0])
    return (load, image), (node, sample), (g.decode(load[1], codes=sample[0]),)


GRAPHS: dict[str, Callable[[Sketch], Columns]] = {
    "VitrailLoadAutoencoder": load_autoencoder,
    "VitrailLoadDiffusion": load_diffusion,
    "VitrailLoadRefiner": load_refiner,
    "VitrailLoadPrior": load_prior,
    "VitrailVQEncode": vq_encode,
    "VitrailVQDecode": vq_decode,
    "VitrailCodebookInspect": codebook_inspect,
    "VitrailCodesToLatent": codes_to_latent,
    "VitrailLatentToCodes": latent_to_codes,
    "VitrailEditCodes": edit_codes,
    "VitrailSaveCodes": save_codes,
    "VitrailLoadCodes": load_codes,
    "VitrailTextEncode": text_encode,
    "VitrailClassCondition": class_condition,
    "VitrailConcatCondition": concat_condition,
    "VitrailEmptyLatent": empty_latent,
    "VitrailNoiseScheduler": noise_scheduler,
    "VitrailSampler": sampler,
    "VitrailSolver": solver,
    "VitrailGuidance": guidance,
    "VitrailGANRefine": gan_refine,
    "VitrailCritic": critic,
    "VitrailSampleCodes": sample_codes,
    "VitrailPriorCondition": prior_condition,
}
NOT_RUN = ("VitrailLoadPrior", "VitrailSampleCodes", "VitrailClassCondition", "VitrailConcatCondition",
           "VitrailPriorCondition")  # fmt: skip
"""Their models do not come with Vitrail."""


def job(node: str, info: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the driver needs for one picture."""
    graph = Sketch(info)
    columns = [[each.key for each in column] for column in GRAPHS[node](graph)]
    return {"prompt": graph.prompt, "columns": columns, "heights": graph.heights, "run": node not in NOT_RUN,
            "shot": str(folder / f"{node}.png")}  # fmt: skip


def shoot(server: Server, jobs: list[dict[str, Any]], folder: Path) -> None:
    """Let the driver take every picture.

    Raises: HostError when a graph did not run, or a dialog lay over it.
    """
    places = server.places
    plan = {"port": server.port, "modules": str(places.node_modules), "chromium": str(places.chromium),
            "width": NODE_WIDTH, "gap": GAP, "jobs": jobs}  # fmt: skip
    (folder / "jobs.json").write_text(json.dumps(plan))
    command = ["node", str(DRIVER), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode:
        raise HostError(f"the browser failed: {done.stderr[-2000:]}")
    wrong = [each for each in json.loads(done.stdout) if each["dialogs"] or each["end"] not in ("success", "left")]
    if wrong:
        raise HostError(f"these graphs did not run cleanly: {json.dumps(wrong, indent=1)}")


def label_map() -> Image.Image:
    """Sky above hills above a lake, numbered as in COCO-Stuff: 156, 126, 147."""
    picture = Image.new("L", (256, 160), 156)
    draw = ImageDraw.Draw(picture)
    draw.polygon([(0, 90), (60, 40), (130, 80), (190, 30), (256, 90), (256, 160), (0, 160)], fill=126)
    draw.rectangle((0, 120, 256, 160), fill=147)
    return picture


def palette(picture: Image.Image) -> Image.Image:
    """The commonest colours as they are, so that the greys of the page stay grey, and as many that cover the rest."""
    common = sorted(picture.getcolors(picture.width * picture.height), reverse=True)[: COLOURS // 2]
    rest = picture.quantize(COLOURS // 2, method=Image.Quantize.MAXCOVERAGE).getpalette()
    made = Image.new("P", (1, 1))
    made.putpalette([value for _, colour in common for value in colour] + rest[: COLOURS // 2 * 3])
    return made


def write_small(shot: Path, target: Path) -> None:
    """At most WIDTH pixels wide, in a palette."""
    with Image.open(shot) as picture:
        picture = picture.convert("RGB")
        if picture.width > WIDTH:
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        picture.quantize(palette=palette(picture), dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nodes", nargs="*", choices=[[], *GRAPHS], metavar="NODE")
    nodes = parser.parse_args().nodes or list(GRAPHS)
    places = Places.from_environment()
    if places is None or not places.browser:
        parser.error("set COMFYUI_DIR, COMFYUI_VENV and VITRAIL_NODE_MODULES; host_server.py explains them")
    with TemporaryDirectory(prefix="vitrail-help-") as name:
        folder = Path(name)
        server = Server(places=places, base=folder, port=free_port())
        server.prepare()
        for picture in (PACK / "example_workflows").glob("*.png"):
            copy(picture, folder / "input")
        label_map().save(folder / "input" / "labels.png")
        with server:
            client = Client(port=server.port, base=folder)
            codes = Sketch(client.get("/object_info"))
            save_codes(codes)  # for Load Codes
            client.run(codes.prompt).succeeded()
            info = client.get("/object_info")
            shoot(server, [job(node, info, folder) for node in nodes], folder)
        for node in nodes:
            write_small(folder / f"{node}.png", DOCS / node / "node.png")
            print(node, (DOCS / node / "node.png").stat().st_size)


if __name__ == "__main__":
    main()
