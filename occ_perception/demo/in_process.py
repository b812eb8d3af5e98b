"""The run of the demonstration without ROS: the network reads the bag in this process."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

from occ_perception.bags.drive import open_recording
from occ_perception.bags.foxglove import PredictionWriter
from occ_perception.demo.setting import Played, Setting, counted
from occ_perception.models.zoo import get_card
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model


def play_in_process(setting: Setting) -> Played:
    """Run the network on every frame of a bag, and record its outputs.

    Raises:
        BagError, YamlError, ModelError: bag or weights cannot be used.
    """
    recorded = setting.out / "recorded"
    if recorded.exists():
        shutil.rmtree(recorded)
    stamps_ns: list[int] = []
    latencies_ms: list[float] = []
    with ExitStack() as context:
        drive = context.enter_context(
            open_recording(
                setting.bag, layout=setting.layout or None, model=get_card(setting.model)
            )
        )
        model = load_model(
            setting.model,
            setting.weights or None,
            None if setting.weights else setting.seed,
            setting.device,
            drive.rig.names,
        )
        stream = OccupancyStream(model, frame_id=drive.layout.pose.ego_frame)
        bag = context.enter_context(PredictionWriter(recorded))
        bar = context.enter_context(counted("frames", drive.expected_frames))
        for frame in drive:
            prediction = stream.step(frame)
            bag.write_prediction(prediction)
            stamps_ns.append(prediction.stamp_ns)
            latencies_ms.append(prediction.timings_ms["total"])
            bar.at(len(latencies_ms))
        skipped = [str(problem) for problem in drive.problems]
    return Played(
        recorded=recorded if stamps_ns else None,
        stamps_ns=stamps_ns,
        frame_sets=len(stamps_ns) + len(skipped),
        without_output=skipped,
        latencies_ms=latencies_ms[1:] or latencies_ms,
        latency_is="decoded images of a frame set -> its grid, after the first one",
        drops={"skipped by the reader": str(len(skipped))},
        how="in one process, without ROS",
    )
