"""Keep the example workflows of a release for the tests of all later ones.

    python recipes/keep_workflows.py 0.1.0

tests/workflows/VERSION gets each workflow as the canvas saves it (`X.json`) and the prompt that it means
(`X.prompt.json`). A folder that is there already stays as it is: what people saved with a release never changes.
"""

import argparse
import json
import sys
from pathlib import Path

from vitrail.headless.flatten import to_prompt
from vitrail.headless.prompt import to_api
from vitrail.headless.run import all_classes

ROOT = Path(__file__).resolve().parent.parent


def keep(workflow: Path, folder: Path) -> None:
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    prompt = to_api(to_prompt(graph, all_classes()))
    for path, data in ((folder / workflow.name, graph), (folder / f"{workflow.stem}.prompt.json", prompt)):
        path.write_text(json.dumps(data, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version")
    folder = ROOT / "tests" / "workflows" / parser.parse_args().version
    if folder.exists():
        sys.exit(f"{folder.name} is kept already, and stays as it is")
    folder.mkdir(parents=True)
    for workflow in sorted((ROOT / "example_workflows").glob("*.json")):
        keep(workflow, folder)
        print(folder / workflow.name)


if __name__ == "__main__":
    main()
