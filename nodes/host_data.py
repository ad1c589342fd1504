"""Files of codes and their like: in the folders of the host for outputs and inputs, headless in those of the run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .host_env import IN_HOST
from .host_files import files_below

FILES = "VITRAIL_FILES"
"""Type of the hidden input that brings a node the `Files` of a run without the host; the host leaves it out.

Here `files` is that, or None. It has find(name) -> path, series(prefix, size, suffix).next() -> path and
write(path, save).
"""

OUTPUT = " [output]"
"""Behind the name of a file of the output folder, as the host writes it."""


def save_data(
    prefix: str, suffix: str, size: tuple[int, int], save: Callable[[Path], None], files: Any
) -> dict[str, str]:
    """Write a file under the next free number, as SaveImage does; size: (width, height), for %width% in the prefix.

    Returns its entry for the page: filename, subfolder, type.
    Raises: ConfigError, WorkflowError or the host's own error for a prefix that leads out of the output folder.
    """
    if not IN_HOST:
        if files is None:
            raise ConfigError("there is no folder to write to: without ComfyUI, workflows are run by `vitrail run`")
        path = files.series(prefix, size, suffix).next()
        files.write(path, save)
        return {"filename": path.name, "subfolder": "", "type": "output"}
    import folder_paths

    output = folder_paths.get_output_directory()
    folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(prefix, output, *size)
    name = f"{stem}_{number:05}_{suffix}"
    save(Path(folder) / name)
    return {"filename": name, "subfolder": subfolder, "type": "output"}


def data_names(suffix: str) -> list[str]:
    """Files of that ending in the host's input folder, then those of the output folder; headless none are listed."""
    if not IN_HOST:
        return []
    import folder_paths

    inputs = _below(folder_paths.get_input_directory(), suffix)
    return [*inputs, *(name + OUTPUT for name in _below(folder_paths.get_output_directory(), suffix))]


def find_data(name: str, files: Any) -> Path:
    """The file behind a name of `data_names`; headless in the folders of the run.

    Raises: ConfigError or WorkflowError for one that is not there or lies outside of the folder.
    """
    if not IN_HOST:
        path = Path(name) if files is None else files.find(name)
        if not path.is_file():
            raise ConfigError(f'there is no file "{name}" here')
        return path
    import folder_paths

    bare, base = folder_paths.annotated_filepath(name)
    base = os.path.abspath(base or folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(base, bare))
    if os.path.commonpath((base, path)) != base or not os.path.isfile(path):
        raise ConfigError(f'there is no file "{bare}" in {base}')
    return Path(path)


def data_changed(name: str | None) -> str:
    """A stamp that changes when the file does, for IS_CHANGED; empty where there is none, or the name comes by wire."""
    if name is None:
        return ""
    try:
        found = find_data(name, None).stat()
    except (ConfigError, OSError, ValueError):
        return ""
    return f"{found.st_mtime_ns}-{found.st_size}"


def _below(folder: str, suffix: str) -> list[str]:
    """Paths below a folder, sorted, without hidden files."""
    return sorted(path for path in files_below(Path(folder)) if path.endswith(suffix) and "/." not in f"/{path}")
