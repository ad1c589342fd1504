"""Names that may stand in a pickle of weights, and the inert classes that stand for them."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

LIGHTNING = (
    *(f"callbacks.{name}" for name in (
        "model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor",
        "lr_logger.LearningRateLogger", "timer.Timer", "stochastic_weight_avg.StochasticWeightAveraging",
        "finetuning.BaseFinetuning", "finetuning.BackboneFinetuning", "device_stats_monitor.DeviceStatsMonitor",
        "gradient_accumulation_scheduler.GradientAccumulationScheduler", "weight_averaging.WeightAveraging",
        "pt_callbacks.ModelCheckpoint", "pt_callbacks.EarlyStopping", "on_exception_checkpoint.OnExceptionCheckpoint",
    )),
    *("trainer.states.TrainerFn", "trainer.states.RunningStage", "trainer.states.TrainerStatus"),
    *("utilities.argparse._gpus_arg_default", "utilities.argparse_utils._gpus_arg_default"),
)  # fmt: skip
SETTINGS = ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata")
NODES = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String")
NUMPY = ("core.multiarray", "_core.multiarray")

TRAINING_CLASSES = (
    *(f"{package}.{name}" for package in ("pytorch_lightning", "lightning.pytorch") for name in LIGHTNING),
    *(f"omegaconf.{name}" for name in SETTINGS),
    *(f"omegaconf.nodes.{kind}Node" for kind in NODES),
    *(f"numpy.{module}.{name}" for module in NUMPY for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
)
"""What public checkpoints pickle beside weights; each becomes an inert placeholder, none is imported or called."""

ARGUMENTS = "argparse.Namespace"

PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")

PLAIN_CLASSES = (
    *("types.SimpleNamespace", "typing.Any"),
    *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in PATHS),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"builtins.{kind}" for kind in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "range", "slice")),
    *("builtins.str", "builtins.tuple"),
)
"""Python's own that trainers' settings are, or name as their types: placeholders too, though harmless."""

DICTIONARIES = (
    "collections.defaultdict",
    "easydict.EasyDict",
    *(f"{package}.utilities.parsing.AttributeDict" for package in ("pytorch_lightning", "lightning.pytorch")),
    *(f"{package}.utilities.data.AttributeDict" for package in ("lightning_fabric", "lightning.fabric")),
)
"""Kinds of dictionary that trainers keep settings in: read as plain ones."""

REBUILT = (
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode"),
    *("builtins.set", "builtins.complex"),
)
TORCH_MODULES = ("", "._utils", "._tensor", ".storage", ".serialization", ".nn.parameter")
"""What torch's loader makes itself, and the modules of torch in which it knows what rebuilds tensors."""


class Placeholder:
    """Stands for an object of a class that is not there: takes any arguments and state, keeps and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Arguments(Placeholder):
    """Stands for the arguments of a trainer's command line: keeps those that are text, numbers, yes or no."""

    values: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.values = plain_values(state)


def plain_values(settings: Any) -> dict[str, Any]:
    """What is text, a number, yes or no in a mapping by names; nothing of anything else."""
    items = dict.items(settings) if isinstance(settings, dict) else ()  # not what a pickle put in its place
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, str | int | float)}


class PlainDictionary(Placeholder):
    """Stands for a kind of dictionary: made as an ordered one that holds nothing yet."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def placeholder(name: str, kind: type[Placeholder] = Placeholder) -> type[Placeholder]:
    """An empty class that goes by a dotted name, as torch's loader looks classes up."""
    module, _, short = name.rpartition(".")
    return type(short, (kind,), {"__module__": module, "__qualname__": short})


PLACEHOLDERS: list[Any] = [
    placeholder(ARGUMENTS, Arguments),
    *(placeholder(name) for name in TRAINING_CLASSES + PLAIN_CLASSES),
    *(placeholder(name, PlainDictionary) for name in DICTIONARIES),
]

KNOWN = frozenset((ARGUMENTS, *TRAINING_CLASSES, *PLAIN_CLASSES, *DICTIONARIES, *REBUILT))


def is_known(name: str) -> bool:
    """Whether a name may stand in a pickle; of those in torch its own loader takes only what rebuilds tensors."""
    return name in KNOWN or name.rpartition(".")[0] in {f"torch{module}" for module in TORCH_MODULES}
