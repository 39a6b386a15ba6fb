"""Understanding one command: from text to decision, with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import time

from quant_llm_ros.command import calls as notation
from quant_llm_ros.command import reference_decisions
from quant_llm_ros.command import text as reading
from quant_llm_ros.command.answerer import Answerer
from quant_llm_ros.command.calibration import calibrated
from quant_llm_ros.command.conversation import Exchange
from quant_llm_ros.command.decision import Decision, SkillCall, Stage, Status
from quant_llm_ros.command.drafter import skill_words
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.shortlist import DEFAULT_SHORTLIST, LARGE, Learned
from quant_llm_ros.command.skills import SkillRegistry, STOP_SKILL
from quant_llm_ros.command.stage_clock import StageClock
from quant_llm_ros.command.stop_guard import StopGuard
from quant_llm_ros.command.validator import Outcome, Validator
from quant_llm_ros.engine.bundle import Bundle, DRAFTER, SKILLS, TOKENIZER
from quant_llm_ros.engine.decoding import Answer
from quant_llm_ros.engine.device import device_name
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.providers import AUTO
from quant_llm_ros.engine.selftest import self_test, SelfTestReport
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.engine.verdict import refuse_failed
from quant_llm_ros.errors import BundleError, EngineError, QuantLlmError

DEFAULT_MAX_COMMAND_CHARS = 512
DEFAULT_MIN_CONFIDENCE = 0.4
DEFAULT_SELFTEST_COMMANDS = 3
"""Reference commands that are decided before a bundle is served; about 50 ms each."""


class _TimeoutReached(Exception):
    pass


class _Cancelled(Exception):
    pass


class Understander:
    """Turns text into decisions with one model and one skill registry.

    Not thread-safe: one command at a time. ``CommandService`` puts a queue before it.

    Attributes:
        engine: The engine that runs the model.
        answerer: Asks the model.
        skills: The registry that it decides among.
        max_command_chars: Longest accepted command, in characters.
        min_confidence: Least confidence of an ACCEPTED decision; with less the person is asked.
        bundle: The bundle it was opened from, if any.
        self_test: How far the engine is from the bundle's reference, if it was tested.
        decided: How its decisions compare with the bundle's, if they were compared.
        load_ms: Time until the first command could be taken, in milliseconds.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        skills: SkillRegistry,
        *,
        max_command_chars: int = DEFAULT_MAX_COMMAND_CHARS,
        min_confidence: float = 0.0,
        temperature: float = 1.0,
        examples_in_prompt: bool = True,
        drafts: bool = True,
        drafter_file: str | os.PathLike[str] | None = None,
        shortlist: int = DEFAULT_SHORTLIST,
        learned: Learned | None = None,
    ) -> None:
        """Check the registry and run its prompt through the model once.

        Args:
            engine: Engine that runs the model; the understander is its only user.
            tokenizer: The model's tokenizer.
            skills: The registry to decide among.
            max_command_chars: Longest accepted command, in characters.
            min_confidence: Least confidence of an ACCEPTED decision, 0 to 1.
            temperature: What makes the model's probability of its answer the probability that it
                is right; see ``command.calibration``.
            examples_in_prompt: Whether the model needs examples to be shown what to do.
            drafts: Whether answers are guessed, for the model to confirm in fewer passes. The
                decisions are the same.
            drafter_file: What the drafter has learned before; None: it begins with the registry's
                examples.
            shortlist: Number of skills that the model is shown for a command where the registry is
                large; 0: always all.
            learned: What is known of the words that ask for some skills.

        Raises:
            SkillsError: The registry's examples or defaults break its own rules.
            CommandError: The prompt does not fit into the model's context.
        """
        self.engine = engine
        self.skills = skills
        self.max_command_chars = max_command_chars
        self.min_confidence = min_confidence
        self._temperature = temperature
        self.bundle: Bundle | None = None
        self.self_test: SelfTestReport | None = None
        self.decided: reference_decisions.DecisionReport | None = None
        self.load_ms = 0.0
        self._lesson: tuple[str, Answer, Sequence[Exchange]] | None = None
        self._stop_guard = StopGuard(skills)
        self._validator = Validator(skills)
        self.answerer = Answerer(
            engine,
            tokenizer,
            skills,
            max_command_chars=max_command_chars,
            examples_in_prompt=examples_in_prompt,
            drafts=drafts,
            drafter_file=drafter_file,
            shortlist=shortlist,
            learned=learned,
        )

    @classmethod
    def open(
        cls,
        bundle_path: str | os.PathLike[str],
        skills_path: str | os.PathLike[str] | None = None,
        *,
        threads: int = 2,
        provider: str = AUTO,
        allow_fallback: bool = False,
        selftest_commands: int = DEFAULT_SELFTEST_COMMANDS,
        max_command_chars: int = DEFAULT_MAX_COMMAND_CHARS,
        min_confidence: float = DEFAULT_MIN_CONFIDENCE,
        shortlist: int = DEFAULT_SHORTLIST,
    ) -> Understander:
        """Load a bundle, prove the engine against its reference and prepare for commands.

        The proof is the logits of the reference prompts and the decisions of a few reference
        commands. ``quant_llm selftest`` looks at all of them; an engine that failed there is
        refused here.

        Args:
            bundle_path: Folder of the bundle.
            skills_path: Skill registry; None means the bundle's own.
            threads: CPU threads of the engine.
            provider: One of ``engine.providers.PROVIDERS``.
            allow_fallback: Let the runtime fall back to a slower provider.
            selftest_commands: Most reference commands to decide. They are for the bundle's own
                skills; with others only the logits are looked at.
            max_command_chars: Longest accepted command, in characters.
            min_confidence: Least confidence of an ACCEPTED decision, 0 to 1.
            shortlist: Number of skills that the model is shown for a command where the registry is
                large; 0: always all.

        Raises:
            QuantLlmError: Something is missing, damaged or does not fit; the message says what
                and what to do.
        """
        start_s = time.monotonic()
        bundle = Bundle.load(Path(bundle_path))
        skills = SkillRegistry.load(skills_path or bundle.file(SKILLS))
        own = skills.sha256 == bundle.files[SKILLS].sha256
        if bundle.skills_fixed and not own:
            raise BundleError(
                f"{bundle.path}: the model was made for the skills in its own skills.yaml alone, "
                f"not for {skills.source}; leave the skills out or build a bundle for them"
            )
        engine = open_engine(
            bundle, provider=provider, threads=threads, allow_fallback=allow_fallback
        )
        try:
            refuse_failed(bundle, engine.info, device_name())
            report = self_test(engine, bundle)
            if not report.passed:
                raise _self_test_failed(bundle, engine, str(report))
            self = cls.of_bundle(
                bundle,
                engine,
                skills,
                max_command_chars=max_command_chars,
                min_confidence=min_confidence,
                shortlist=shortlist,
            )
            # Of more skills a shortlist of another length may decide otherwise.
            usual = self.answerer.shortens and shortlist == DEFAULT_SHORTLIST
            if own and (len(skills.skills) <= LARGE or usual):
                references = reference_decisions.load(bundle)
                fitting = [r for r in references if len(r.text) <= max_command_chars]
                decided = reference_decisions.check(self.understand, fitting, selftest_commands)
                if not decided.passed:
                    raise _self_test_failed(bundle, engine, str(decided))
                self.decided = decided if decided.checked else None
        except BaseException:
            engine.close()
            raise
        self.self_test = report
        self.load_ms = (time.monotonic() - start_s) * 1e3
        return self

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        engine: Engine,
        skills: SkillRegistry,
        *,
        max_command_chars: int = DEFAULT_MAX_COMMAND_CHARS,
        min_confidence: float = 0.0,
        drafts: bool = True,
        shortlist: int = DEFAULT_SHORTLIST,
    ) -> Understander:
        """Prepare for commands with a bundle's prompt and calibration, and no self-test.

        Args:
            bundle: The bundle.
            engine: Runs the bundle's model.
            skills: The registry to decide among.
            max_command_chars: Longest accepted command, in characters.
            min_confidence: Least confidence of an ACCEPTED decision, 0 to 1.
            drafts: Whether answers are guessed.
            shortlist: Number of skills that the model is shown for a command where the registry is
                large; 0: always all.

        Raises:
            QuantLlmError: The registry does not fit.
        """
        own = skills.sha256 == bundle.files[SKILLS].sha256
        self = cls(
            engine,
            Tokenizer(bundle.file(TOKENIZER)),
            skills,
            max_command_chars=max_command_chars,
            min_confidence=min_confidence,
            temperature=bundle.temperature,
            examples_in_prompt=bundle.shows_examples(skills.sha256),
            drafts=drafts,
            drafter_file=bundle.path / DRAFTER if own and DRAFTER in bundle.files else None,
            shortlist=shortlist,
            learned=_learned(bundle, skills) if shortlist > 0 else None,
        )
        self.bundle = bundle
        return self

    def close(self) -> None:
        """Release the model; the object cannot be used afterwards."""
        self.engine.close()

    def is_stop(self, text: str) -> bool:
        """Tell whether a text says nothing but «stop»; any thread may ask at any time."""
        return self._stop_guard(text)

    def know(self, *, places: KnownNames | None = None, objects: KnownNames | None = None) -> None:
        """Replace what is known by name; any thread may do so at any time.

        Args:
            places: Known places; None leaves them as they are.
            objects: Known things; None leaves them as they are.
        """
        known = dict(self._validator.known)
        if places is not None:
            known["places"] = places
        if objects is not None:
            known["objects"] = objects
        self._validator.known = known

    def understand(
        self,
        text: str,
        *,
        before: Sequence[Exchange] = (),
        received_s: float | None = None,
        deadline_s: float | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_stage: Callable[[Stage], None] | None = None,
    ) -> Decision:
        """Decide about one command.

        Args:
            text: The command.
            before: What was said before in the same conversation; see ``Conversation``.
            received_s: When it arrived, by ``time.monotonic``; None means now.
            deadline_s: Seconds from its arrival after which the decision is TIMEOUT; None: never.
            cancelled: Asked before every pass of the model; true makes the decision CANCELLED.
            on_stage: Told each stage as it begins.

        Returns:
            A decision whatever the text is: errors of the command are decisions too.
        """
        received_s = time.monotonic() if received_s is None else received_s
        clock = StageClock(received_s, on_stage)
        self.learn()
        passes = 0

        def checkpoint() -> None:
            if cancelled is not None and cancelled():
                raise _Cancelled
            if deadline_s is not None and time.monotonic() - received_s > deadline_s:
                raise _TimeoutReached

        def before_pass() -> None:
            nonlocal passes
            checkpoint()
            passes += 1

        answer: Answer | None = None
        try:
            clock.enter(Stage.GUARD)
            if self._stop_guard(text):
                # A stop counts even when it comes late.
                outcome = self._stop_outcome()
            else:
                checkpoint()
                sentence = self._cleaned(text)
                words = reading.words(sentence)
                if words:
                    earlier = [(self._cleaned(said), reply) for said, reply in before]
                    answer = self.answerer.answer(
                        sentence, earlier, enter=clock.enter, before_pass=before_pass
                    )
                    clock.enter(Stage.VALIDATE)
                    outcome = self._checked(answer, words)
                    # A decision that comes too late is no decision.
                    checkpoint()
                else:
                    outcome = Outcome(Status.UNKNOWN, message="the command has no words")
        except _TimeoutReached:
            outcome = Outcome(
                Status.TIMEOUT, message=f"no decision within the deadline of {deadline_s:g} s"
            )
        except _Cancelled:
            outcome = Outcome(Status.CANCELLED, message="cancelled while it was processed")
        except (QuantLlmError, ValueError) as error:
            outcome = Outcome(Status.ERROR, message=str(error))
        decided_by_model = answer is not None and outcome.status is not Status.ERROR
        latency_ms, total_ms = clock.finish()
        if answer is not None:
            self._lesson = (sentence, answer, earlier)
        return Decision(
            text=text,
            status=outcome.status,
            calls=outcome.calls,
            unserved=outcome.unserved,
            confidence=self._confidence(outcome.status, answer if decided_by_model else None),
            message=outcome.message,
            latency_ms=latency_ms,
            total_ms=total_ms,
            forward_passes=passes,
            generated_tokens=answer.tokens if answer else 0,
            answer=answer.text if answer else "",
        )

    def learn(self) -> None:
        """Let the drafter learn from the last answer, for the commands to come.

        Whoever has passed a decision on calls this; what was not learned by then, the next command
        waits for, so that the same commands teach the same.
        """
        lesson, self._lesson = self._lesson, None
        if lesson is not None:
            self.answerer.learn(*lesson)

    def stop_decision(self, text: str, *, received_s: float) -> Decision:
        """Give the decision for a text for which ``is_stop`` holds; any thread may ask."""
        outcome = self._stop_outcome()
        total_ms = (time.monotonic() - received_s) * 1e3
        return Decision(
            text=text,
            status=outcome.status,
            calls=outcome.calls,
            confidence=1.0,
            message=outcome.message,
            latency_ms={Stage.GUARD: total_ms},
            total_ms=total_ms,
        )

    def _stop_outcome(self) -> Outcome:
        stop = SkillCall(STOP_SKILL, {}, self.skills.skills[STOP_SKILL].safety)
        return Outcome(Status.STOP, (stop,), "the command is a stop phrase")

    def _cleaned(self, text: str) -> str:
        return reading.clean(text, max_chars=self.max_command_chars)

    def _checked(self, answer: Answer, words: list[str]) -> Outcome:
        """Check what the model wrote, and whether it is sure enough."""
        outcome = self._validator.check(
            notation.parse(answer.text), words, self.answerer.amounts(words)
        )
        if outcome.status is not Status.ACCEPTED:
            return outcome
        if self._confidence(outcome.status, answer) >= self.min_confidence:
            return outcome
        calls = notation.SEPARATOR.join(notation.served(answer.text))
        besides = f" ({outcome.message})" if outcome.message else ""
        question = f"I am not sure: do you mean {calls}?{besides}"
        return Outcome(Status.CLARIFY, message=question, unserved=outcome.unserved)

    def _confidence(self, status: Status, answer: Answer | None) -> float:
        if answer is not None:
            return calibrated(answer.probability, self._temperature)
        # A stop phrase needs no model; everything else without an answer decided nothing.
        return 1.0 if status is Status.STOP else 0.0


def _learned(bundle: Bundle, skills: SkillRegistry) -> Learned:
    """Give the words that ask for those skills which a registry has from the bundle's own."""
    if len(skills.skills) <= LARGE or DRAFTER not in bundle.files:
        return {}
    own = SkillRegistry.load(bundle.file(SKILLS)).skills
    same = [n for n, s in skills.skills.items() if n in own and s.signature == own[n].signature]
    return skill_words(bundle.file(DRAFTER), same)


def _self_test_failed(bundle: Bundle, engine: Engine, what: str) -> EngineError:
    info = engine.info
    return EngineError(
        f"{bundle.path}: self-test failed on {info.runtime} with {info.provider}: {what}; rebuild "
        f"the bundle on this machine, or serve it with provider cpu (target ort)"
    )
