"""A cheap guess of what the model will answer, for the model to confirm in a single pass.

A linear model over the words of the sentence chooses what comes next, from the first skill to the
end. It learns from the registry's examples, from sentences with their answers where there are any,
and from every answer of the model: a wrong guess costs a pass, never a wrong decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
import json
import operator
import os
from pathlib import Path

from quant_llm_ros.command.calls import UNKNOWN
from quant_llm_ros.command.draft_options import AnswerState, Before, END, Option, SentenceView
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.errors import SkillsError

FORMAT_VERSION = 1
MAX_WEIGHTS = 200_000
"""Most weights that are kept: what a robot learns while it runs must not fill its memory."""

_EXAMPLE_ROUNDS = 12
_EXAMPLE_BUDGET = 25_000
# Examples times rounds times skills: about 0.3 s of computing. A robot with hundreds of skills
# would start late otherwise; what is left out it learns while it runs.
_LEAST_SAVED = 0.3


class Drafter:
    """Guesses answers for one registry.

    Not thread-safe. What it has learned changes how fast the next answers come and nothing else.
    """

    def __init__(
        self, registry: SkillRegistry, file: str | os.PathLike[str] | None = None
    ) -> None:
        """Take up what was learned before, or learn the registry's own examples.

        Args:
            registry: The skills whose answers are guessed.
            file: What was learned before; see ``save``.

        Raises:
            SkillsError: The file is missing or malformed.
        """
        self._registry = registry
        self._weights: dict[str, float] = {} if file is None else _load(Path(file))
        if file is None:
            self._learn_examples()

    def for_sentence(
        self, sentence: str, before: Before = (), among: Collection[str] | None = None
    ) -> Callable[[str], str | None]:
        """Prepare for one sentence.

        Args:
            sentence: The cleaned sentence.
            before: What was said before it.
            among: Names of the skills that may be called; None: all.

        Returns:
            A function from the beginning of the answer to the whole answer, or to None where no
            answer that could be guessed begins like that.
        """
        view = SentenceView(self._registry, self._weights, sentence, before, among)
        return lambda said: _complete(view, said)

    def learn(
        self,
        sentence: str,
        answer: str,
        before: Before = (),
        among: Collection[str] | None = None,
    ) -> None:
        """Learn what was answered to a sentence, where it would not have been guessed.

        Args:
            sentence: The cleaned sentence.
            answer: The whole answer, in the notation of calls.
            before: What was said before it.
            among: Names of the skills that could be called; None: all.
        """
        view = SentenceView(self._registry, self._weights, sentence, before, among)
        for guess, right in _mistakes(view, answer):
            self._add(right, 1.0)
            self._add(guess, -1.0)

    def train(self, lessons: Iterable[tuple[str, str, Before]], *, rounds: int) -> None:
        """Learn sentences with their answers, over and over.

        The weights become their mean over the way: that guesses better than where the way ends.

        Args:
            lessons: Cleaned sentences, their answers, and what was said before them.
            rounds: How often each is learned, at least once.
        """
        listed = list(lessons)
        late: dict[str, float] = {}
        step = 0
        for _ in range(rounds):
            for sentence, answer, before in listed:
                view = SentenceView(self._registry, self._weights, sentence, before)
                for guess, right in _mistakes(view, answer):
                    for option, sign in ((right, 1.0), (guess, -1.0)):
                        self._add(option, sign)
                        for group in option.features:
                            for name in group:
                                late[name] = late.get(name, 0.0) + sign * step
                step += 1
        for name in late.keys() & self._weights.keys():
            self._weights[name] -= late[name] / step

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was learned, as JSON; weights that hardly count are left out."""
        weights = {
            name: round(weight, 2)
            for name, weight in sorted(self._weights.items())
            if abs(weight) >= _LEAST_SAVED
        }
        document = {"format_version": FORMAT_VERSION, "weights": weights}
        Path(path).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    def _learn_examples(self) -> None:
        skills = self._registry.skills.values()
        examples = [(e.say, e.calls) for skill in skills for e in skill.examples]
        examples += [(sentence, UNKNOWN) for sentence in self._registry.not_commands]
        if not examples:
            return
        most = max(1, _EXAMPLE_BUDGET // len(skills))
        chosen = examples[:: -(-len(examples) // most)]
        for _ in range(min(_EXAMPLE_ROUNDS, most // len(chosen))):
            for sentence, answer in chosen:
                self.learn(sentence, answer)

    def _add(self, option: Option, step: float) -> None:
        weights = self._weights
        for group in option.features:
            for name in group:
                if name in weights or len(weights) < MAX_WEIGHTS:
                    weights[name] = weights.get(name, 0.0) + step


def skill_words(
    file: str | os.PathLike[str], names: Collection[str]
) -> dict[str, dict[str, float]]:
    """Give what a drafter has learned about the words that ask for a skill.

    Args:
        file: What was learned; see ``Drafter.save``.
        names: Of the skills.

    Returns:
        For each skill the weights above zero of what was seen in sentences: among it words, words
        among the first three (a point before them) and pairs of words.

    Raises:
        SkillsError: The file is missing or malformed.
    """
    words: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, weight in _load(Path(file)).items():
        kind, _, rest = key.partition("|")
        name, _, item = rest.partition("|")
        if kind == "s" and item and weight > 0 and name in words:
            words[name][item] = weight
    return words


def _load(path: Path) -> dict[str, float]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, this release reads {FORMAT_VERSION}")
        return {str(name): float(weight) for name, weight in document["weights"].items()}
    except OSError as error:
        raise SkillsError(f"{path}: {error.strerror}; name a drafter's file") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SkillsError(f"{path} is no drafter's file: {error!r}; make it anew") from error


def _complete(view: SentenceView, said: str) -> str | None:
    """Write an answer on from how it begins."""
    state = AnswerState(view)
    answer = ""
    while not state.ended:
        left = said[len(answer) :]
        fitting = [option for option in state.options() if _fits(option, left, state)]
        if not fitting:
            return None
        option = _best(fitting)
        answer += option.text
        state.take(option)
    return answer if answer.startswith(said) else None


def _mistakes(view: SentenceView, answer: str) -> Iterator[tuple[Option, Option]]:
    """Follow a whole answer; where something else would have been guessed, give that and it."""
    state = AnswerState(view)
    at = 0
    while not state.ended:
        options = state.options()
        right = [option for option in options if _begins(answer[at:], option, state)]
        if not right:
            return  # a value that cannot be guessed, such as a very long one
        chosen, guess = _best(right), _best(options)
        if guess.text != chosen.text:
            yield guess, chosen
        at += len(chosen.text)
        state.take(chosen)


def _best(options: Sequence[Option]) -> Option:
    return max(options, key=operator.attrgetter("score"))


def _begins(left: str, option: Option, state: AnswerState) -> bool:
    """Tell whether the rest of a whole answer begins with an option."""
    if option.text == END:
        return not left
    if not left.startswith(option.text):
        return False
    # A value ends where the call goes on.
    return state.value is None or left[len(option.text) :][:1] in (",", ")")


def _fits(option: Option, left: str, state: AnswerState) -> bool:
    """Tell whether an option can stand where the rest of what was said begins."""
    if len(left) <= len(option.text):
        return option.text.startswith(left)
    return _begins(left, option, state)
