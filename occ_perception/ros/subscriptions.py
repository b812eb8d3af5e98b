"""Subscriptions that adapt their QoS and message type to the publishers.

A reliable reader never matches a best-effort writer, a best-effort reader loses camera-sized
messages, a volatile reader does not get what was sent before it existed, and one that asks for
latched messages never matches a volatile writer. An input therefore looks at the publishers of its
topic: it has one reader for those that latch their messages and one for those that do not, each
with the strictest reliability that all of them offer. The publishers' type also tells raw from
compressed images.

Before there is a publisher an input already subscribes, so that it can be seen: as most publishers
need it, reliable. Such a reader matches no publisher that it does not serve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

_SENDING_S = 2.0
"""A topic with a message within this time is sending; less preferred topics are not needed."""


@dataclass(frozen=True)
class Choice:
    """Type and QoS of a reader."""

    type_name: str
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy


class _Topic:
    """One topic that an input may come from.

    Args:
        name: relative and private names are resolved and remapped as usual.
        types: ROS type name -> message class; before there is a publisher the first one is taken.
        latched: whether to ask for latched messages before there is a publisher, and from then on.
        on_message: called with message and message info.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        types: Mapping[str, type[Any]],
        *,
        depth: int,
        reliability: str,
        latched: bool,
        on_message: Callable[[Any, Mapping[str, Any]], None],
    ) -> None:
        self._node = node
        self._topic = name
        self._types = types
        self._depth = depth
        self._reliability = reliability
        self._first_durability = (
            DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        )
        self._latched = latched
        self._on_message = on_message
        self._readers: dict[Choice, Subscription[Any]] = {}
        self.name = node.resolve_topic_name(name)
        self.has_publisher = False
        self.was_followed = False
        self.problem = ""
        self.nodes: dict[bytes, str] = {}
        self._last_message: float | None = None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The readers there are."""
        return tuple(self._readers)

    @property
    def is_sending(self) -> bool:
        """Whether a message came within the last seconds."""
        last = self._last_message
        return last is not None and time.monotonic() - last < _SENDING_S

    def poll(self) -> None:
        """Look at the publishers, and read what they offer."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        self.has_publisher = bool(publishers)
        self.nodes |= {bytes(info.endpoint_gid): _node_name(info) for info in publishers}
        types = {info.topic_type for info in publishers}
        self.problem = ""
        if not publishers:
            if not self._readers:
                self._read([self._choice(next(iter(self._types)), [], self._first_durability)])
        elif len(types) != 1 or not types <= set(self._types):
            self.problem = (
                f"{self.name} is published as {', '.join(sorted(types))}, expected "
                f"{' or '.join(self._types)}"
            )
        else:
            self.was_followed = True
            self._follow(types.pop(), publishers)

    def close(self) -> None:
        """Unsubscribe; the next :meth:`poll` subscribes again."""
        self._read([])

    def _follow(self, type_name: str, publishers: list[TopicEndpointInfo]) -> None:
        choices = []
        for durability in (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE):
            latches = durability == DurabilityPolicy.TRANSIENT_LOCAL
            group = [info for info in publishers if _latches(info) == latches]
            if group or (self._latched and durability == self._first_durability):
                choices.append(self._choice(type_name, group, durability))
        self._read(choices)
        offered = {info.qos_profile.reliability for info in publishers}
        if self._reliability == "reliable" and ReliabilityPolicy.BEST_EFFORT in offered:
            self.problem = (
                f"{self.name} is published best effort and qos_reliability is reliable: nothing "
                "arrives; use qos_reliability: auto"
            )

    def _choice(
        self, type_name: str, publishers: list[TopicEndpointInfo], durability: DurabilityPolicy
    ) -> Choice:
        reliable = all(i.qos_profile.reliability == ReliabilityPolicy.RELIABLE for i in publishers)
        if self._reliability != "auto":
            reliable = self._reliability == "reliable"
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return Choice(type_name, reliability, durability)

    def _read(self, choices: Sequence[Choice]) -> None:
        """Have these readers and no others."""
        for choice in [choice for choice in self._readers if choice not in choices]:
            self._node.destroy_subscription(self._readers.pop(choice))
        for choice in choices:
            if choice in self._readers:
                continue
            try:
                self._readers[choice] = self._created(choice)
            except rclpy_implementation.RCLError as error:
                # Another input of this process reads the same topic as another type, or the
                # security policy does not allow it.
                self.problem = (
                    f"{self.name} cannot be read as {choice.type_name}; is it the topic of another "
                    f"input, too? {error}"
                )

    def _created(self, choice: Choice) -> Subscription[Any]:
        return self._node.create_subscription(
            self._types[choice.type_name],
            self._topic,
            self._take,
            QoSProfile(
                depth=self._depth, reliability=choice.reliability, durability=choice.durability
            ),
            # Look at the publishers again at once; the default callback would only log.
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda _info: self.poll(), use_default_callbacks=False
            ),
        )

    def _take(self, message: Any, info: Mapping[str, Any]) -> None:
        self._last_message = time.monotonic()
        self._on_message(message, info)


class InputSubscription:
    """One input of the node.

    Args:
        node: owner.
        topics: candidates, the preferred one first; the first that sends is used. As long as none
            does, there are readers of all.
        types: ROS type name -> message class, for the supported types. Topics whose names end with
            ``/compressed`` are taken for the last one before there is a publisher, others for the
            first.
        callback: called with every message.
        depth: queue length.
        reliability: ``auto``, ``reliable`` or ``best_effort``.
        latched: what was sent before is always wanted. Publishers that do not latch are read too.

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
        latched: bool = False,
    ) -> None:
        self._callback = callback
        self._topics = [
            _Topic(
                node,
                name,
                dict(reversed(list(types.items()))) if name.endswith("/compressed") else types,
                depth=depth,
                reliability=reliability,
                latched=latched,
                on_message=self._on_message,
            )
            for name in topics
        ]
        self.received = 0
        self.sender = b""
        """Publisher of the newest message; b"" where the distribution's rclpy does not tell it."""
        self.arrived_s = 0.0
        """When the newest message arrived, seconds of the system's clock."""
        self._last_arrival: float | None = None

    @property
    def _used(self) -> _Topic:
        """The topic that sends, has a publisher, or was read; the last candidate if none is."""
        signs: list[Callable[[_Topic], bool]] = [
            lambda topic: topic.is_sending,
            lambda topic: topic.has_publisher,
            lambda topic: topic.was_followed,
        ]
        found = (topic for sign in signs for topic in self._topics if sign(topic))
        return next(found, self._topics[-1])

    @property
    def topic(self) -> str:
        """Resolved name of the topic in use; of the last candidate while none has a publisher."""
        return self._used.name

    @property
    def choice(self) -> Choice | None:
        """Type and QoS of the topic in use; None before there is a publisher."""
        used = self._used
        return used.choices[0] if used.choices and used.was_followed else None

    @property
    def problem(self) -> str:
        """What is wrong with the topic in use; "" if nothing is."""
        used = self._used
        if used.problem or used.has_publisher:
            return used.problem
        if used.was_followed:
            return f"the publisher of {used.name} is gone"
        return f"no publisher on {' or '.join(topic.name for topic in self._topics)}"

    @property
    def silent_for_s(self) -> float | None:
        """Wall-clock seconds since the last message; None before the first."""
        return None if self._last_arrival is None else time.monotonic() - self._last_arrival

    def poll(self) -> None:
        """Look at the publishers; have readers of what they offer."""
        is_needed = True
        for topic in self._topics:
            if is_needed:
                topic.poll()
            else:
                topic.close()
            is_needed = is_needed and not topic.is_sending

    def describe(self) -> str:
        """QoS as text, for diagnostics."""
        if self.choice is None:
            return "no publisher yet"
        return " and ".join(map(_words, self._used.choices))

    def node_of(self, publisher: bytes) -> str:
        """The node that a publisher belongs to, as far as known."""
        names = {gid: name for topic in self._topics for gid, name in topic.nodes.items()}
        return names.get(publisher, "a node")

    def close(self) -> None:
        """Unsubscribe; the next :meth:`poll` subscribes again."""
        for topic in self._topics:
            topic.close()

    def _on_message(self, message: Any, info: Mapping[str, Any]) -> None:
        self.received += 1
        self._last_arrival = time.monotonic()
        publisher = info.get("publisher_gid")
        self.sender = publisher["data"] if publisher else b""
        self.arrived_s = (info.get("received_timestamp") or time.time_ns()) * 1e-9
        self._callback(message)


def _latches(publisher: TopicEndpointInfo) -> bool:
    return bool(publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL)


def _words(choice: Choice) -> str:
    latched = choice.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return choice.reliability.name.lower() + (", transient local" if latched else "")


def _node_name(info: TopicEndpointInfo) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
