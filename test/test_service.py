"""Queue and worker: exactly one decision per command, and stops that overtake."""

import threading
import time

import pytest
from scripted import make_tokenizer, ScriptedEngine, SKILLS_PATH

from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.service import CommandService
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander

SKILLS = SkillRegistry.load(SKILLS_PATH)


class Listener:
    """Collects decisions and waits for them."""

    def __init__(self):
        """Begin empty."""
        self.decisions = {}
        self.order = []
        self._changed = threading.Condition()

    def __call__(self, command, decision):
        """Take a decision."""
        with self._changed:
            assert command.id not in self.decisions, "answered twice"
            self.decisions[command.id] = decision
            self.order.append(command.id)
            self._changed.notify_all()

    def wait(self, count):
        """Wait until there are ``count`` decisions."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.decisions) >= count, timeout=10)
        return [self.decisions[number].status for number in sorted(self.decisions)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Give a small tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def engine(tokenizer):
    """Give a model that sends the robot home."""
    return ScriptedEngine(tokenizer, "dock()")


@pytest.fixture
def listener():
    """Give a listener."""
    return Listener()


@pytest.fixture
def service(engine, tokenizer, listener):
    """Give a running service."""
    service = CommandService(
        Understander(engine, tokenizer, SKILLS, drafts=False), listener, capacity=4
    )
    yield service
    assert service.close()


def wait_until(condition):
    """Wait for something that another thread does."""
    limit_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.002)


def test_commands_are_answered_in_order(service, listener):
    """Each command gets its decision, first come, first served, numbered from 1."""
    commands = [service.submit("go home") for _ in range(3)]
    assert listener.wait(3) == [Status.ACCEPTED] * 3
    assert [command.id for command in commands] == listener.order == [1, 2, 3]


def test_a_stop_overtakes_and_cancels(service, listener, engine):
    """A stop is answered before submit returns; running and waiting commands are cancelled."""
    engine.delay_s = 0.2
    for _ in range(3):
        service.submit("go home")
    wait_until(lambda: service.busy)
    stop = service.submit("stop!")
    assert listener.order[0] == stop.id  # already, and before the running one
    assert listener.wait(4) == [Status.CANCELLED] * 3 + [Status.STOP]
    engine.delay_s = 0.0
    service.submit("go home")
    assert listener.wait(5)[-1] is Status.ACCEPTED


def test_nothing_is_accepted_after_a_stop(engine, tokenizer):
    """A stop in the last pass, before a slow listener, still turns the running one away."""
    order = []

    def slow(command, decision):
        time.sleep(0.05)
        order.append((command.id, decision.status))

    service = CommandService(Understander(engine, tokenizer, SKILLS, drafts=False), slow)
    append, last_pass, go_on = engine.append, threading.Event(), threading.Event()

    def held_append(tokens, **options):
        if engine.passes and len(tokens) < 8:  # after the prompt: the last pass of «dock()»
            last_pass.set()
            assert go_on.wait(10)
        return append(tokens, **options)

    engine.append = held_append
    service.submit("go home")
    assert last_pass.wait(10)
    service.submit("stop")
    go_on.set()
    wait_until(lambda: len(order) == 2)
    assert order == [(2, Status.STOP), (1, Status.CANCELLED)]
    service.submit("go home")
    wait_until(lambda: len(order) == 3)
    assert order[2] == (3, Status.ACCEPTED)
    assert service.close()


def test_deadlines_pass_in_the_queue_too(service, listener, engine):
    """A command that waits is answered when its time is over, not when the model is free."""
    append, go_on = engine.append, threading.Event()
    engine.append = lambda tokens: append(tokens) if go_on.wait(10) else None
    service.submit("go home")
    wait_until(lambda: service.busy)
    service.submit("go home", deadline_s=0.05)
    listener.wait(1)  # while the model is still held
    assert listener.decisions[2].status is Status.TIMEOUT
    go_on.set()
    assert listener.wait(2) == [Status.ACCEPTED, Status.TIMEOUT]


def test_a_full_queue_answers_at_once(service, listener, engine):
    """Nothing is lost: what does not fit gets an ERROR that says so."""
    engine.delay_s = 0.1
    service.submit("go home")
    wait_until(lambda: service.busy)
    for _ in range(5):
        service.submit("go home")
    assert listener.decisions[6].status is Status.ERROR
    assert listener.decisions[6].message == "queue full: 4 commands wait already"
    engine.delay_s = 0.0
    assert listener.wait(6) == [Status.ACCEPTED] * 5 + [Status.ERROR]


def test_cancel_running_and_waiting(service, listener, engine):
    """One command can be taken back without touching the others."""
    engine.delay_s = 0.1
    running, waiting, third = (service.submit("go home") for _ in range(3))
    wait_until(lambda: service.busy)
    service.cancel(waiting)
    assert listener.decisions[waiting.id].status is Status.CANCELLED
    service.cancel(running)
    engine.delay_s = 0.0
    assert listener.wait(3) == [Status.CANCELLED, Status.CANCELLED, Status.ACCEPTED]
    service.cancel(third)  # too late, and harmless


def test_deadlines_count_from_arrival(service, listener, engine):
    """Time in the queue counts; the default can change while running."""
    engine.delay_s = 0.1
    service.submit("go home")
    service.submit("go home", deadline_s=0.01)
    service.default_deadline_s = 0.02
    service.submit("go home")
    assert listener.wait(3) == [Status.ACCEPTED, Status.TIMEOUT, Status.TIMEOUT]
    assert listener.decisions[2].forward_passes == 0


def test_close_answers_everything(engine, tokenizer, listener):
    """Shutting down cancels what runs and what waits, and refuses what comes later."""
    engine.delay_s = 0.1
    service = CommandService(Understander(engine, tokenizer, SKILLS, drafts=False), listener)
    for _ in range(3):
        service.submit("go home")
    wait_until(lambda: service.busy)
    assert service.close()
    assert listener.wait(3) == [Status.CANCELLED] * 3
    service.submit("go home")
    assert listener.decisions[4].message == "the node is shutting down"


def test_broken_listeners_and_engines_do_not_end_the_worker(engine, tokenizer, listener, caplog):
    """Whatever breaks, later commands are answered."""

    def broken(*_):
        raise RuntimeError("listener")

    service = CommandService(Understander(engine, tokenizer, SKILLS, drafts=False), listener)
    service.submit("go home", on_decision=broken)
    listener.wait(1)
    engine.append, append = broken, engine.append
    service.submit("go home")
    listener.wait(2)
    engine.append = append
    service.submit("go home")
    assert listener.wait(3) == [Status.ACCEPTED, Status.ERROR, Status.ACCEPTED]
    assert listener.decisions[2].message == "internal error: RuntimeError: listener"
    assert "a listener failed" in caplog.text
    assert service.close()


def test_many_threads(service, listener, engine):
    """Commands from many threads are each answered once."""
    service.capacity = 1000
    threads = [
        threading.Thread(target=lambda: [service.submit("go home") for _ in range(20)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert listener.wait(160) == [Status.ACCEPTED] * 160
