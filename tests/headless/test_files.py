"""Names and places of pictures."""

import re
from pathlib import Path

import pytest

from vitrail.core.errors import WorkflowError
from vitrail.headless.files import Files, expand


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(output=tmp_path / "out", inputs=[tmp_path / "a", tmp_path / "b"])


def write(files: Files, prefix: str, *, number: int = 0) -> str:
    path = files.series(prefix, (64, 32)).next(number)
    files.write(path, lambda aside: aside.write_text("x"))
    return str(path.relative_to(files.output.resolve()))


def test_names_count_on(files: Files) -> None:
    assert [write(files, "cat") for _ in range(2)] == ["cat_00001_.png", "cat_00002_.png"]
    (files.output / "cat_00041_.png").touch()
    (files.output / "category_00090_.png").touch()
    (files.output / "cat_x_.png").touch()
    assert write(files, "cat") == "cat_00042_.png"


def test_prefixes_with_folders_and_fields(files: Files) -> None:
    assert write(files, "sub/deep/cat") == "sub/deep/cat_00001_.png"
    assert write(files, "%width%x%height%") == "64x32_00001_.png"
    assert write(files, "b%batch_num%", number=3) == "b3_00001_.png"
    assert write(files, "b%batch_num%", number=4) == "b4_00002_.png"


def test_dates_in_prefixes() -> None:
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2} \d{2}", expand("%date:yyyy-MM-dd hh%", (1, 1)))
    assert re.fullmatch(r"\d{4}/\d{2}", expand("%year%/%month%", (1, 1)))
    assert expand("%other% 100%", (1, 1)) == "%other% 100%"


@pytest.mark.parametrize("prefix", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_nothing_is_written_outside_the_output_folder(files: Files, prefix: str) -> None:
    with pytest.raises(WorkflowError, match="leads out"):
        files.series(prefix, (1, 1))


def test_a_write_that_fails_leaves_nothing(files: Files) -> None:
    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(files.series("cat", (1, 1)).next(), fail)
    assert not list(files.output.iterdir()) and not files.written


def test_files_are_announced_once_complete(tmp_path: Path) -> None:
    told: list[str] = []
    files = Files(output=tmp_path, on_write=lambda path: told.append(path.read_text()))
    write(files, "cat")
    assert told == ["x"] and files.written == [tmp_path.resolve() / "cat_00001_.png"]


def test_the_first_folder_that_has_a_picture_gives_it(files: Files, tmp_path: Path) -> None:
    for folder in ("a", "b", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.png").touch()
    (tmp_path / "b" / "only b.png").touch()
    assert files.find("both.png") == tmp_path / "a" / "both.png"
    assert files.find("only b.png [input]") == tmp_path / "b" / "only b.png"
    assert files.find("both.png [output]") == tmp_path / "out" / "both.png"
    with pytest.raises(WorkflowError, match=r"no file 'none.png' in .*a, .*b"):
        files.find("none.png")
