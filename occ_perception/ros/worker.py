"""The thread that turns frames into predictions and publishes them."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.frames import OccupancyPrediction
from occ_perception.models.postprocess import NotFiniteError
from occ_perception.ros.assembly_stage import AssembledFrame, AssemblyStage
from occ_perception.ros.diagnostics import ERROR, OK, WARN, LatencyWindow, Status
from occ_perception.ros.failures import Failures, fault_of
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import ParameterServer
from occ_perception.ros.surroundings import Surroundings
from occ_perception.runtime.stream import OccupancyStream


class Worker:
    """Takes frames from the assembly stage, runs the stream, publishes.

    Args:
        stream: the network with its history; used by this thread only.
        stage: source of the frames; started and stopped with the worker.
        surroundings: follows the vehicle from prediction to prediction; used by this thread only.
        outputs: publishers of the predictions.
        parameters: live parameters are read at every frame.
        failures: of frame sets, shared with the stage.
        logger: logger of the node.
    """

    def __init__(
        self,
        stream: OccupancyStream,
        stage: AssemblyStage,
        surroundings: Surroundings,
        outputs: Outputs,
        parameters: ParameterServer,
        failures: Failures,
        logger: RcutilsLogger,
    ) -> None:
        self._stream = stream
        self._stage = stage
        self._surroundings = surroundings
        self._outputs = outputs
        self._parameters = parameters
        self._failures = failures
        self._logger = logger
        self._latency = LatencyWindow()
        self._reset_lock = threading.Lock()
        self._reset_reason = ""
        self._busy_since: float | None = None
        self._last_step_s = 0.0
        self._last: OccupancyPrediction | None = None
        self._overwritten_reported = 0
        self._breaks = 0
        self._last_break = ""
        self._frames = 0
        # A daemon thread: a network that hangs must not keep the process alive after the timeout
        # of stop().
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._stage.start()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the current frame and end the threads; returns whether they ended in time."""
        give_up = time.monotonic() + timeout_s
        has_ended = self._stage.stop(timeout_s)
        if self._thread.is_alive():
            self._thread.join(max(0.0, give_up - time.monotonic()))
        return has_ended and not self._thread.is_alive()

    def reset(self, reason: str) -> None:
        """Clear the history and all frame sets that closed before now.

        Call it from the thread that closes frame sets. The frame that the network is busy with is
        still published.
        """
        self._stage.forget()
        with self._reset_lock:
            self._reset_reason = reason

    def _run(self) -> None:
        while (assembled := self._stage.ready.take()) is not None:
            self._process(assembled)

    def _process(self, assembled: AssembledFrame) -> None:
        started = time.monotonic()
        try:
            prediction = self._step(assembled)
            if prediction is None:
                return
            stepped = time.monotonic()
            step = self._surroundings.add(assembled.frame, prediction)
            looked = time.monotonic()
            self._outputs.publish(step, self._parameters.values)
        except Exception as error:
            # An error in one frame must not stop the node. It is logged and reported.
            if self._outputs.are_open:
                self._failures.add(*fault_of(error))
            return
        finished = time.monotonic()
        self._note(prediction)
        closed, timings = assembled.job.closed_at, prediction.timings_ms
        stages = {
            "waiting": 1e3 * (assembled.taken_at - closed),
            "assembly": 1e3 * (assembled.assembled_at - assembled.taken_at),
            "queued": 1e3 * (started - assembled.assembled_at),
            **{stage: timings[stage] for stage in ("preprocess", "network", "labels")},
            "surroundings": 1e3 * (looked - stepped),
            "publishing": 1e3 * (finished - looked),
        }
        total = 1e3 * (finished - closed)
        self._latency.add({"latency": total, **stages, "step": timings["total"]})
        self._outputs.publish_latency(prediction, {"total": total, **stages})

    def _step(self, assembled: AssembledFrame) -> OccupancyPrediction | None:
        """One step of the stream; None if the frame was forgotten meanwhile.

        After a step that failed the next one begins without a history: the failed one left it as
        it was, but after an error of the device its tensors cannot be trusted, and they may be the
        memory that was missing.
        """
        with self._reset_lock:
            reason, self._reset_reason = self._reset_reason, ""
        began = self._busy_since = time.monotonic()
        self._stage.network_is_free_at(began + self._last_step_s)
        try:
            if reason:
                # By now nothing refers to the tensors of a failed step any more.
                torch.cuda.empty_cache()
                self._stream.reset(reason)
                self._surroundings.reset()
            if self._stage.is_forgotten(assembled.job):
                return None
            prediction = self._stream.step(assembled.frame)
            self._last_step_s = time.monotonic() - began
            return prediction
        except Exception as error:
            with self._reset_lock:
                if not self._reset_reason and not isinstance(error, NotFiniteError):
                    kind, _ = fault_of(error)
                    self._reset_reason = f"the network failed on an earlier frame set: {kind}"
            raise
        finally:
            self._busy_since = None
            self._stage.network_is_free_at(None)

    def _note(self, prediction: OccupancyPrediction) -> None:
        if not self._frames:
            occupied = int((prediction.labels != prediction.empty_class).sum())
            self._logger.info(
                f"first grid, of the images at {prediction.stamp_ns * 1e-9:.3f} s: {occupied} of "
                f"{prediction.labels.size} voxels are occupied"
            )
        self._frames += 1
        self._last = prediction
        self._failures.last = ""
        if prediction.history_break:
            self._breaks += 1
            self._last_break = prediction.history_break

    def _stalled_for_s(self) -> float:
        """How long the network has been busy with one frame set, if that is a stall; 0 if not."""
        since = self._busy_since
        busy_s = 0.0 if since is None else time.monotonic() - since
        return busy_s if busy_s > self._parameters.values.stalled_after_s else 0.0

    def statuses(self) -> list[Status]:
        """The diagnostics statuses of both stages and of the way ahead."""
        return [self._inference_status(), self._surroundings.status]

    def _inference_status(self) -> Status:
        last, losses = self._last, self._stage.figures()
        overwritten = losses["frame_sets_overwritten"] - self._overwritten_reported
        self._overwritten_reported = losses["frame_sets_overwritten"]
        if stalled_s := self._stalled_for_s():
            level = ERROR
            text = (
                f"the network has been busy with one frame set for {stalled_s:.0f} s "
                "(stalled_after_s): its device hangs or is too slow"
            )
        elif failure := self._failures.last:
            level, text = ERROR, f"last frame set dropped: {failure}"
        elif last is None:
            level, text = WARN, "no frame set processed yet"
        elif failing := self._outputs.failing:
            level, text = WARN, failing
        elif overwritten:
            level = WARN
            text = (
                f"the network is slower than the cameras: {overwritten} frame sets overwritten "
                "since last report"
            )
        else:
            level, text = OK, "predicting"
        values: dict[str, Any] = {
            "frames": self._frames,
            **losses,
            **self._failures.figures(),
            "history_length": last.history_length if last else 0,
            "history_breaks": self._breaks,
            "last_history_break": self._last_break,
            **self._outputs.figures(),
            **self._latency.figures(),
        }
        return Status("inference", level, text, values)
