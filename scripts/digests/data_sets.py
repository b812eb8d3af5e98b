"""Data sets: outputs of `occ-train convert`, `prepare` and `eval`, and loaded samples."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from towns import command, town_bag, town_folder
from values import Named, files_in, flat


def jobs() -> dict[str, Any]:
    """Conversions by label source, the index of a folder, its samples, scores on it."""
    return {
        **{f"convert/{k}": partial(_convert, k) for k in ("ground-truth", "lidar", "none")},
        "convert/foxglove": _convert_foxglove,
        "prepare/nuscenes": _prepare,
        "samples": _samples,
        "eval/alocc_town": _eval,
    }


def _convert(labels: str, scratch: Path) -> Named:
    bag = town_bag(scratch / "bag")
    out = scratch / "set"
    command(f"convert --labels {labels} --out", out, bag, program="occ-train")
    yield from files_in(out)


def _convert_foxglove(scratch: Path) -> Named:
    """Another layout, every frame set, frames without labels."""
    import bag_families
    from nuscenes_folder import drawn_images
    from towns import age_files

    bag = bag_families.foxglove(scratch / "bag", drawn_images(keyframes=3))
    age_files(bag)
    out = scratch / "set"
    command("convert --labels none --spacing 0 --out", out, bag, program="occ-train")
    yield from files_in(out)


@cache
def prepared() -> Path:
    """The index of a folder with two drives through the town; kept until the process ends."""
    folder = town_folder(Path(_kept().name) / "folder", 0, 1)
    index = folder.with_name("index.jsonl")
    options = "--version v1.0-town --threads 1"
    command(f"prepare nuscenes {options} --out", index, folder, program="occ-train")
    return index


@cache
def _kept() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="digests-")


def _prepare(_scratch: Path) -> Named:
    index = prepared()
    yield "index", index.read_text().replace(str(index.parent), "SCRATCH")


def _samples(_scratch: Path) -> Named:
    """Frames as recipes load them, with the augmentation of two visits."""
    from occ_training.data.dataset import OccupancyDataset, Visit
    from occ_training.data.index import DatasetIndex
    from occ_training.recipes import RECIPES

    from occ_perception.models.zoo import get_card

    index = DatasetIndex.load(prepared())
    for name in ("alocc_3d_depth", "alocc_flow_2d", "fbocc", "sparseocc", "alocc_town"):
        card = get_card(name)
        # The town's labels have no ray mask, and those with flow have no camera mask either.
        options = replace(RECIPES[name](), ignore_unseen=None).sample_options(card)
        data = OccupancyDataset(index, card, options)
        for visit in (Visit(0, 0), Visit(1, 1), Visit(4, 0)):
            yield from flat(data[visit], f"{name}/frame{visit.frame}/visit{visit.number}")
        plain = OccupancyDataset(index, card, replace(options, image=None, bev=None))
        yield from flat(plain[1], f"{name}/frame1/plain")


def _eval(scratch: Path) -> Named:
    """Scores of a seeded network at full size, and its saved outputs."""
    index, scores, outputs = prepared(), scratch / "scores.json", scratch / "outputs"
    how = "alocc_town --random-weights 1 --device cpu --sequence town-20000-001"
    paths = (index, "--json", scores, "--save", outputs)
    command(f"eval {how} --data", *paths, program="occ-train")
    yield "scores", scores.read_text()
    yield from files_in(outputs)
