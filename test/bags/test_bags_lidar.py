"""Every frame of a model that takes lidar depth has the nearest sweep of the bag."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from small_footage import BASE_T_LIDAR, SmallFootage, write_footage

from occ_perception.bags.drive import open_recording
from occ_perception.bags.lidar import LidarSweeps
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.writing import BagWriter
from occ_perception.models.zoo import get_card


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> SmallFootage:
    return write_footage(tmp_path_factory.mktemp("footage"))


def test_frames_have_the_nearest_sweep_and_the_pose_at_its_stamp(footage: SmallFootage) -> None:
    sweeps = {sweep.stamp_ns: sweep for sweep in LidarSweeps(footage.cameras)}
    with open_recording(footage.cameras, model=get_card("alocc_3d_depth")) as bag:
        for _ in range(2):  # a bag can be read again
            frames = list(bag)
            assert len(frames) == len(footage.frames)
            for frame, driven in zip(frames, footage.frames, strict=True):
                lidar = frame.lidar
                assert lidar is not None
                assert lidar.stamp_ns == min(sweeps, key=lambda s: abs(s - driven.stamp_ns))
                assert np.array_equal(lidar.points, sweeps[lidar.stamp_ns].points)
                # Odometry has poses at the cameras' stamps; the sweep's pose lies between them.
                there = lidar.world_T_ego[:3, 3] - driven.world_T_ego["CAM_FRONT"][:3, 3]
                late_s = (lidar.stamp_ns - driven.stamp_ns) * 1e-9
                assert np.linalg.norm(there) == pytest.approx(8.0 * abs(late_s), abs=0.1)


def test_camera_only_models_read_no_lidar(footage: SmallFootage) -> None:
    with open_recording(footage.cameras, model=get_card("alocc_3d")) as bag:
        assert all(frame.lidar is None for frame in bag)


def test_a_topic_that_does_not_exist_is_refused(footage: SmallFootage) -> None:
    card = get_card("alocc_3d_depth")
    refusal = r"/no/such is not a topic of type .*PointCloud2; choose one of /lidar_top"
    with pytest.raises(BagError, match=refusal):
        open_recording(footage.cameras, model=card, lidar_topic="/no/such")


def test_frames_without_a_sweep_near_them_are_left_out(footage: SmallFootage, tmp_path) -> None:
    first = footage.frames[0].stamp_ns
    with Recording(footage.cameras) as recording, BagWriter(tmp_path / "bag") as writer:
        for message in recording.messages():
            if message.topic != "/lidar_top" or message.received_ns < first + 600_000_000:
                content = recording.decode(message)
                static = message.topic == "/tf_static"
                writer.write(message.topic, message.received_ns, content, static)
    with open_recording(tmp_path / "bag", model=get_card("alocc_3d_depth")) as bag:
        assert 0 < len(list(bag)) < len(footage.frames)
        assert {problem.reason for problem in bag.problems} == {"no_lidar"}
        assert "no sweep on /lidar_top within 100 ms" in str(bag.problems[0])


def test_clouds_come_with_mounts_and_poses_alone_or_beside_frame_sets(
    footage: SmallFootage,
) -> None:
    with open_recording(footage.cameras) as bag:
        for cloud, frame in zip(bag.clouds("/lidar_top"), footage.frames, strict=True):
            stamp = frame.stamp_ns + 20_000_000
            assert (cloud.stamp_ns, cloud.time_line) == (stamp, 0)
            np.testing.assert_allclose(cloud.vehicle.mount("lidar_top"), BASE_T_LIDAR, atol=1e-4)
            there = cloud.vehicle.poses.at(stamp)
            ahead = there[:3, 3] - frame.world_T_ego["CAM_FRONT"][:3, 3]
            assert np.linalg.norm(ahead) == pytest.approx(8.0 * 0.02, abs=0.1)
        kinds = [type(item).__name__ for item in bag.frame_sets_and_clouds("/lidar_top")]
        assert sorted(kinds) == ["RecordedCloud"] * 4 + ["RecordedFrameSet"] * 4
        assert bag.counters.complete == 4
