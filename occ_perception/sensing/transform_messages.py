"""Adds tf messages to a transform tree, without the parts of them that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from occ_perception.sensing.from_messages import stamp_ns, transform_from_message
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree


def add_transforms(
    tree: TransformTree, message: Any, static: bool, matters: Callable[[str], bool]
) -> tuple[str, ...]:
    """Add the transforms of a tf2_msgs/TFMessage; returns why some of them were refused.

    Args:
        tree: the tree to add to.
        message: the message.
        static: whether it came on /tf_static.
        matters: whether something depends on the transform to a frame. If not, a jump back of its
            stamps restarts that frame alone.

    Raises:
        TimeJump: the stamps of a frame that matters went back by more than 1 s.
    """
    refusals = []
    # Oldest first: a message may hold a frame twice, which is not a jump.
    items = sorted(message.transforms, key=lambda item: stamp_ns(item.header.stamp))
    newest_ns = {item.child_frame_id: stamp_ns(item.header.stamp) for item in items}
    for item in items:
        child, stamp = item.child_frame_id, stamp_ns(item.header.stamp)
        where = f"transform {item.header.frame_id} -> {child}"
        try:
            _add(tree, item, static, matters)
        except TimeJump:
            if stamp and newest_ns[child] < stamp + BACKWARD_JUMP_NS:
                raise
            older = f"{(newest_ns[child] - stamp) / 1e9:.1f} s older than another one of the same"
            refusals.append(f"{where}: {f'{older} message' if stamp else 'it has stamp 0'}")
        except TransformError as error:
            refusals.append(str(error))
        except ValueError as error:
            refusals.append(f"{where}: {error}")
    return tuple(refusals)


def _add(tree: TransformTree, item: Any, static: bool, matters: Callable[[str], bool]) -> None:
    parent, child = item.header.frame_id, item.child_frame_id
    stamp, parent_T_child = stamp_ns(item.header.stamp), transform_from_message(item)
    try:
        tree.add(parent, child, stamp, parent_T_child, static)
    except TimeJump:
        if matters(child):
            raise
        tree.forget_history(child)
        tree.add(parent, child, stamp, parent_T_child, static)
