"""The demonstration without ROS, as a person sees it who installed the package with pip."""

from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
from processes import python_file

NO_ROS_DEMO = Path(__file__).with_name("demo_without_ros.py")


def test_without_ros_the_network_runs_in_the_process_and_the_report_is_complete(
    tmp_path: Path, launch
) -> None:
    out = tmp_path / "out"
    run = launch(python_file(NO_ROS_DEMO, "--quick", "--size", "160x90", "--out", out))
    first = out / "first.png"
    while run.is_running and not first.is_file():
        time.sleep(0.2)
    assert first.is_file(), run.output()
    assert not (out / "recorded").exists()  # it comes before everything else
    assert run.wait(600) == 0, run.output()
    for line in (
        "ROS 2 is not installed",
        f"first image     {first}",
        "frame sets in   6",
        "frames out      6",
        "drops           0",
    ):
        assert line in run.output()
    page = (out / "report.html").read_text()
    assert re.search(r"<video [^>]*src=\"film.mp4\"", page)
    assert '"name": "prediction"' in page
    assert '"name": "ground truth"' in page
    assert "drawn over the camera images" in page
    assert "in one process, without ROS" in page
    assert "http:" not in page and "https:" not in page  # self-contained
    reader = cv2.VideoCapture(str(out / "film.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert reader.get(cv2.CAP_PROP_FPS) == 2.0
    for image in (cv2.imread(str(first)), reader.read()[1]):
        banner = image[92:130, 620:980].reshape(-1, 3).mean(axis=0)
        assert banner[2] > 150 > 100 > banner[0], "UNTRAINED is in red in every image"
