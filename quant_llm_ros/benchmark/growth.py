"""How the time of a decision grows with what a robot can do, knows, hears and serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import itertools
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
import yaml

from quant_llm_ros.benchmark.machine import read_bandwidth
from quant_llm_ros.benchmark.ours import Features, Ours
from quant_llm_ros.benchmark.runner import in_own_process, Settings
from quant_llm_ros.benchmark.sample import percentiles
from quant_llm_ros.command.decision import Decision
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.service import CommandService
from quant_llm_ros.command.shortlist import COMMON
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.open import open_engine

LONG_CONTEXT = 8192
"""Room for the prompt of 500 skills, and as far as the default model was trained, in tokens."""

_AS_SERVED = Features(prefix=True, forced=True, draft=True, loop=True)
_OWN_SKILLS = 10
_VERBS = (
    "polish", "water", "weigh", "scan", "fold", "label", "count", "photograph", "inspect", "heat",
    "cool", "rinse", "stack", "sort", "wrap", "dust", "measure", "paint", "charge", "calibrate",
)  # fmt: skip
_NOUNS = (
    "window", "plant", "parcel", "shelf", "towel", "bottle", "crate", "panel", "filter", "oven",
    "freezer", "basin", "pallet", "basket", "present", "lamp", "table", "fence", "battery",
    "sensor", "carpet", "bench", "valve", "printer", "door",
)  # fmt: skip
_KINDS = ("meeting room", "storage", "office", "laboratory", "ward", "hall", "platform", "gate")
_TALK = (
    "you know the weather was nice this morning and my neighbour told me a long story about "
    "the holidays that they had at the sea with all of their children and it made me think of"
)


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement of a curve.

    Attributes:
        at: Where on the axis.
        total_ms: p50, p90 and p99 from text to decision; empty where it could not be measured.
        stages_ms: Medians of the stages.
        passes: Median of the passes of the model.
        note: Other figures, or why there are none.
    """

    at: float
    total_ms: dict[str, float]
    stages_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    passes: float = 0.0
    note: str = ""


def skills(settings: Settings, counts: Sequence[int], rounds: int) -> list[Point]:
    """Decide the same sentences with more and more skills; the bundle needs a long context.

    Args:
        settings: What to measure.
        counts: Numbers of skills, at least 10.
        rounds: How often each sentence is decided.
    """
    return [in_own_process(f"{n} skills", _skills, settings, n, rounds) for n in counts]


def places(settings: Settings, counts: Sequence[int], rounds: int) -> list[Point]:
    """Send the robot to places of which it knows more and more."""
    return [in_own_process(f"{n} places", _places, settings, n, rounds) for n in counts]


def words(settings: Settings, counts: Sequence[int], rounds: int) -> list[Point]:
    """Say the same in more and more words; the bundle needs a long context."""
    return [in_own_process(f"{n} words", _words, settings, n, rounds) for n in counts]


def clients(settings: Settings, counts: Sequence[int], rounds: int) -> list[Point]:
    """Let more and more clients ask one service, each its next command when it has an answer.

    It is the queue and the worker of the node, without DDS between it and the clients.
    """
    return [in_own_process(f"{n} clients", _clients, settings, n, rounds) for n in counts]


def model(settings: Settings, size: float) -> Point:
    """Measure a pass over a sentence and its draft, 32 tokens, of a model of another shape."""
    return in_own_process(f"a model of {size:g} million weights", _model, settings, size)


def registry_of(path: str | Path, count: int) -> SkillRegistry:
    """Make a registry of ten skills of a file and of others that were made up.

    Args:
        path: The file.
        count: Number of skills, at least 10.
    """
    document: dict[str, Any] = yaml.safe_load(Path(path).read_bytes())
    own = dict(itertools.islice(document["skills"].items(), _OWN_SKILLS - 1))
    made_up = {
        f"{verb}_{noun}": {
            "description": f"{verb} the {noun}",
            "arguments": {"place": {"type": "place", "ask": "Where?"}},
        }
        for verb, noun in itertools.product(_VERBS, _NOUNS)
    }
    more = dict(itertools.islice(made_up.items(), count - _OWN_SKILLS))
    stop = {"stop": document["skills"]["stop"]} if "stop" in document["skills"] else {}
    return SkillRegistry.from_document(
        {**document, "skills": {**own, **more, **stop}}, source=f"{count} skills"
    )


def _skills(settings: Settings, count: int, rounds: int) -> Point:
    bundle = Bundle.load(settings.bundle, verify=False)
    registry = registry_of(bundle.file(SKILLS), count)
    sentences = _examples(registry)
    understander = _understander(settings, registry)
    note = f"whole prompt {len(understander.answerer.prefix)} tokens"
    if understander.answerer.shortens:
        note += f", {max(COMMON, settings.shortlist)} skills shown"
    return _point(count, understander, sentences, rounds, note)


def _places(settings: Settings, count: int, rounds: int) -> Point:
    names = [f"{_KINDS[i % len(_KINDS)]} {i // len(_KINDS) + 1}" for i in range(count)]
    understander = _understander(settings)
    understander.know(places=KnownNames(dict.fromkeys(names, ())))
    asked = [names[index * count // 10] for index in range(10)]
    return _point(count, understander, [f"go to {name}" for name in asked], rounds)


def _words(settings: Settings, count: int, rounds: int) -> Point:
    understander = _understander(settings, max_command_chars=8 * count + 100)
    said = ["so", "bring", "me", "the", "cup"]
    sentences = []
    for start in range(5):
        talk = itertools.islice(itertools.cycle(_TALK.split()), start, start + count - len(said))
        sentences.append(" ".join([*talk, *said]))
    return _point(count, understander, sentences, rounds)


def _clients(settings: Settings, count: int, rounds: int) -> Point:
    understander = _understander(settings)
    sentences = _examples(understander.skills)
    for sentence in sentences:
        understander.understand(sentence)
    service = CommandService(
        understander, lambda command, decision: None, capacity=count, default_deadline_s=None
    )
    decisions: list[Decision] = []

    def ask(number: int) -> None:
        for turn in range(rounds):
            done = threading.Event()

            def answered(decision: Decision, done: threading.Event = done) -> None:
                decisions.append(decision)
                done.set()

            text = sentences[(number + turn) % len(sentences)]
            service.submit(text, on_decision=answered)
            done.wait()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    service.close()
    understander.close()
    return _of_decisions(count, decisions, f"{len(decisions) / seconds:.1f} decisions/s")


def _model(settings: Settings, size: float) -> Point:
    started = time.perf_counter()
    ours = Ours(settings.bundle, settings.skills, _AS_SERVED, threads=settings.threads)
    load_ms = (time.perf_counter() - started) * 1e3
    costs = ours.costs()
    ours.close()
    weight_bytes = Bundle.load(settings.bundle, verify=False).weight_bytes
    floor_ms = weight_bytes / read_bandwidth(settings.threads) * 1e3
    note = (
        f"one token {costs['pass_ms_1']:.1f} ms, 16 tokens {costs['pass_ms_16']:.1f} ms, "
        f"floor {floor_ms:.1f} ms, {weight_bytes / 1e6:.0f} MB, loaded in {load_ms / 1e3:.1f} s"
    )
    return Point(size, {"p50": costs["pass_ms_32"]}, passes=1, note=note)


def _understander(
    settings: Settings, registry: SkillRegistry | None = None, max_command_chars: int = 512
) -> Understander:
    bundle = Bundle.load(settings.bundle, verify=False)
    if registry is None:
        registry = SkillRegistry.load(settings.skills or bundle.file(SKILLS))
    engine = open_engine(
        bundle,
        provider=settings.provider,
        threads=settings.threads,
        allow_fallback=settings.allow_fallback,
    )
    return Understander.of_bundle(
        bundle,
        engine,
        registry,
        max_command_chars=max_command_chars,
        shortlist=settings.shortlist,
    )


def _examples(registry: SkillRegistry) -> list[str]:
    """Give one sentence for each skill that has one; stop phrases need no model."""
    skills = (skill for name, skill in registry.skills.items() if name != "stop")
    return [skill.examples[0].say for skill in skills if skill.examples]


def _point(
    at: float, understander: Understander, sentences: Sequence[str], rounds: int, note: str = ""
) -> Point:
    for sentence in sentences:  # to warm up
        understander.understand(sentence)
    decisions = [understander.understand(text) for _ in range(rounds) for text in sentences]
    understander.close()
    return _of_decisions(at, decisions, note)


def _of_decisions(at: float, decisions: Sequence[Decision], note: str) -> Point:
    statuses = sorted({decision.status.name for decision in decisions})
    stages = {
        stage.value: round(float(np.median([d.latency_ms.get(stage, 0.0) for d in decisions])), 3)
        for stage in decisions[0].latency_ms
    }
    return Point(
        at,
        percentiles([decision.total_ms for decision in decisions]),
        stages,
        float(np.median([decision.forward_passes for decision in decisions])),
        ", ".join(filter(None, [note, " ".join(statuses)])),
    )


Measure = Callable[[Settings, Sequence[int], int], list[Point]]

AXES: dict[str, tuple[Measure, tuple[int, ...], str]] = {
    "skills": (skills, (10, 20, 50, 100, 200, 500), "skills"),
    "places": (places, (10, 100, 1000, 10000), "known places"),
    "words": (words, (5, 20, 50, 100, 200, 500), "words of a sentence"),
    "clients": (clients, (1, 2, 4, 8, 16, 32), "clients of one node"),
}
"""Curves over real decisions: what measures them, where, and the name of the axis."""
