"""Recordings of decisions, and what replaying them says; bags are written by rosbags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
from node_harness import wait_for
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rosbags.rosbag2 import StoragePlugin, Writer

from quant_llm_msgs.msg import KnownName, KnownNames
from quant_llm_ros import cli
from quant_llm_ros.command import names
from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision, Stage, Status
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import RecordingError
from quant_llm_ros.nodes import messages
from quant_llm_ros.recording import types
from quant_llm_ros.recording.bag import read_bag, Served
from quant_llm_ros.recording.replay import replay

pytestmark = [pytest.mark.ros, pytest.mark.bundle, pytest.mark.timeout(1800)]

PLACES = {"kitchen": ["cooking area"], "hall": []}
# What is said, and the second of the recording at which it is decided.
SAID = (
    (1, "drive backward"),
    (3, "two meters"),
    (4, "I really enjoyed the film last night"),
    (5, "drive forward two meters then turn left"),
    (6, "go to the kichen"),
    (7, "go to the garage"),
    (8, "drive forward two kilometres"),
    (9, "stop"),
    (10, "drive backward"),
    (90, "two meters"),
)
NANOSECONDS = 10**9
REPLY_S = 300.0


@pytest.fixture(scope="module")
def understander(bundle_path: Path) -> Iterator[Understander]:
    opened = Understander.open(bundle_path, min_confidence=0.3)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def decided(understander: Understander) -> list[tuple[int, Decision]]:
    """What the robot decided: it knows places, and forgets after 30 s."""
    understander.know(places=names.KnownNames(PLACES), objects=names.KnownNames({}))
    conversation, last_s = Conversation(), 0
    made = []
    for second, text in SAID:
        if second - last_s > 30:
            conversation.clear()
        last_s = second
        decision = understander.understand(text, before=conversation.before())
        conversation.note(decision)
        made.append((second, decision))
    return made


class Wire:
    """Gives messages as a recorder gets them: as they arrive over DDS, unread."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("recorder", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publishers: dict[type, Any] = {}
        self._arrived: list[bytes] = []

    def bytes_of(self, message: Any) -> bytes:
        """Send a message and give what arrives."""
        kind = type(message)
        if kind not in self._publishers:
            topic = f"wire{len(self._publishers)}"
            self._node.create_subscription(kind, topic, self._arrived.append, 10, raw=True)
            self._publishers[kind] = self._node.create_publisher(kind, topic, 10)
            wait_for(self._publishers[kind].get_subscription_count, REPLY_S, "discovery")
        self._arrived.clear()
        self._publishers[kind].publish(message)
        wait_for(self._has_come, REPLY_S, "the message")
        return self._arrived[0]

    def _has_come(self) -> bool:
        self._executor.spin_once(timeout_sec=0.1)
        return bool(self._arrived)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[Wire]:
    """The wire of this module; bags need it."""
    Bag.wire = Wire()
    yield Bag.wire
    Bag.wire.close()


class Bag:
    """A bag in the making, with one robot's topics."""

    wire: Wire

    def __init__(self, folder: Path, storage: StoragePlugin = StoragePlugin.MCAP) -> None:
        self.path = folder / "bag"
        self._types = types.typestore()
        self._writer = Writer(self.path, version=9, storage_plugin=storage)
        self._writer.open()
        self._connections: dict[str, Any] = {}
        self._number = 0

    def write(self, topic: str, kind: str, message: Any, second: int) -> None:
        """Write a message as it goes over the wire."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types
            )
        data = self.wire.bytes_of(message)
        self._writer.write(self._connections[topic], second * NANOSECONDS, data)

    def write_decision(self, decision: Decision, second: int, topic: str = "/decision") -> None:
        self._number += 1
        message = messages.decision_to_msg(
            decision, command_id=self._number, stamp=Time(sec=second)
        )
        self.write(topic, types.DECISION, message, second)

    def close(self) -> Path:
        self._writer.close()
        return self.path


@pytest.fixture
def record(
    tmp_path: Path, understander: Understander, decided: Sequence[tuple[int, Decision]]
) -> Callable[..., Path]:
    """Give what writes a bag of all decisions, with changes by place in the list."""

    def write(
        changes: dict[int, dict[str, Any]] | None = None,
        storage: StoragePlugin = StoragePlugin.MCAP,
        sha256: str = "",
    ) -> Path:
        bag = Bag(tmp_path, storage)
        info = messages.bundle_to_msg(understander, stamp=Time())
        info.sha256 = sha256 or info.sha256
        bag.write("/bundle", types.BUNDLE, info, 0)
        known = [KnownName(name=name, others=others) for name, others in PLACES.items()]
        bag.write("/known_names", types.KNOWN_NAMES, KnownNames(places=known), 0)
        for index, (second, decision) in enumerate(decided):
            change = (changes or {}).get(index, {})
            bag.write_decision(dataclasses.replace(decision, **change), second)
        return bag.close()

    return write


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_the_same_bundle_decides_the_same_byte_for_byte(
    record: Callable[..., Path],
    understander: Understander,
    decided: Sequence[tuple[int, Decision]],
    storage: StoragePlugin,
) -> None:
    recording = read_bag(record(storage=storage))
    assert [d.text for d in recording.decisions] == [text for _, text in SAID]
    # The sentences are worth it: most statuses, a reference to the one before, one forgotten.
    statuses = [d.status for d in recording.decisions]
    assert {Status.ACCEPTED, Status.STOP, Status.CLARIFY, Status.UNKNOWN, Status.REJECTED} <= set(
        statuses
    )
    assert decided[1][1].calls != decided[-1][1].calls
    # Whoever replays knows nothing of this robot at first.
    understander.know(places=names.KnownNames({}), objects=names.KnownNames({}))
    compared = list(replay(recording, understander, conversation_s=30.0))
    assert all(one.is_compared for one in compared)
    assert [d for one in compared for d in one.differences] == []


def test_what_is_not_the_same_is_named(
    record: Callable[..., Path],
    understander: Understander,
    decided: Sequence[tuple[int, Decision]],
) -> None:
    two_calls = decided[3][1]
    changes = {
        2: {"message": "that is not for me"},
        3: {"calls": two_calls.calls[:1], "confidence": two_calls.confidence / 2.0},
        9: {"status": Status.CANCELLED, "calls": (), "message": "cancelled by a stop"},
    }
    recording = read_bag(record(changes))
    compared = list(replay(recording, understander, conversation_s=30.0))
    fields = [(n, [d.field for d in one.differences]) for n, one in enumerate(compared)]
    assert [entry for entry in fields if entry[1]] == [
        (2, ["message"]),
        (3, ["calls", "confidence"]),
    ]
    assert compared[3].differences[0].recorded == "move(direction=forward, distance_m=2.0)"
    assert [n for n, one in enumerate(compared) if not one.is_compared] == [9]
    tolerant = list(replay(recording, understander, conversation_s=30.0, tolerance=1.0))
    assert [d.field for d in tolerant[3].differences] == ["calls"]


def test_a_conversation_that_may_not_last_changes_decisions(
    record: Callable[..., Path], understander: Understander
) -> None:
    compared = list(replay(read_bag(record()), understander, conversation_s=0.0))
    different = [n for n, one in enumerate(compared) if one.differences]
    assert 1 in different
    assert not {0, 7, 8, 9} & set(different)  # the first, the stop, and what follows it


def test_latency_and_numbers_do_not_count(
    record: Callable[..., Path], understander: Understander
) -> None:
    changes = {0: {"latency_ms": {Stage.QUEUE: 9.0}, "total_ms": 9.0, "forward_passes": 99}}
    compared = next(iter(replay(read_bag(record(changes)), understander, conversation_s=30.0)))
    assert compared.differences == ()


def test_the_program(
    record: Callable[..., Path], bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record({7: {"message": "halt!"}}, sha256="0" * 64)
    assert cli.main(["replay", str(bag), "--bundle", str(bundle_path)]) == 1
    printed = capsys.readouterr()
    assert "halt!" in printed.out
    assert "9 of 10 decisions are the same" in printed.out
    assert "sha256 000000000000…" in printed.err


def test_the_program_is_content(
    record: Callable[..., Path], bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", str(record()), "--bundle", str(bundle_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "10 of 10 decisions are the same"
    assert printed.err == ""


def test_a_bag_of_an_older_release(
    decided: Sequence[tuple[int, Decision]],
    understander: Understander,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = types.typestore()
    folder = tmp_path / "msg"
    folder.mkdir()
    for file in types._folder().glob("*.msg"):
        (folder / file.name).write_text(file.read_text().replace("string[] unserved\n", ""))
    monkeypatch.setattr(types, "_folder", lambda: folder)
    bag = Bag(tmp_path)
    old = types.typestore()
    kind = old.types[types.DECISION]
    fields = [field.name for field in dataclasses.fields(kind)]
    assert "unserved" not in fields

    def old_bytes(message: Any) -> bytes:
        now = new.deserialize_cdr(Bag.wire.bytes_of(message), types.DECISION)
        then = kind(**{name: getattr(now, name) for name in fields})
        return bytes(old.serialize_cdr(then, types.DECISION))

    bag.wire = SimpleNamespace(bytes_of=old_bytes)  # type: ignore[assignment]
    without_places = decided[:4]
    for second, decision in without_places:
        bag.write_decision(decision, second)
    compared = list(replay(read_bag(bag.close()), understander, conversation_s=30.0))
    assert [(one.is_compared, one.differences) for one in compared] == [(True, ())] * 4


def test_several_robots_in_one_bag(
    tmp_path: Path, decided: Sequence[tuple[int, Decision]]
) -> None:
    bag = Bag(tmp_path)
    for robot in ("/red", "/blue"):
        bag.write_decision(decided[0][1], 1, f"{robot}/decision")
    path = bag.close()
    with pytest.raises(RecordingError, match="/blue/decision, /red/decision; name one"):
        read_bag(path)
    assert read_bag(path, "red").topic == "/red/decision"
    assert not [e for e in read_bag(path, "/blue/").events if isinstance(e, Served)]
    with pytest.raises(RecordingError, match="no topic /green/decision"):
        read_bag(path, "green")


def empty(folder: Path) -> Path:
    bag = Bag(folder)
    bag.write("/known_names", types.KNOWN_NAMES, KnownNames(), 1)
    return bag.close()


def damaged(folder: Path) -> Path:
    path = empty(folder)
    (file,) = path.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:40])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "nothing: does not exist"),
        (lambda folder: folder, "not a readable rosbag2 recording"),
        (empty, "has no decisions .* but /known_names; record the topics"),
        (damaged, "not a readable rosbag2 recording"),
    ],
    ids=["no folder", "no bag", "no decisions", "damaged"],
)
def test_what_is_no_recording_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(RecordingError, match=message):
        read_bag(make(tmp_path))


def test_without_rosbags_it_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['rosbags'] = None\n"
        "from quant_llm_ros import cli\n"
        f"sys.exit(cli.main(['replay', {str(tmp_path)!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install rosbags" in ended.stderr
    assert "Traceback" not in ended.stderr
