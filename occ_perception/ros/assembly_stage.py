"""The thread that turns frame sets into frames while the network is busy with the frame before."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.ros.failures import Failures, fault_of
from occ_perception.ros.lidar_input import LidarInput, MissingSweepError
from occ_perception.ros.parameters import ParameterServer
from occ_perception.ros.synchronizer import Job, Mailbox
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.images import load_decoder

# How much earlier than the network is expected to be free assembling begins, in durations of the
# last assembly: earlier, a newer frame set would replace the result.
_AHEAD = 2.0


@dataclass(frozen=True, eq=False)
class AssembledFrame:
    """A frame for the network.

    Attributes:
        job: the frame set it was made from.
        frame: decoded, with ego poses.
        taken_at, assembled_at: monotonic times in seconds.
    """

    job: Job
    frame: CameraFrame
    taken_at: float
    assembled_at: float


class AssemblyStage:
    """Waits for ego poses and decodes images, one frame ahead of the network.

    Both the mailbox before it and the one behind it hold one item, and the newest wins. While the
    network is busy, a frame set is taken shortly before the network is expected to be free.

    Args:
        jobs: source of the frame sets.
        vehicle: source of ego poses and mounts; counts unusable images.
        parameters: live parameters are read at every frame set.
        lidar: sweeps for a model that takes lidar depth; None for other models.
        failures: of frame sets that cannot become a frame.

    Attributes:
        ready: the mailbox behind it.
    """

    def __init__(
        self,
        jobs: Mailbox[Job],
        vehicle: VehicleSubscriptions,
        parameters: ParameterServer,
        *,
        lidar: LidarInput | None,
        failures: Failures,
    ) -> None:
        self.ready: Mailbox[AssembledFrame] = Mailbox()
        self._jobs = jobs
        self._vehicle = vehicle
        self._parameters = parameters
        self._lidar = lidar
        self._failures = failures
        self._assembler: tuple[CameraRig, FrameAssembler] | None = None
        self._last_duration_s = 0.0
        self._lock = threading.Lock()
        self._begins_at = 0.0
        self._dropped = 0
        self._pace = threading.Condition()
        self._free_at: float | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="assembly", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End the thread; returns whether it ended in time."""
        self._jobs.close()
        self.ready.close()
        with self._pace:
            self._is_stopped = True
            self._pace.notify()
        self._vehicle.poses.abandon_waits()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- any thread ------------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop all frame sets that closed before now, whether they wait or are assembled."""
        with self._lock:
            self._begins_at = time.monotonic()
        self._jobs.clear()
        self.ready.clear()
        self._vehicle.poses.abandon_waits()

    def is_forgotten(self, job: Job) -> bool:
        """Whether a frame set closed before the last :meth:`forget`; those are counted."""
        with self._lock:
            is_past = job.closed_at < self._begins_at
            self._dropped += is_past
            return is_past

    def network_is_free_at(self, expected: float | None) -> None:
        """Tell when the network will be free, as a monotonic time; None if it is."""
        with self._pace:
            self._free_at = expected
            self._pace.notify()

    def figures(self) -> dict[str, int]:
        """Frame sets that newer ones replaced, and those that were forgotten, for diagnostics."""
        with self._lock:
            dropped = self._dropped
        return {
            "frame_sets_overwritten": self._jobs.overwritten + self.ready.overwritten,
            "frame_sets_cleared": self._jobs.cleared + self.ready.cleared + dropped,
        }

    # -- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        load_decoder()
        while True:
            self._wait_until_needed()
            job = self._jobs.take()
            if job is None:
                return
            taken_at = time.monotonic()
            frame = self._frame_of(job)
            now = time.monotonic()
            self._last_duration_s = now - taken_at
            if frame is not None and not self.is_forgotten(job):
                self.ready.put(AssembledFrame(job, frame, taken_at, now))

    def _wait_until_needed(self) -> None:
        with self._pace:
            while not self._is_stopped and self._free_at is not None:
                start_at = self._free_at - _AHEAD * self._last_duration_s
                if (wait_s := start_at - time.monotonic()) <= 0:
                    return
                self._pace.wait(wait_s)

    def _frame_of(self, job: Job) -> CameraFrame | None:
        try:
            return self._assemble(job)
        except Exception as error:
            # Nothing is said about frame sets that a reset or the end of the node interrupts.
            if self._is_stopped or self.is_forgotten(job):
                return None
            if isinstance(error, FrameError):
                if error.reason in ("undecodable_image", "size_mismatch"):
                    self._vehicle.reject_image(error.camera, str(error))
                self._failures.add(error.reason, str(error))
            elif isinstance(error, MissingSweepError):
                self._failures.add("no_lidar", str(error))
            else:
                self._failures.add(*fault_of(error))
            return None

    def _assemble(self, job: Job) -> CameraFrame:
        if self._assembler is None or self._assembler[0] is not job.rig:
            encodings = self._vehicle.plan.encodings
            self._assembler = (job.rig, FrameAssembler(job.rig, encodings=encodings))
        poses, wait_s = self._vehicle.poses, self._parameters.values.pose_wait_ms * 1e-3
        poses.wait_until_settled(job.frame_set.newest_stamp_ns, wait_s)
        frame = self._assembler[1].assemble(job.frame_set, poses)
        return frame if self._lidar is None else self._lidar.with_points(frame, self._vehicle)
