"""What a rosbag2 recording has of decisions: which were made, when, and with what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.errors import RecordingError
from quant_llm_ros.recording import types


@dataclasses.dataclass(frozen=True)
class Served:
    """The node has loaded a bundle.

    Attributes:
        name: Name of the bundle.
        sha256: Digest of the bundle.
    """

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Names:
    """The robot was told what it knows by name."""

    places: KnownNames
    objects: KnownNames


@dataclasses.dataclass(frozen=True)
class Decided:
    """A decision was made.

    Attributes:
        command_id: Number of the command.
        text: The command.
        status: What became of it.
        begun_s: When its turn came, s.
        decided_s: When it was decided, s, on the same clock.
        message: The whole message, as rosbags reads it.
    """

    command_id: int
    text: str
    status: Status
    begun_s: float
    decided_s: float
    message: Any


Event = Served | Names | Decided


@dataclasses.dataclass(frozen=True)
class Recording:
    """What a bag has of one node.

    Attributes:
        topic: Topic of its decisions.
        events: All that happened, in order.
        typestore: The types as they were when the bag was recorded.
    """

    topic: str
    events: tuple[Event, ...]
    typestore: Any

    @property
    def decisions(self) -> tuple[Decided, ...]:
        """The decisions alone."""
        return tuple(event for event in self.events if isinstance(event, Decided))


def read_bag(path: str | os.PathLike[str], namespace: str | None = None) -> Recording:
    """Read the decisions of one node from a rosbag2 folder (sqlite3 or mcap).

    Args:
        path: The folder with metadata.yaml.
        namespace: Namespace of the node; None where the bag has the decisions of one node only.

    Raises:
        RecordingError: It is no bag, it is damaged, or has no decisions of such a node.
    """
    bag = Path(path)
    own = types.typestore()
    from rosbags.highlevel import AnyReader, AnyReaderError

    if not bag.exists():
        raise RecordingError(f"{bag}: does not exist")
    if bag.is_file():
        bag = bag.parent  # people name the .mcap or .db3 file too
    try:
        with _without_traces(), AnyReader([bag], default_typestore=own) as reader:
            topics = {connection.topic: connection.msgtype for connection in reader.connections}
            topic = _choose(bag, topics, namespace)
            prefix = topic.rpartition("/")[0]
            wanted = {
                topic: types.DECISION,
                f"{prefix}/bundle": types.BUNDLE,
                f"{prefix}/known_names": types.KNOWN_NAMES,
            }
            connections = [c for c in reader.connections if wanted.get(c.topic) == c.msgtype]
            messages = (
                reader.deserialize(data, connection.msgtype)
                for connection, _, data in reader.messages(connections=connections)
            )
            return Recording(topic, tuple(_events(messages)), reader.typestore)
    except AnyReaderError as error:
        raise RecordingError(f"{bag}: not a readable rosbag2 recording: {error}") from error


def _choose(bag: Path, topics: dict[str, str], namespace: str | None) -> str:
    found = sorted(topic for topic, kind in topics.items() if kind == types.DECISION)
    if not found:
        has = ", ".join(sorted(topics)) or "nothing"
        raise RecordingError(
            f"{bag}: has no decisions (topics of type {types.DECISION}), but {has}; record the "
            "topics decision, bundle and known_names"
        )
    if namespace is None:
        if len(found) > 1:
            raise RecordingError(
                f"{bag}: has the decisions of several nodes, {', '.join(found)}; name one with "
                "--namespace"
            )
        return found[0]
    topic = f"/{namespace.strip('/')}/decision".replace("//", "/")
    if topic not in found:
        raise RecordingError(f"{bag}: has no topic {topic}, but {', '.join(found)}")
    return topic


def _events(messages: Iterable[Any]) -> Iterator[Event]:
    for message in messages:
        kind = message.__msgtype__
        if kind == types.BUNDLE:
            yield Served(message.name, message.sha256)
        elif kind == types.KNOWN_NAMES:
            # The node refuses what cannot be used, and goes on with the names before.
            with contextlib.suppress(ValueError):
                yield Names(_names(message.places), _names(message.objects))
        else:
            stamp = message.header.stamp
            decided_s = stamp.sec + stamp.nanosec * 1e-9
            waited_ms = sum(s.latency_ms for s in message.stages if s.stage == "queue")
            yield Decided(
                message.command_id,
                message.text,
                Status(message.status),
                decided_s - (message.total_ms - waited_ms) / 1e3,
                decided_s,
                message,
            )


def _names(entries: Any) -> KnownNames:
    names = {entry.name: list(entry.others) for entry in entries}
    if len(names) < len(entries) or not all(name.strip() for name in names):
        raise ValueError("a name is empty or comes twice")
    return KnownNames(names)


@contextlib.contextmanager
def _without_traces() -> Iterator[None]:
    """Turn what a damaged file makes rosbags raise into the one error that it documents."""
    from rosbags.highlevel import AnyReaderError

    try:
        yield
    except (AnyReaderError, RecordingError):
        raise
    except Exception as error:  # of sqlite3, of zstandard, of struct ...
        raise AnyReaderError(f"{type(error).__name__}: {error}") from error
