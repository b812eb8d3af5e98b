"""The tree of frames in /tf and /tf_static, without ROS types.

Some bags publish the whole tree, camera mounts included, in every /tf message and have no
/tf_static; others publish every mount as static. Both are looked up in the same way.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from occ_perception.geometry import Float64, invert_transform
from occ_perception.sensing.ego_pose import PoseBuffer, PoseNotYet

# A mount may be published again with rounding noise, but must not move.
_MOUNT_SHIFT_M = 1e-3
_MOUNT_TURN = 1e-4
# Two changes within this time are motion; a single one is a new mount, e.g. of another vehicle.
_MOTION_NS = 10_000_000_000


class TransformError(LookupError):
    """Frames that are unknown, not connected, or not rigidly connected."""


@dataclass
class _Edge:
    parent: str
    parent_T_child: Float64
    """The latest value; the only one if the edge is static."""
    is_static: bool
    history: PoseBuffer
    first: tuple[str, Float64, bool]
    """Parent, value and whether it was static, as first added."""
    stepped_ns: int | None = None
    """Stamp of the last message that differed from the one before it."""
    moves: bool = False

    def judge(self, stamp_ns: int, parent_T_child: Float64) -> bool:
        """Compare a new value with the latest; returns whether a static transform may change."""
        if not _differs(self.parent_T_child, parent_T_child):
            return False
        moved, stepped_ns = self.moves, self.stepped_ns
        self.moves = stepped_ns is not None and abs(stamp_ns - stepped_ns) <= _MOTION_NS
        self.stepped_ns = stamp_ns
        return not (moved and self.moves)

    def at(self, stamp_ns: int) -> Float64:
        return self.parent_T_child if self.is_static else self.history.at(stamp_ns)


class TransformTree:
    """Frames and the transforms between them, fed with the content of tf messages.

    Args:
        max_extrapolation_ns, max_gap_ns: limits of every moving edge, see :class:`PoseBuffer`.
    """

    def __init__(
        self, max_extrapolation_ns: int = 50_000_000, max_gap_ns: int = 750_000_000
    ) -> None:
        self.max_extrapolation_ns = max_extrapolation_ns
        self.max_gap_ns = max_gap_ns
        self._edges: dict[str, _Edge] = {}
        self.mount_changes = 0
        """Number of changes that may change a result of :meth:`static_transform`."""

    @property
    def frames(self) -> tuple[str, ...]:
        """All frames, sorted."""
        parents = {edge.parent for edge in self._edges.values()}
        return tuple(sorted(parents | self._edges.keys()))

    def reset(self) -> None:
        """Drop all but static transforms; the next ones may come from another vehicle's bag."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.is_static}
        for edge in self._edges.values():
            edge.history.reset()
        self.mount_changes += 1

    def rewind(self) -> None:
        """Return to the first transform of every frame before the same messages are read again."""
        first = {child: edge.first for child, edge in self._edges.items()}
        self._edges = {}
        for child, (parent, matrix, static) in first.items():
            with suppress(TransformError):  # a frame that had another parent before may close one
                self._new_edge(parent, child, matrix, static)

    def forget_history(self, child: str) -> None:
        """Drop the history of a frame; its newest transform stays."""
        self._edges[child.lstrip("/")].history.reset()

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        parent_T_child: ArrayLike,
        static: bool = False,
    ) -> None:
        """Add one transform of a tf message; leading slashes of frame names are dropped.

        The newest parent that a static transform gives a frame applies, as in tf2. A moving
        transform gives a moving frame another parent only after the first one has fallen silent:
        two publishers at once would make it flicker.

        Raises:
            TransformError: a frame has no name, the child has another parent, or the edge closes a
                cycle.
            TimeJump: a moving frame's stamps went back by more than 1 s.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        matrix = np.array(parent_T_child, dtype=np.float64)
        if not parent or not child:
            raise TransformError(
                f"transform {parent!r} -> {child!r}: a frame has no name (frame_id, child_frame_id)"
            )
        edge = self._edges.get(child)
        if edge is None or self._is_superseded(edge, parent, stamp_ns, static):
            edge = self._new_edge(parent, child, matrix, static)
        if edge.parent != parent:
            raise TransformError(
                f"frame {child!r} has two parents, {edge.parent!r} and {parent!r}; "
                "a frame of tf has one, so two publishers disagree"
            )
        if not static:
            edge.history.add(stamp_ns, matrix)
            self.mount_changes += edge.judge(stamp_ns, matrix)
        else:
            self.mount_changes += _differs(edge.parent_T_child, matrix)
        edge.is_static = static
        edge.parent_T_child = matrix

    def static_transform(self, target: str, source: str) -> Float64:
        """``target_T_source`` (4, 4) between rigidly connected frames, from either topic.

        Raises:
            TransformError: a frame is unknown, the two are not connected, or the path between them
                contains a moving edge.
        """
        up_source, up_target = self._ways(target, source)
        for child in (*up_source, *up_target):
            if self._edges[child].moves:
                raise TransformError(
                    f"{source!r} is not rigidly mounted on {target!r}: frame {child!r} moves "
                    f"in {self._edges[child].parent!r}"
                )
        target_T_top = _product([self._edges[child].parent_T_child for child in up_target])
        top_T_source = _product([self._edges[child].parent_T_child for child in up_source])
        return invert_transform(target_T_top) @ top_T_source

    def lies_between(self, child: str, target: str, source: str) -> bool:
        """Whether the transform to ``child`` is part of ``target_T_source``, as far as known."""
        try:
            up_source, up_target = self._ways(target, source)
        except TransformError:
            return False
        return child.lstrip("/") in (*up_source, *up_target)

    def poses(self, world: str, ego: str) -> TreePoses:
        """The pose of ``ego`` in ``world`` over time; the frames may become known later."""
        return TreePoses(self, world.lstrip("/"), ego.lstrip("/"))

    def _edges_between(self, target: str, source: str) -> tuple[list[_Edge], list[_Edge]]:
        """Edges from the common ancestor to source and to target, starting at the ancestor."""
        up_source, up_target = self._ways(target, source)
        return (
            [self._edges[child] for child in up_source],
            [self._edges[child] for child in up_target],
        )

    def _is_superseded(self, edge: _Edge, parent: str, stamp_ns: int, static: bool) -> bool:
        """Whether a frame's edge gives way to one with another parent."""
        if edge.parent == parent:
            return False
        if static or edge.is_static:
            return static
        span_ns = edge.history.span_ns
        return span_ns is None or stamp_ns - span_ns[1] > self.max_gap_ns

    def _new_edge(self, parent: str, child: str, matrix: Float64, static: bool) -> _Edge:
        if child == parent or child in self._ancestors(parent):
            upwards = [parent, *self._ancestors(parent)]
            loop = [*upwards[: upwards.index(child) + 1], parent]
            raise TransformError(
                f"transform {parent!r} -> {child!r} closes a cycle: {' -> '.join(loop[::-1])}"
            )
        history = PoseBuffer(
            max_extrapolation_ns=self.max_extrapolation_ns,
            max_gap_ns=self.max_gap_ns,
            name=f"tf {parent} -> {child}",
        )
        before = self._edges.get(child)
        first = (parent, matrix, static) if before is None else before.first
        self._edges[child] = _Edge(parent, matrix, static, history, first)
        self.mount_changes += 1
        return self._edges[child]

    def _ancestors(self, frame: str) -> list[str]:
        chain: list[str] = []
        while frame in self._edges:
            frame = self._edges[frame].parent
            chain.append(frame)
        return chain

    def _ways(self, target: str, source: str) -> tuple[list[str], list[str]]:
        """Child frames on the paths from the common ancestor to source and to target."""
        target, source = target.lstrip("/"), source.lstrip("/")
        known = self.frames
        for frame in (target, source):
            if frame not in known:
                raise TransformError(
                    f"tf has no frame {frame!r}; it has {', '.join(known) or 'no frames yet'}"
                )
        from_source = [source, *self._ancestors(source)]
        from_target = [target, *self._ancestors(target)]
        top = next((frame for frame in from_source if frame in from_target), None)
        if top is None:
            raise TransformError(
                f"tf does not connect {source!r} (under {from_source[-1]!r}) with {target!r} "
                f"(under {from_target[-1]!r})"
            )
        return (
            from_source[: from_source.index(top)][::-1],
            from_target[: from_target.index(top)][::-1],
        )


class TreePoses:
    """``world_T_ego`` from a chain of tf edges; an :class:`~.ego_pose.EgoPoses`."""

    def __init__(self, tree: TransformTree, world: str, ego: str) -> None:
        self.tree = tree
        self.world = world
        self.ego = ego

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego``.

        Raises:
            PoseNotYet: a frame of the chain is unknown, or the stamp is newer than an edge's poses.
            PoseUnavailable: an edge has a gap at the stamp.
        """
        to_ego, to_world = self._edges()
        top_T_ego = _product([edge.at(stamp_ns) for edge in to_ego])
        if not to_world:
            return top_T_ego
        return invert_transform(_product([edge.at(stamp_ns) for edge in to_world])) @ top_T_ego

    def settled(self, stamp_ns: int) -> bool:
        """Whether every moving edge of the chain has a pose at or after the stamp."""
        try:
            to_ego, to_world = self._edges()
        except PoseNotYet:
            return False
        return all(edge.is_static or edge.history.settled(stamp_ns) for edge in to_ego + to_world)

    def _edges(self) -> tuple[list[_Edge], list[_Edge]]:
        try:
            return self.tree._edges_between(self.world, self.ego)
        except TransformError as error:
            raise PoseNotYet(f"no pose of {self.ego!r} in {self.world!r}: {error}") from error


def _product(matrices: list[Float64]) -> Float64:
    result = np.eye(4) if not matrices else matrices[0].copy()
    for matrix in matrices[1:]:
        result = result @ matrix
    return result


def _differs(first: Float64, second: Float64) -> bool:
    return bool(
        np.abs(first[:3, 3] - second[:3, 3]).max() > _MOUNT_SHIFT_M
        or np.abs(first[:3, :3] - second[:3, :3]).max() > _MOUNT_TURN
    )
