"""Evaluations as a whole: parts, missing ground truth, several processes, reports."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import PROTOCOLS, Evaluation, FrameTruth, Report, VoxelIoU
from occ_perception.metrics.counting import MetricsError

GRID = VoxelGrid.from_ranges((-3.2, 3.2, 0.8), (-3.2, 3.2, 0.8), (-1.0, 2.2, 0.8))


def draw_frame(protocol: str, seed: int):
    """Predicted labels, ground truth with all inputs of the protocol, predicted flow."""
    rng = np.random.default_rng(seed)
    free = LABEL_SETS[protocol].empty_class
    truth = np.where(rng.random(GRID.dims) < 0.3, rng.integers(1, free, GRID.dims), free)
    labels = np.where(rng.random(GRID.dims) < 0.7, truth, rng.integers(1, free + 1, GRID.dims))
    flow = rng.normal(size=(2, *GRID.dims, 2)).astype(np.float32)
    return (
        labels.astype(np.uint8),
        FrameTruth(
            labels=truth.astype(np.uint8),
            camera_mask=rng.random(GRID.dims) < 0.5,
            lidar_mask=rng.random(GRID.dims) < 0.3,
            flow=flow[0],
            lidar_origins=rng.uniform((-2, -2, 0), (2, 2, 1.5), (2, 3)),
            name=f"frame-{seed}",
        ),
        flow[1],
    )


def evaluated(protocol: str, seeds, parts=None) -> Evaluation:
    evaluation = Evaluation(protocol, parts, GRID)
    for seed in seeds:
        evaluation.update(*draw_frame(protocol, seed))
    return evaluation


def plain(evaluation: Evaluation) -> str:
    return evaluation.report().to_json()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_runs_all_its_parts_and_merges(protocol):
    parts = list(PROTOCOLS[protocol].parts)
    whole = evaluated(protocol, range(3), parts)
    merged = evaluated(protocol, [2], parts).merge(evaluated(protocol, [0, 1], parts))
    assert plain(merged) == plain(whole)
    report = whole.report()
    assert report.frames == 3 and list(report.scores) == parts
    whole.reset()
    assert whole.report().frames == 0


def test_parts_use_their_own_masks():
    parts = ("camera_mask", "lidar_mask", "all_voxels")
    evaluation = evaluated("occ3d", [7], parts)
    labels, truth, _ = draw_frame("occ3d", 7)
    masks = {"camera_mask": truth.camera_mask, "lidar_mask": truth.lidar_mask, "all_voxels": None}
    for part, mask in masks.items():
        metric = VoxelIoU(LABEL_SETS["occ3d"])
        metric.update(labels[None], truth.labels[None], None if mask is None else mask[None])
        assert torch.equal(metric.confusion, evaluation.part(part).counters()["confusion"])


def test_default_parts_are_those_of_published_tables():
    defaults = {name: list(Evaluation(name).metrics) for name in PROTOCOLS}
    assert defaults == {
        "occ3d": ["camera_mask", "all_voxels", "rays"],
        "openocc": ["rays_and_flow"],
        "surroundocc": ["all_voxels"],
        "openoccupancy": ["all_voxels"],
        "waymo": ["camera_mask", "all_voxels"],
    }


def test_unknown_names_list_the_known_ones():
    with pytest.raises(MetricsError, match="protocols are occ3d, openocc"):
        Evaluation("kitti")
    with pytest.raises(MetricsError, match="has parts camera_mask, all_voxels"):
        Evaluation("waymo", ["rays"])
    with pytest.raises(MetricsError, match="cannot merge"):
        Evaluation("waymo").merge(Evaluation("occ3d"))


@pytest.mark.parametrize(
    ("protocol", "absent"),
    [("occ3d", "lidar_origins"), ("occ3d", "camera_mask"), ("openocc", "flow")],
)
def test_frame_without_needed_truth_is_named_and_counts_nowhere(protocol, absent):
    evaluation = evaluated(protocol, [0])
    before = plain(evaluation)
    labels, truth, flow = draw_frame(protocol, 1)
    object.__setattr__(truth, absent, None)
    with pytest.raises(MetricsError, match=f"frame-1.*{absent}"):
        evaluation.update(labels, truth, flow)
    assert plain(evaluation) == before


def test_a_frame_with_bad_flow_changes_no_counter():
    evaluation = evaluated("openocc", [0], ["all_voxels", "rays_and_flow"])
    before = plain(evaluation)
    labels, truth, flow = draw_frame("openocc", 1)
    flow[:] = math.nan
    with pytest.raises(MetricsError, match=r"frame-1, openocc rays_and_flow: flow is not finite"):
        evaluation.update(labels, truth, flow)
    assert plain(evaluation) == before


def test_partial_results_travel_as_pickles():
    evaluation = evaluated("openocc", [0, 1])
    travelled = pickle.loads(pickle.dumps(evaluation.part("rays_and_flow")))
    merged = evaluated("openocc", [2])
    merged.part("rays_and_flow").merge(travelled)
    assert plain(merged) == plain(evaluated("openocc", range(3)))


def _evaluate_share(rank: int, world_size: int, port: int, queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    evaluation = evaluated("openocc", range(rank, 5, world_size))
    first, second = plain(evaluation), plain(evaluation)  # asking twice must not add twice
    queue.put((rank, first, second))
    torch.distributed.destroy_process_group()


def test_every_process_reports_the_numbers_of_a_single_one():
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        port = free_port.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=_evaluate_share, args=(rank, 2, port, queue)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    expected = plain(evaluated("openocc", range(5)))
    assert sorted(queue.get() for _ in range(2)) == [(r, expected, expected) for r in range(2)]


def test_report_has_the_same_values_in_json_csv_and_table():
    scores = {
        "rays_and_flow": {
            "OccScore": 0.4196,
            "mAVE_TP": 0.4312,
            "RayIoU@1[car]": 0.5,
            "AVE_TP[car]": 1.25,
        },
        "all_voxels": {"mIoU": math.nan, "IoU[car]": 2 / 3, "IoU[bus]": math.nan},
    }
    report = Report("a model", "openocc", 12, scores)
    document = json.loads(report.to_json())
    assert (document["title"], document["protocol"], document["frames"]) == (
        "a model",
        "openocc",
        12,
    )
    assert document["parts"]["rays_and_flow"]["scores"] == {"OccScore": 0.4196, "mAVE_TP": 0.4312}
    assert document["parts"]["all_voxels"] == {
        "scores": {"mIoU": None},
        "per_class": {"IoU": {"car": 2 / 3, "bus": None}},
    }
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    values = {(row["part"], row["score"], row["class"]): row["value"] for row in rows}
    assert len(rows) == 7
    assert float(values["all_voxels", "IoU", "car"]) == 2 / 3
    assert values["all_voxels", "IoU", "bus"] == values["all_voxels", "mIoU", ""] == ""
    console = Console(width=80, record=True, file=io.StringIO())
    report.print(console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["OccScore", "(%)", "41.96"] in lines
    assert ["mAVE_TP", "(m/s)", "0.431"] in lines
    assert ["mIoU", "(%)", "-"] in lines
    assert ["car", "50.00", "1.250"] in lines
    assert ["car", "66.67"] in lines and ["bus", "-"] in lines


def test_tables_of_every_protocol_fit_a_terminal():
    for protocol in PROTOCOLS:
        console = Console(width=80, record=True, file=io.StringIO())
        evaluated(protocol, [0], PROTOCOLS[protocol].parts).report("a model").print(console)
        assert "…" not in console.export_text()


def test_the_documentation_lists_every_part_and_which_run_on_request():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    documented = {}
    for section in page.split("## Protocols")[1].split("### Inputs")[0].split("\n### ")[1:]:
        heading, text = section.split("\n", 1)
        parts = {
            name: not asked
            for name, asked in re.findall(r"^- `(\w+)`( \(on request\))?:", text, re.M)
        }
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", heading), parts)
    assert documented == {
        name: {part: value.by_default for part, value in protocol.parts.items()}
        for name, protocol in PROTOCOLS.items()
    }


def test_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    exec(compile(example, "docs/metrics.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "my model · occ3d · 1 frame" in printed and "driveable_surface" in printed
