"""Subscriptions that adapt their QoS and message type to the publishers.

A reliable reader never matches a best-effort writer, a best-effort reader loses camera-sized
messages, and "best available" is decided before the publisher exists. An input therefore
subscribes when a publisher appears, with the strictest QoS that all publishers of the topic offer,
and subscribes again when they change. The publisher's type also tells raw from compressed images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo


@dataclass(frozen=True)
class Choice:
    """Topic, type and QoS of a subscription."""

    topic: str
    type_name: str
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy


class InputSubscription:
    """One input of the node.

    Args:
        node: owner.
        topics: candidates; the first with a publisher is used. Relative and private names are
            resolved and remapped as usual.
        types: ROS type name -> message class, for the supported types.
        callback: called with every message.
        depth: queue length.
        reliability: ``auto``, ``reliable`` or ``best_effort``.

    Call :meth:`poll` a few times per second.
    """

    def __init__(
        self,
        node: Node,
        topics: Sequence[str],
        types: Mapping[str, type[Any]],
        callback: Callable[[Any], None],
        *,
        depth: int,
        reliability: str = "auto",
    ) -> None:
        self._node = node
        self._topics = tuple(topics)
        self._types = types
        self._callback = callback
        self._depth = depth
        self._reliability = reliability
        self._subscription: Subscription[Any] | None = None
        self.choice: Choice | None = None
        self.problem = ""
        self.received = 0
        self.sender = b""
        """Publisher of the newest message; b"" where the distribution's rclpy does not tell it."""
        self.arrived_s = 0.0
        """When the newest message arrived, seconds of the system's clock."""
        self._nodes: dict[bytes, str] = {}
        self._last_arrival: float | None = None

    @property
    def topic(self) -> str:
        """Resolved name of the topic in use, or of the first candidate while there is none."""
        return self._resolved(self.choice.topic if self.choice else self._topics[0])

    @property
    def silent_for_s(self) -> float | None:
        """Wall-clock seconds since the last message; None before the first."""
        return None if self._last_arrival is None else time.monotonic() - self._last_arrival

    def poll(self) -> None:
        """Look at the publishers; subscribe, or subscribe again if type or QoS has changed."""
        for topic in self._topics:
            publishers = self._node.get_publishers_info_by_topic(topic)
            if publishers:
                self._nodes |= {bytes(info.endpoint_gid): _node_name(info) for info in publishers}
                self._follow(topic, publishers)
                return
        if self._subscription is None:
            names = " or ".join(map(self._resolved, self._topics))
            self.problem = f"no publisher on {names}"
        else:
            self.problem = f"the publisher of {self.topic} is gone"

    def describe(self) -> str:
        """QoS as text, for diagnostics."""
        if self.choice is None:
            return "not subscribed"
        words = [self.choice.reliability.name.lower()]
        if self.choice.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            words.append("transient local")
        return ", ".join(words)

    def _resolved(self, topic: str) -> str:
        return self._node.resolve_topic_name(topic)

    def _follow(self, topic: str, publishers: list[TopicEndpointInfo]) -> None:
        types = {info.topic_type for info in publishers}
        if len(types) != 1 or not types <= set(self._types):
            self.problem = (
                f"{self._resolved(topic)} is published as {', '.join(sorted(types))}, expected "
                f"{' or '.join(self._types)}"
            )
            return
        wanted = Choice(
            topic, types.pop(), self._wanted_reliability(publishers), _durability(publishers)
        )
        self.problem = self._mismatch(topic, publishers, wanted)
        if wanted != self.choice:
            self._create(wanted)

    def _wanted_reliability(self, publishers: list[TopicEndpointInfo]) -> ReliabilityPolicy:
        if self._reliability == "reliable":
            return ReliabilityPolicy.RELIABLE
        if self._reliability == "best_effort":
            return ReliabilityPolicy.BEST_EFFORT
        reliable = all(i.qos_profile.reliability == ReliabilityPolicy.RELIABLE for i in publishers)
        return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT

    def _mismatch(self, topic: str, publishers: list[TopicEndpointInfo], wanted: Choice) -> str:
        offered = {info.qos_profile.reliability for info in publishers}
        if (
            wanted.reliability == ReliabilityPolicy.RELIABLE
            and ReliabilityPolicy.BEST_EFFORT in offered
        ):
            return (
                f"{self._resolved(topic)} is published best effort and qos_reliability is "
                "reliable: nothing arrives; use qos_reliability: auto"
            )
        return ""

    def _create(self, wanted: Choice) -> None:
        self.close()
        self._subscription = self._node.create_subscription(
            self._types[wanted.type_name],
            wanted.topic,
            self._on_message,
            QoSProfile(
                depth=self._depth, reliability=wanted.reliability, durability=wanted.durability
            ),
            # Look at the publishers again at once; the default callback would only log.
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda _info: self.poll(), use_default_callbacks=False
            ),
        )
        self.choice = wanted

    def close(self) -> None:
        """Unsubscribe; the next :meth:`poll` may subscribe again."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self.choice = None

    def node_of(self, publisher: bytes) -> str:
        """The node that a publisher belongs to, as far as known."""
        return self._nodes.get(publisher, "a node")

    def _on_message(self, message: Any, info: Mapping[str, Any]) -> None:
        self.received += 1
        self._last_arrival = time.monotonic()
        publisher = info.get("publisher_gid")
        self.sender = publisher["data"] if publisher else b""
        self.arrived_s = (info.get("received_timestamp") or time.time_ns()) * 1e-9
        self._callback(message)


def _node_name(info: TopicEndpointInfo) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _durability(publishers: list[TopicEndpointInfo]) -> DurabilityPolicy:
    """Transient local if all publishers keep their last messages for late joiners."""
    latched = all(
        info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers
    )
    return DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
