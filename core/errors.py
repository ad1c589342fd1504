"""One tree of exceptions; every message says what was found, what was expected and what to do."""

LONGEST = 4000
"""Characters of a message that repeats what a file says."""


class VitrailError(Exception):
    """Anything that Vitrail itself refuses; its message is one line, whatever stands in the file or text refused."""

    def __str__(self) -> str:
        text = super().__str__()
        return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")


def printable(text: str) -> str:
    """A text on one line of characters that a terminal shows: all others as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(VitrailError, ValueError):
    """A setting out of its range, or settings that do not go together."""


class ShapeError(VitrailError, ValueError):
    """A tensor whose shape or kind does not fit the model it was handed to."""


class WorkflowError(VitrailError):
    """A workflow that cannot run: an unknown node, a missing input, a cycle, a wrong type."""


class CheckpointError(VitrailError):
    """A file of weights that cannot be opened."""


class UnknownFamily(CheckpointError):
    """No family of checkpoints, or more than one, fits the keys of the file."""


class KeyMismatch(CheckpointError):
    """Keys that are missing, left over or of another shape; the message lists them."""


class UnsafeFile(CheckpointError):
    """A file that names code to run, or whose header lies about its size."""
