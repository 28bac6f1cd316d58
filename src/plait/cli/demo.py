"""``plait demo``: a study that shows help and harm in one picture, from nothing to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STUDY = """\
# Generated scenes of real digits: two handwritten digits stand side by side in each picture.
# Which digits they are is known for few scenes (150 labels each), their sum and which one is
# larger for many (3,000). Do the cheap labels help to read the digits? And what does it cost them?
title: Reading two digits
data: {table: scenes.npz, split: {column: split}}
tasks: {left: classes, right: classes, sum: real, larger: binary}
encoder:
  image: {cnn: {channels: 8, depth: 2}}
  trunk: {mlp: {width: 64, depth: 1}}
training: {passes: 60, learning_rate: 0.004, patience: 12}
strategies:
  separate: {} # one network for each task: what the others are measured against
  joint: {} # one network, a head for each task
  weighted: {joint: {balancing: uncertainty}} # tasks weighted by how noisy they are
  projected: {joint: {balancing: pcgrad}} # conflicts between gradients projected away
  experts: {joint: {sharing: mmoe}} # each task mixes shared experts
  merged: {merge: task_arithmetic} # one network for each task from a common start, merged
seeds: {init: 3, split: 1}
"""


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the scenes, the study and the run.")
    ] = Path("plait-demo"),
    workers: Annotated[int | None, typer.Option(min=1, help="Cells trained at once.")] = None,
) -> None:
    """Run a small study: pictures of two digits, few expensive labels and many cheap ones.

    Takes a few minutes and needs no network.
    """
    import os

    from plait.cli import compare, console
    from plait.data.scenes import CAPTION, write_demo
    from plait.weights.files import write_atomic

    if out.exists() and not out.is_dir():
        raise console.InputError(f"{out} is a file; give a folder with --out")
    study = out / "study.yaml"
    run = compare.run_folder(study, out / "run")
    write_demo(out)
    write_atomic(study, STUDY.encode())
    console.say(f"{study}: {CAPTION}, four tasks, six ways to one model, plain baselines.")
    made = compare.prepare(study, run, caption=CAPTION, pictures=pictures())
    made.run(workers=workers or min(2, os.cpu_count() or 1))
    compare.finish(made)


def pictures(count: int = 8, scale: int = 6) -> list[str]:
    """Some scenes as PNG data URIs."""
    import base64
    from io import BytesIO

    import matplotlib.image
    import numpy as np

    from plait.data.scenes import examples

    found = []
    for image in examples(count)[0]:
        file = BytesIO()
        large = np.kron(image, np.ones((scale, scale), dtype=np.uint8))
        matplotlib.image.imsave(file, large, cmap="gray_r", vmin=0, vmax=255, format="png")
        found.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return found
