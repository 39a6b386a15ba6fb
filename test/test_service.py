"""Queue and worker: exactly one decision per command, and stops that overtake."""

import threading
import time

import pytest
from scripted import make_tokenizer, ScriptedEngine, SKILLS_PATH

from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.pending import QueuePolicy
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


class Gate:
    """Holds an engine in its next pass until it is opened, as a hanging driver would."""

    def __init__(self, engine):
        """Close the gate."""
        self.held = threading.Event()
        self._open = threading.Event()
        self._append = engine.append
        engine.append = self._pass

    def _pass(self, tokens, **options):
        self.held.set()
        assert self._open.wait(30)
        return self._append(tokens, **options)

    def open(self):
        """Let the engine come back, now and later."""
        self._open.set()


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


def test_it_learns_after_the_answer(engine, tokenizer, listener, caplog):
    """Nobody waits for what the drafter learns, and what goes wrong there costs no command."""
    understander = Understander(engine, tokenizer, SKILLS, drafts=False)
    answered_before = []

    def learn(sentence, answer, before):
        answered_before.append(len(listener.decisions))
        raise ZeroDivisionError("a mistake")

    understander.answerer.learn = learn
    service = CommandService(understander, listener)
    for number in (1, 2):
        service.submit("go home")
        assert listener.wait(number) == [Status.ACCEPTED] * number
        wait_until(lambda number=number: len(answered_before) == number)
    assert service.close()
    assert answered_before == [1, 2]
    assert "nothing was learned from command 2" in caplog.text


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


@pytest.mark.parametrize("text", ["go home", "turn left", "x" * 100_000])
def test_latest_wins(service, listener, engine, text):
    """A new command cancels what runs and what waits, and says which one did it."""
    service.policy = QueuePolicy.LATEST_WINS
    gate = Gate(engine)
    service.submit("go home")
    wait_until(gate.held.is_set)
    service.submit("dock now")
    newest = service.submit(text)
    assert listener.decisions[2].status is Status.CANCELLED  # while the model is still held
    gate.open()
    statuses = listener.wait(3)
    assert statuses[:2] == [Status.CANCELLED] * 2
    assert statuses[2] is not Status.CANCELLED
    assert listener.decisions[1].message == "replaced by the newer command 'dock now'"
    assert f"newer command {newest.text[:60]!r}"[:40] in listener.decisions[2].message
    assert len(listener.decisions[2].message) < 120


@pytest.mark.parametrize("text", ["", " ", "...?!"])
def test_latest_wins_only_with_words(service, listener, engine, text):
    """What a recognizer makes of noise cancels nothing."""
    service.policy = QueuePolicy.LATEST_WINS
    gate = Gate(engine)
    service.submit("go home")
    wait_until(gate.held.is_set)
    service.submit(text)
    gate.open()
    assert listener.wait(2) == [Status.ACCEPTED, Status.UNKNOWN]


def test_latest_wins_never_fills_the_queue(service, listener, engine):
    """Whatever waits makes room for the newest."""
    service.capacity, service.policy = 1, QueuePolicy.LATEST_WINS
    gate = Gate(engine)
    for _ in range(10):
        service.submit("go home")
    gate.open()
    assert listener.wait(10) == [Status.CANCELLED] * 9 + [Status.ACCEPTED]


def test_replacing_the_understander(service, listener, engine, tokenizer):
    """The running command ends on the old one, those behind it on the new one; none is lost."""
    gate = Gate(engine)
    for _ in range(3):
        service.submit("go home")
    wait_until(gate.held.is_set)
    other = ScriptedEngine(tokenizer, "say(text=home)")
    replaced = []
    new = Understander(other, tokenizer, SKILLS, drafts=False)
    thread = threading.Thread(target=lambda: replaced.append(service.replace(new)))
    thread.start()
    service.submit("go home")
    assert not replaced  # the old one is in use: the model is held
    gate.open()
    thread.join(10)
    assert replaced == [True]
    assert listener.wait(4) == [Status.ACCEPTED] * 4
    skills = [listener.decisions[n].calls[0].skill for n in (1, 2, 3, 4)]
    assert skills == ["dock", "say", "say", "say"]


@pytest.mark.parametrize("same", [True, False])
def test_conversation_survives_a_replacement_with_the_same_skills(
    engine, tokenizer, listener, tmp_path, same
):
    """An answer in the terms of other skills would only confuse the model."""
    service = CommandService(
        Understander(engine, tokenizer, SKILLS, drafts=False), listener, conversation_s=60.0
    )
    service.submit("go home")
    listener.wait(1)
    other = tmp_path / "skills.yaml"
    other.write_text(SKILLS_PATH.read_text() + "\n# another file\n")
    skills = SKILLS if same else SkillRegistry.load(other)
    new = Understander(engine, tokenizer, skills, drafts=False)
    understand, before = new.understand, []

    def noted(text, **options):
        before.extend(options["before"])
        return understand(text, **options)

    new.understand = noted
    assert service.replace(new)
    service.submit("go home")
    listener.wait(2)
    assert bool(before) is same
    assert service.close()


def test_a_stalled_model(engine, tokenizer, listener, caplog):
    """Everything in flight and waiting gets an ERROR once; stops are still answered."""
    reasons = []
    service = CommandService(
        Understander(engine, tokenizer, SKILLS, drafts=False),
        listener,
        stall_timeout_s=0.2,
        on_stall=reasons.append,
    )
    gate = Gate(engine)
    for _ in range(3):
        service.submit("go home")
    assert listener.wait(3) == [Status.ERROR] * 3
    wait_until(lambda: reasons)
    assert reasons == ["the model stalled: no sign of life for 0.2 s"]
    assert {d.message for d in listener.decisions.values()} == set(reasons)
    assert service.load.stalled == reasons[0]
    service.submit("go home")
    service.submit("stop")
    assert listener.wait(5)[3:] == [Status.ERROR, Status.STOP]
    assert not service.close()
    assert not engine.closed
    gate.open()  # the thread comes back: it says nothing, and frees the model
    wait_until(lambda: engine.closed and not service.worker.is_alive())
    assert len(listener.decisions) == 5


def test_a_model_that_is_only_slow_has_not_stalled(service, listener, engine):
    """Every pass is a sign of life, however long the command takes."""
    service.stall_timeout_s = 1.0
    engine.delay_s = 0.3
    engine.answer = "dock(); dock(); dock()"
    service.submit("go home")
    assert listener.wait(1) == [Status.ACCEPTED]
    assert listener.decisions[1].total_ms > 1000


def test_close_answers_for_a_model_that_hangs(engine, tokenizer, listener):
    """Nobody waits for ever, and the model is freed when it comes back."""
    service = CommandService(Understander(engine, tokenizer, SKILLS, drafts=False), listener)
    gate = Gate(engine)
    service.submit("go home")
    wait_until(gate.held.is_set)
    assert not service.close(timeout_s=0.05)
    assert listener.wait(1) == [Status.CANCELLED]
    gate.open()
    wait_until(lambda: engine.closed and not service.worker.is_alive())
    assert len(listener.decisions) == 1


def test_times_against_a_stopwatch_outside(service, listener, engine):
    """Stages add up to the total; the total lies between what the engine and the user see."""
    append, in_engine_s = engine.append, []

    def timed(tokens, **options):
        start_s = time.monotonic()
        result = append(tokens, **options)
        in_engine_s.append(time.monotonic() - start_s)
        return result

    engine.append, engine.delay_s = timed, 0.02
    for number in range(1, 6):
        in_engine_s.clear()
        start_s = time.monotonic()
        service.submit("go home")
        listener.wait(number)
        outside_ms = (time.monotonic() - start_s) * 1e3
        decision = listener.decisions[number]
        assert sum(decision.latency_ms.values()) == pytest.approx(decision.total_ms, rel=1e-6)
        assert sum(in_engine_s) * 1e3 <= decision.total_ms <= outside_ms


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
