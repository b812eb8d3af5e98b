"""The report of the demonstration: lines on the terminal and an HTML page beside the film."""

from __future__ import annotations

import base64
import datetime
import html
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import occ_perception
from occ_perception.atomic import write_whole
from occ_perception.demo.film import Filmed
from occ_perception.demo.setting import UNTRAINED, Played, Setting
from occ_perception.labels import PALETTE
from occ_perception.metrics.recorded import ClassScore, Scores
from occ_perception.viewer.camera_overlay import with_occupancy
from occ_perception.viewer.films import BROWSER_CODECS
from occ_perception.viewer.panels import camera_panel
from occ_perception.viewer.turntable import STYLE, turntable

_WIDTH = 16
_SHOWN_FRAME_SETS = 10
_STILL_QUALITY = 85
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2026; max-width: 1100px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
video, img { width: 100%; border: 1px solid #d6dae0; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #eceef1; }
.figures { display: flex; gap: 2.5rem; margin: 1rem 0; } .figures b { font-size: 1.7rem; }
.figures span { display: block; color: #5c6570; } .note { color: #5c6570; }
.warning { background: #fff3d6; padding: .6rem .9rem; }
i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; }
"""
_PANEL = (1400, 10_000)


def print_report(played: Played, filmed: Filmed | None) -> None:
    """Print the figures on the terminal, the mIoU on its own line."""
    for name, value in run_rows(played):
        print(f"{name:<{_WIDTH}}{value}")
    if played.latencies_ms:
        print(" " * _WIDTH + played.latency_is)
    for line in played.without_output[:_SHOWN_FRAME_SETS]:
        print(f"{'no output':<{_WIDTH}}{line}")
    if filmed is None:
        return
    if filmed.scores is None:
        print(f"{'scores':<{_WIDTH}}none: {filmed.note}")
        return
    for name, value, meaning in _score_rows(filmed.scores):
        print(f"{name} {value}" if name == "mIoU" else f"{name:<{_WIDTH}}{value}  ({meaning})")


def write_page(setting: Setting, played: Played, filmed: Filmed | None) -> Path:
    """Write one page: film, scores, one moment to turn and over its images, latency, versions.

    The film stays a file beside it; everything else is in the page.
    """
    page = setting.out / "report.html"
    text = "\n".join(_page(setting, played, filmed))
    write_whole(page, text)
    return page


def _page(setting: Setting, played: Played, filmed: Filmed | None) -> Iterable[str]:
    model = filmed.model if filmed is not None else setting.model
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f"<title>{html.escape(model)}</title><style>{_STYLE}{STYLE}</style></head><body>"
    yield f"<h1>{html.escape(model)}</h1>"
    yield f'<p class="note">on {html.escape(str(setting.bag))}</p>'
    if not setting.weights:
        yield f'<p class="warning">{UNTRAINED} (Seed {setting.seed}.)</p>'
    if filmed is not None:
        yield from _film(filmed)
        yield from _moment(filmed)
    yield "<h2>Run</h2>"
    yield from _table([], run_rows(played))
    if played.latencies_ms:
        yield f'<p class="note">Latency: {html.escape(played.latency_is)}.</p>'
    for line in played.without_output[:_SHOWN_FRAME_SETS]:
        yield f'<p class="note">No output: {html.escape(line)}</p>'
    if filmed is not None and filmed.scores is not None:
        yield from _class_table(filmed.scores)
    yield "<h2>Made with</h2>"
    yield from _table([], _versions(setting, played, filmed))
    yield "</body></html>"


def _film(filmed: Filmed) -> Iterable[str]:
    if filmed.scores is None:
        yield f'<p class="note">No scores: {html.escape(filmed.note)}.</p>'
    else:
        yield '<div class="figures">'
        for name, value, meaning in _score_rows(filmed.scores):
            yield f"<div>{name}<br><b>{value}</b><span>{meaning}</span></div>"
        yield "</div>"
    still = _inline(filmed.still)
    name = html.escape(filmed.film.name)
    if filmed.codec in BROWSER_CODECS:
        yield f'<video controls loop muted autoplay src="{name}" poster="{still}"></video>'
    else:
        yield f'<a href="{name}"><img src="{still}" alt="an image of the film"></a>'


def _moment(filmed: Filmed) -> Iterable[str]:
    """One frame: a volume to turn, and the prediction over the camera images."""
    moment = filmed.moment
    volumes = {"prediction": moment.prediction}
    if moment.truth is not None and moment.truth.class_names == moment.prediction.class_names:
        volumes["ground truth"] = moment.truth
    yield "<h2>One moment</h2>"
    yield turntable(volumes)
    yield '<p class="note">Drag to turn, turn the wheel to come nearer.</p>'
    if moment.camera_frame is not None:
        drawn = with_occupancy(moment.camera_frame, moment.prediction)
        alt = "the prediction drawn over the camera images"
        yield f'<img src="{_inline(camera_panel(drawn, _PANEL))}" alt="{alt}">'
        yield '<p class="note">The prediction, drawn over the images it was made from.</p>'


def _inline(rgb: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as the address of itself."""
    _, jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _STILL_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _score_rows(scores: Scores) -> list[tuple[str, str, str]]:
    """Name, value and meaning."""
    where = "voxels that a camera sees" if scores.in_view else "all voxels with known ground truth"
    rows = [
        ("mIoU", _percent(scores.mean_iou), f"{where}, {scores.frames} frames"),
        ("geometry IoU", _percent(scores.geometry_iou), "occupied or free, class ignored"),
    ]
    if not math.isnan(scores.velocity_error):
        error = f"{scores.velocity_error:.2f} m/s"
        rows.append(("flow error", error, "mean over moving classes, along lidar rays"))
    return rows


def _class_table(scores: Scores) -> Iterable[str]:
    has_flow = not math.isnan(scores.velocity_error)
    head = ["class", "IoU", "true voxels", "predicted voxels"]
    rows = [
        [
            _swatch(entry),
            _percent(entry.iou),
            f"{entry.true_voxels:,}",
            f"{entry.predicted_voxels:,}",
        ]
        for entry in scores.classes
    ]
    note = "Voxels are summed over all frames; free space is not a class of the mean."
    if has_flow:
        head.append("flow error, m/s")
        for row, entry in zip(rows, scores.classes, strict=True):
            error = entry.velocity_error
            row.append("" if math.isnan(error) else f"{error:.2f}")
        note += (
            " Flow error: mean length of the difference of true and predicted velocity where rays "
            "from the vehicle's roof hit a class that can move."
        )
    yield "<h2>Classes</h2>"
    yield from _table(head, rows, escape=False)
    yield f'<p class="note">{note}</p>'


def _swatch(entry: ClassScore) -> str:
    red, green, blue = PALETTE.get(entry.name, (255, 0, 255))
    return f'<i style="background: rgb({red},{green},{blue})"></i>{html.escape(entry.name)}'


def run_rows(played: Played) -> list[tuple[str, str]]:
    """Name and value of every figure of the run, as printed and on the page."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in played.drops.items())
    rows = [
        ("frame sets in", str(played.frame_sets)),
        ("frames out", str(played.grids)),
        ("drops", f"{len(played.without_output)}  ({reasons})"),
    ]
    if played.latencies_ms:
        p50, p90, p99 = np.percentile(played.latencies_ms, (50, 90, 99))
        highest, known = max(played.latencies_ms), len(played.latencies_ms)
        figures = f"p50 {p50:.0f}  p90 {p90:.0f}  p99 {p99:.0f}  max {highest:.0f}"
        rows.append(("latency ms", f"{figures}  ({known} of {played.grids} grids)"))
    else:
        rows.append(("latency", "not measured: the bag's images carry no stamps"))
    return rows


def _versions(setting: Setting, played: Played, filmed: Filmed | None) -> list[tuple[str, str]]:
    return [
        ("occ_perception", occ_perception.__version__),
        ("weights", setting.weights or f"random, seed {setting.seed}"),
        ("played", played.how),
        ("device", f"{setting.device}, {platform.machine()}, {os.cpu_count()} CPUs"),
        ("Python", sys.version.split()[0]),
        ("torch", torch.__version__),
        ("numpy", np.__version__),
        ("rosbags", version("rosbags")),
        ("ROS 2", os.environ.get("ROS_DISTRO", "wheels") if "rclpy" in sys.modules else "not used"),
        ("film", f"{filmed.film.name}, {filmed.codec}" if filmed is not None else "none"),
        ("made", datetime.datetime.now().astimezone().isoformat(timespec="seconds")),
    ]


def _table(head: list[str], rows: Iterable[Sequence[str]], escape: bool = True) -> Iterable[str]:
    yield "<table>"
    if head:
        yield "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        cells = (html.escape(cell) if escape else cell for cell in row)
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f} %"
