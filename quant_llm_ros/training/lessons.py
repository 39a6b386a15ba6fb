"""What a fine-tuning run reads: generated and human sentences, packed behind their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
from pathlib import Path
import random
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import DatasetError
from quant_llm_ros.training.generator import generate, Group, MAX_CHARS, TrainingExample
from quant_llm_ros.training.leaks import LeakCheck
from quant_llm_ros.training.packing import Pack, pack
from quant_llm_ros.training.settings import FinetuneSettings
from quant_llm_ros.training.varying import human_groups

# Packs that are made ahead of the step that reads them.
_AHEAD = 8
# Far from the seeds that people choose for training.
_HELD_OUT_SEED = 7_654_321


class Lessons:
    """The packs of a run; the same for every run with the same settings and sentences.

    Attributes:
        human_step: The first step that may read human sentences; None where there are none.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        tokenizer: Tokenizer,
        skills: SkillRegistry,
        *,
        own_registry: bool = False,
        human: Sequence[TrainingExample] = (),
        measured: Sequence[Path] = (),
    ) -> None:
        """Take what :class:`Finetuner` was given, and the model's tokenizer.

        Raises:
            DatasetError: A human sentence is one of the measured ones.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._skills = skills
        self._registries = [skills] if own_registry else None
        self._human = list(human)
        self._leaks = LeakCheck(measured)
        for text, where in self._leaks.find(example.text for example in human):
            raise DatasetError(
                f"{text!r} is to be learnt, but {where} is kept for measuring; take it out of the "
                "training data"
            )
        step = round(settings.human_from * settings.steps)
        self.human_step = step if self._human else None

    @property
    def fingerprint(self) -> list[Any]:
        """What the packs depend on besides the settings, as plain data."""
        human = [(example.text, example.answer) for example in self._human]
        own_registry = self._registries is not None
        return [human, self._skills.sha256, own_registry, sorted(self._leaks.measured)]

    def of_steps(self, first: int, device: str) -> Iterable[Pack]:
        """Give what the steps from one on read; for a GPU another process makes it meanwhile."""
        packs = _Packs(map(self._pack, itertools.islice(self._groups(), first, None)))
        if device == "cpu":
            return packs
        return DataLoader(
            packs,
            batch_size=None,
            num_workers=1,
            prefetch_factor=_AHEAD,
            multiprocessing_context="fork",  # the generator of the groups cannot be sent elsewhere
        )

    def held_out(self) -> list[Pack]:
        """Give what the loss is reported on."""
        return [
            self._pack(group)
            for group in self._generated(_HELD_OUT_SEED, self._settings.held_out_groups)
        ]

    def of_layers(self) -> list[Pack]:
        """Give what each layer learns by itself from: of another seed than the steps have."""
        groups = self._generated(self._settings.seed + 1, self._settings.layerwise_groups)
        return [self._pack(self._without_leaks(group)) for group in groups]

    def _groups(self) -> Iterator[Group]:
        """Give the groups of all steps."""
        settings = self._settings
        order = random.Random(settings.seed)
        human = human_groups(
            self._human,
            self._skills,
            random.Random(settings.seed + 1),
            size=settings.group_size,
            varied_share=settings.human_varied,
            allows=self._leaks.allows,
        )
        for step, group in enumerate(self._generated(settings.seed, settings.steps)):
            may = self.human_step is not None and step >= self.human_step
            if may and order.random() < settings.human_share:
                yield next(human)
            else:
                yield self._without_leaks(group)

    def _generated(self, seed: int, groups: int) -> Iterator[Group]:
        return generate(
            seed,
            groups,
            self._settings.group_size,
            default_share=self._settings.default_share,
            registries=self._registries,
        )

    def _without_leaks(self, group: Group) -> Group:
        kept = tuple(e for e in group.examples if self._leaks.allows(e.text))
        return dataclasses.replace(group, examples=kept)

    def _pack(self, group: Group) -> Pack:
        # As at run time: a registry that the model does not know is shown with its examples.
        known = group.registry.sha256 == self._skills.sha256
        prompt = Prompt(group.registry, self._tokenizer, examples=not known)
        examples = [
            (
                _cleaned(e.text),
                e.answer,
                [(_cleaned(text), answer) for text, answer in e.before],
            )
            for e in group.examples
        ]
        return pack(prompt, self._tokenizer, examples)


class _Packs(IterableDataset[Pack]):
    """Packs as torch's loader takes them."""

    def __init__(self, packs: Iterator[Pack]) -> None:
        self._packs = packs

    def __iter__(self) -> Iterator[Pack]:
        return self._packs


def _cleaned(text: str) -> str:
    return reading.clean(text, max_chars=MAX_CHARS)
