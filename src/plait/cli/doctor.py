"""``plait doctor``: what is installed, on what it will run, and what to install for more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any

import typer

USES: Mapping[str, str] = {
    "text": "transformer encoders and adapters",
    "boost": "boosted trees as a plain baseline",
    "gp": "Gaussian processes",
    "search": "searches over settings and merges",
    "ray": "cells spread over a cluster",
    "export": "ONNX files",
    "track": "TensorBoard, MLflow and trackio",
    "oracle": "the oracles of the tests",
}
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra\s*==\s*['\"]([\w-]+)['\"])?")


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, the device, threads, and which extras are there.

    Exits with 1 where something that plait cannot do without is missing or broken.
    """
    from plait.cli import console

    told = examine()
    if json:
        console.dump(told)
    else:
        _show(told)
    if told["broken"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that is shown, as plain data."""
    import os
    import platform
    import shutil

    wanted = requirements()
    core = {name: installed(name) for name in wanted.pop("", ())}
    extras = {
        extra: {"packages": {name: installed(name) for name in names}, "use": USES.get(extra, ""),
                "fix": f"pip install 'plait[{extra}]'"}
        for extra, names in sorted(wanted.items()) if extra != "dev"
    }  # fmt: skip
    broken = [f"{name} is missing: pip install plait" for name, found in core.items() if not found]
    machine, problem = _machine()
    return {
        "plait": installed("plait"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **machine,
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "packages": core,
        "extras": extras,
        "broken": broken + problem,
    }


def requirements() -> dict[str, list[str]]:
    """The packages of each extra, those that are always needed under an empty name."""
    found: dict[str, list[str]] = {}
    for line in requires("plait") or ():
        match = _REQUIREMENT.match(line)
        if match is not None and match[1] != "plait":
            found.setdefault(match[2] or "", []).append(match[1])
    return found


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> tuple[dict[str, Any], list[str]]:
    """What torch will compute on, and what is wrong with it."""
    try:
        import torch

        from plait.comparing.environment import device

        found = {"device": device(), "threads": torch.get_num_threads()}
        one = torch.eye(8)
        if not torch.equal(one @ one, one):
            return found, ["torch computes a wrong product; install it again"]
    except (ImportError, OSError, RuntimeError) as error:
        return {"device": None, "threads": None}, [f"torch does not load: {error}"]
    return found, []


def _show(told: Mapping[str, Any]) -> None:
    from plait.cli import console

    for name in ("plait", "python", "platform", "device"):
        console.say(f"{name:9} {told[name] or 'unknown'}")
    console.say(f"{'cores':9} {told['cores']}, {told['threads']} threads for torch")
    console.say(f"{'disk':9} {told['free_disk_gb']:g} GB free here")
    console.say()
    rows = [(name, number or "missing") for name, number in told["packages"].items()]
    console.show(console.table(("package", "version"), rows))
    console.say()
    found: list[tuple[str, ...]] = []
    for extra, about in told["extras"].items():
        missing = [name for name, found in about["packages"].items() if not found]
        state = "there" if not missing else f"without {', '.join(missing)}"
        found.append((extra, about["use"], state, about["fix"] if missing else ""))
    console.show(console.table(("extra", "for", "state", "to install"), found))
    console.say()
    for problem in told["broken"]:
        console.fail(problem)
    if not told["broken"]:
        console.say("All that plait needs is there.", "bold")
