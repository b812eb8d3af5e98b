"""Rigid transforms form a group, and poses between poses move with their frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import expm, logm

from occ_perception.geometry import (
    interpolate_transform,
    invert_transform,
    matrix_from_pose,
    pose_from_matrix,
    relative_motion,
    require_rigid,
    transform_points,
)

METRES = st.floats(-1e4, 1e4)
FRACTIONS = st.floats(0, 1)


@st.composite
def quaternions(draw):
    q = draw(hnp.arrays(np.float64, 4, elements=st.floats(-1, 1)))
    norm = np.linalg.norm(q)
    assume(norm > 1e-2)
    return q / norm


@st.composite
def poses(draw, reach=METRES):
    translation = draw(hnp.arrays(np.float64, 3, elements=reach))
    return matrix_from_pose(translation, draw(quaternions()))


POINTS = hnp.arrays(np.float64, (4, 3), elements=st.floats(-100, 100))


def rotation_angle(matrix: np.ndarray) -> float:
    """Angle in radians from the antisymmetric part and the trace, another way than scipy's."""
    R = matrix[:3, :3]
    sine = np.linalg.norm([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    return float(np.arctan2(sine, (np.trace(R) - 1) / 2))


@given(quaternions(), hnp.arrays(np.float64, 3, elements=METRES), POINTS)
def test_a_pose_rotates_as_its_quaternion_multiplies(q, t, points):
    """Independent formula: v + 2 u x (u x v + w v) for q = (u, w)."""
    u, w = q[:3], q[3]
    expected = points + 2 * np.cross(u, np.cross(u, points) + w * points) + t
    np.testing.assert_allclose(
        transform_points(matrix_from_pose(t, q), points), expected, atol=1e-8
    )


@given(poses())
def test_pose_and_matrix_are_two_forms_of_one_thing(a_T_b):
    t, q = pose_from_matrix(a_T_b)
    assert q[3] >= 0
    np.testing.assert_allclose(np.linalg.norm(q), 1, atol=1e-12)
    np.testing.assert_allclose(matrix_from_pose(t, q), a_T_b, atol=1e-12)


@given(poses(), poses(), POINTS)
def test_composition_is_one_transform_after_the_other(a_T_b, b_T_c, points):
    np.testing.assert_allclose(
        transform_points(a_T_b @ b_T_c, points),
        transform_points(a_T_b, transform_points(b_T_c, points)),
        atol=1e-7,
    )


@given(poses(), poses())
def test_inverse(a_T_b, b_T_c):
    np.testing.assert_allclose(invert_transform(a_T_b) @ a_T_b, np.eye(4), atol=1e-7)
    np.testing.assert_allclose(invert_transform(a_T_b), np.linalg.inv(a_T_b), atol=1e-7)
    np.testing.assert_allclose(invert_transform(invert_transform(a_T_b)), a_T_b, atol=1e-7)
    both = invert_transform(np.stack([a_T_b, b_T_c]))
    np.testing.assert_array_equal(both[1], invert_transform(b_T_c))


@given(poses(), poses(), poses())
def test_relative_motion_does_not_depend_on_the_world(other_T_world, world_T_a, world_T_b):
    a_T_b = relative_motion(world_T_a, world_T_b)
    np.testing.assert_allclose(world_T_a @ a_T_b, world_T_b, atol=1e-7)
    np.testing.assert_allclose(
        relative_motion(other_T_world @ world_T_a, other_T_world @ world_T_b), a_T_b, atol=1e-6
    )


@given(poses(), poses())
def test_interpolation_starts_and_ends_at_its_poses(first, second):
    np.testing.assert_allclose(interpolate_transform(first, second, 0.0), first, atol=1e-9)
    np.testing.assert_allclose(interpolate_transform(first, second, 1.0), second, atol=1e-9)


@given(poses(), poses(), FRACTIONS)
def test_interpolation_gives_a_rigid_transform_on_the_straight_line(first, second, fraction):
    between = interpolate_transform(first, second, fraction)
    require_rigid(between, "pose")
    np.testing.assert_allclose(
        between[:3, 3], (1 - fraction) * first[:3, 3] + fraction * second[:3, 3], atol=1e-7
    )


@given(poses(), poses(), FRACTIONS)
def test_the_turn_is_shared_out_in_proportion(first, second, fraction):
    whole = rotation_angle(invert_transform(first) @ second)
    assume(whole < np.pi - 1e-3)  # at half a turn the shorter way round is not defined
    between = interpolate_transform(first, second, fraction)
    assert rotation_angle(invert_transform(first) @ between) == pytest.approx(
        fraction * whole, abs=1e-6
    )
    assert rotation_angle(invert_transform(between) @ second) == pytest.approx(
        (1 - fraction) * whole, abs=1e-6
    )


@given(poses(), poses(), FRACTIONS)
def test_interpolation_reads_the_same_backwards(first, second, fraction):
    assume(rotation_angle(invert_transform(first) @ second) < np.pi - 1e-3)
    np.testing.assert_allclose(
        interpolate_transform(first, second, fraction),
        interpolate_transform(second, first, 1 - fraction),
        atol=1e-6,
    )


@given(poses(), poses(), poses(), st.floats(-2, 3))
def test_interpolation_moves_with_the_world(other_T_world, first, second, fraction):
    assume(rotation_angle(invert_transform(first) @ second) < np.pi - 1e-3)
    np.testing.assert_allclose(
        interpolate_transform(other_T_world @ first, other_T_world @ second, fraction),
        other_T_world @ interpolate_transform(first, second, fraction),
        atol=1e-5,
    )


@given(
    poses(),
    hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)),
    hnp.arrays(np.float64, 3, elements=st.floats(-30, 30)),
    st.floats(-2, 4),
)
def test_a_body_at_constant_velocity_is_met_in_between_and_beyond(start, rate, velocity, time):
    """Angular rate up to 1 rad/s about a body axis and straight flight, by matrix exponentials."""

    def pose_at(seconds: float) -> np.ndarray:
        x, y, z = rate
        turn = expm(seconds * np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        pose = start.copy()
        pose[:3, :3] = start[:3, :3] @ turn
        pose[:3, 3] += seconds * velocity
        return pose

    np.testing.assert_allclose(
        interpolate_transform(pose_at(0.0), pose_at(1.0), time), pose_at(time), atol=1e-6
    )


@given(poses(), poses(), FRACTIONS)
def test_rotation_agrees_with_the_matrix_logarithm(first, second, fraction):
    step = first[:3, :3].T @ second[:3, :3]
    assume(rotation_angle(invert_transform(first) @ second) < 3.0)  # logm loses digits near pi
    expected = first[:3, :3] @ expm(fraction * np.real(logm(step)))
    np.testing.assert_allclose(
        interpolate_transform(first, second, fraction)[:3, :3], expected, atol=1e-6
    )


@given(poses(), st.sampled_from(["scaled", "mirrored", "transposed", "sheared", "nan"]))
def test_what_is_not_rigid_is_refused(pose, fault):
    require_rigid(pose, "pose")
    broken = pose.copy()
    if fault == "scaled":
        broken[:3, :3] *= 1.01
    elif fault == "mirrored":
        broken[:3, 1] *= -1
    elif fault == "transposed":
        broken[:3, 3] += np.where(broken[:3, 3] < 0, -1, 1)
        broken = broken.T
    elif fault == "sheared":
        broken[:3, 0] += 0.05 * broken[:3, 1]
    else:
        broken[1, 3] = np.nan
    with pytest.raises(ValueError, match="camera X: ego_T_cam"):
        require_rigid(broken, "camera X: ego_T_cam")


@pytest.mark.parametrize("shape", [(3, 4), (3, 3), (16,), (2, 4, 4)])
def test_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"finite \(4, 4\) matrix, got shape"):
        require_rigid(np.zeros(shape), "pose")


@pytest.mark.parametrize("scale", [0.0, 0.9, 1.1])
def test_a_quaternion_must_have_length_one(scale):
    with pytest.raises(ValueError, match=r"an unset orientation is \(0, 0, 0, 1\)"):
        matrix_from_pose((0, 0, 0), (0, 0, 0, scale))


def test_a_quaternion_typed_with_three_digits_is_normalised():
    matrix = matrix_from_pose((1, 2, 3), (0, 0, 0.707, 0.707))
    np.testing.assert_allclose(matrix[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("translation", "quaternion"),
    [((0, np.nan, 0), (0, 0, 0, 1)), ((0, 0, 0), (np.inf, 0, 0, 1))],
)
def test_a_pose_must_be_finite(translation, quaternion):
    with pytest.raises(ValueError, match="pose is not finite"):
        matrix_from_pose(translation, quaternion)
