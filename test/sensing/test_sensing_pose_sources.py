"""One publisher per stream of poses."""

from __future__ import annotations

from occ_perception.sensing.pose_sources import PoseSources


def test_the_first_publisher_stays_as_long_as_it_sends() -> None:
    sources = PoseSources()
    assert sources.publisher("odom") == b""
    for k in range(40):
        assert sources.accepts("odom", b"first", 0.5 * k)
        assert not sources.accepts("odom", b"second", 0.5 * k + 0.1)
        assert sources.accepts("other", b"second", 0.5 * k), "another stream"
    assert sources.publisher("odom") == b"first"


def test_another_one_takes_over_after_a_second_of_silence() -> None:
    sources = PoseSources()
    assert sources.accepts("odom", b"first", 10.0)
    assert not sources.accepts("odom", b"second", 10.9)
    assert sources.accepts("odom", b"second", 11.0)
    assert not sources.accepts("odom", b"first", 11.1)
