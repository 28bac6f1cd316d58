"""Golden numbers: what each method gave when it was last looked at.

``python -m plait.testing.golden FOLDER [KEY …]`` writes them, one JSON file per method; the
contract's tests compare. A method whose numbers change on purpose has its file written again, and
the change stands in the diff.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from plait.testing.contract import golden, registered
from plait.testing.laws import Subject

RELATIVE = 1e-6  # float32 sums differ by thread count and machine in the last digits


def compare(stored: dict[str, list[float]], found: dict[str, list[float]]) -> str:
    """How the found numbers differ from the stored ones; empty where they do not."""
    if stored.keys() != found.keys():
        return f"other names: {sorted(stored.keys() ^ found.keys())}"
    for name, numbers in stored.items():
        if len(numbers) != len(found[name]):
            return f"{name}: {len(found[name])} numbers, were {len(numbers)}"
        for place, (old, new) in enumerate(zip(numbers, found[name], strict=True)):
            if not math.isclose(old, new, rel_tol=RELATIVE, abs_tol=RELATIVE):
                return f"{name}[{place}] is {new:.9g}, was {old:.9g}"
    return ""


def read(folder: Path, key: str) -> dict[str, list[float]]:
    """The stored numbers of a method; ``FileNotFoundError`` says how to write them."""
    path = folder / f"{key}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: run python -m plait.testing.golden {folder.name}")
    found: dict[str, list[float]] = json.loads(path.read_text("utf-8"))
    return found


def write(folder: Path, key: str) -> None:
    """Store what a method gives now, rounded to nine digits."""
    found = golden(Subject(registered()[key]))
    plain = {name: [float(f"{v:.9g}") for v in values] for name, values in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key}.json").write_text(json.dumps(plain) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the golden numbers of the named methods, or of all."""
    folder, *keys = arguments
    for key in keys or sorted(registered()):
        write(Path(folder), key)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
