"""Search for mixed precision: the mixture of least divergence within a budget.

First every group's sensitivity to every choice is measured alone (Dong et al. 2019, «HAWQ»,
arXiv:1905.03696, use the Hessian's eigenvalues for it; here it is the divergence itself, which the
reference prompts are few enough for). If the divergences of groups added up, spending bits where
each saves most divergence would be best; such greedy mixtures are where the search begins. They do
not add up, so Optuna's tree-structured Parzen estimator (Bergstra et al. 2011, «Algorithms for
Hyper-Parameter Optimization», section 4) tries mixtures near the good ones, each measured whole.

The study may lie in storage that many machines share: each takes trials of its own and learns from
all. Sensitivities are measured once, by the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
from pathlib import Path
import tempfile
from typing import Any

from quant_llm_ros.errors import EngineError, QuantLlmError, RecipeError
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report.budget import Budget, check_sensor, Device, measured_cost, SIZE
from quant_llm_ros.report.mixture import (
    Choice,
    describe,
    Effect,
    Mixer,
    Mixture,
    mixture_settings,
    write_recipe,
)

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many of it are done, and how many there are."""

_SEEDS = (1.0, 0.99, 0.97, 0.94, 0.9)
_EFFECTS = "effects"
_FINGERPRINT = "fingerprint"


@dataclasses.dataclass(frozen=True)
class Found:
    """The best mixture of a study.

    Attributes:
        mixture: Choice of each group.
        kl_nats: Its divergence from the unquantized model.
        size_mb: Of the weights as stored.
        cost: What the budget is about.
        trials: Finished trials of the study, those of other machines too.
        sensitivities: Groups, choices and effects, as plain data.
    """

    mixture: Mixture
    kl_nats: float
    size_mb: float
    cost: float
    trials: int
    sensitivities: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where a study lies.

    Attributes:
        url: As SQLAlchemy takes it, for example ``sqlite:///study.db``; None: in memory.
        study: Name of the study.
        seed: Of the sampler; None: another one each time, as machines that share a study need.
    """

    url: str | None = None
    study: str = "mixed-precision"
    seed: int | None = None


def search(
    recipe: Recipe,
    choices: Sequence[Choice],
    budget: Budget,
    *,
    trials: int,
    storage: Storage,
    device: Device,
    progress: Progress,
) -> Found:
    """Search a mixture.

    Args:
        recipe: The model; what it says about ``quantize`` does not count.
        choices: What a group can get.
        budget: What the result may cost.
        trials: Mixtures to try now, besides those that the study has already.
        storage: Where the study lies.
        device: Builds and runs the bundles where the budget is not the size.
        progress: Told how it goes.

    Raises:
        RecipeError: optuna is not installed, a choice does not fit, nothing fits the budget, or
            the study in the storage is about something else.
        EngineError: The budget is energy and this machine has no sensor.
    """
    optuna = _optuna()
    check_sensor(budget)
    mixer = Mixer(recipe, choices, device.texts)
    study = _open_study(optuna, storage, _fingerprint(mixer, budget))
    effects = _effects(study, mixer, progress)
    base = mixer.fixed_bits

    def bits(mixture: Mixture) -> int:
        return base + sum(effects[g][c].bits for g, c in enumerate(mixture))

    least = bits(tuple(map(smallest, effects)))
    if budget.name == SIZE and least / 8e6 > budget.limit:
        raise RecipeError(
            f"nothing fits {budget}: the smallest mixture of these choices takes "
            f"{least / 8e6:.2f} MB; raise the budget, or give smaller choices"
        )
    if not study.get_trials(deepcopy=False):
        for seed in _seeds(effects, budget, base):
            study.enqueue_trial(_parameters(mixer, seed))

    def objective(trial: Any) -> float:
        mixture = tuple(
            trial.suggest_categorical(group, list(range(len(mixer.choices))))
            for group in mixer.groups
        )
        size_mb = bits(mixture) / 8e6
        cost = size_mb
        if budget.name != SIZE:
            settings = mixture_settings(recipe, mixer.choices, mixer.groups, mixture)
            with tempfile.TemporaryDirectory() as folder:
                candidate = write_recipe(settings, recipe, Path(folder) / recipe.file.name, "")
                cost = measured_cost(budget, candidate, device)
        trial.set_constraint(budget.name, cost - budget.limit)
        trial.set_user_attr("size_mb", size_mb)
        trial.set_user_attr("cost", cost)
        return mixer.divergence(mixture)

    done = 0

    def note(_study: object, _trial: object) -> None:
        nonlocal done
        done += 1
        progress("trying mixtures", done, trials)

    progress("trying mixtures", 0, trials)
    study.optimize(objective, n_trials=trials, callbacks=[note])
    try:
        best = study.best_trial
    except ValueError:
        costs = [t.user_attrs["cost"] for t in study.get_trials() if "cost" in t.user_attrs]
        raise RecipeError(
            f"none of {len(costs)} mixtures fits {budget}; the least was {min(costs):.4g}; raise "
            "the budget, give smaller choices, or try more"
        ) from None
    return Found(
        tuple(best.params[group] for group in mixer.groups),
        best.value,
        best.user_attrs["size_mb"],
        best.user_attrs["cost"],
        len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])),
        {
            "groups": list(mixer.groups),
            "choices": [dict(choice) for choice in mixer.choices],
            "effects": [[dataclasses.asdict(e) for e in row] for row in effects],
        },
    )


def write_found(
    found: Found, recipe: Recipe, choices: Sequence[Choice], budget: Budget, output: Path
) -> Recipe:
    """Write the found mixture as an ordinary recipe file."""
    groups = found.sensitivities["groups"]
    settings = mixture_settings(recipe, choices, groups, found.mixture)
    counts = ", ".join(
        f"{found.mixture.count(number)} × {describe(choice)}"
        for number, choice in enumerate(choices)
    )
    head = (
        f"Found by `quant_llm search --budget {budget}` in {found.trials} trials, from "
        f"{recipe.file.name}.\n"
        f"Of {len(groups)} parts of the model: {counts}.\n"
        f"Weights {found.size_mb:.2f} MB, KL divergence from the unquantized model "
        f"{found.kl_nats:.4f} nats on the reference prompts."
    )
    return write_recipe({**settings, "name": output.stem}, recipe, output, head)


def smallest(effects: Sequence[Effect]) -> int:
    """Give the number of the choice that takes the fewest bits."""
    return min(range(len(effects)), key=lambda choice: effects[choice].bits)


def greedy(effects: Sequence[Sequence[Effect]], most_bits: float, power: float = 1.0) -> Mixture:
    """Spend bits where each saves most, as if the divergences of groups added up.

    Args:
        effects: Of each group and choice.
        most_bits: What the groups may take together.
        power: Of the saved divergence; below 1 the most sensitive groups weigh less.

    Returns:
        A mixture that starts with every group's smallest choice.
    """
    mixture = [smallest(row) for row in effects]
    left = most_bits - sum(row[c].bits for row, c in zip(effects, mixture, strict=True))
    while True:
        best, gain = None, 0.0
        for group, row in enumerate(effects):
            now = row[mixture[group]]
            for choice, effect in enumerate(row):
                cost, saved = effect.bits - now.bits, now.kl_nats - effect.kl_nats
                if saved > 0 and 0 < cost <= left and saved**power / cost > gain:
                    best, gain = (group, choice, cost), saved**power / cost
        if best is None:
            return tuple(mixture)
        mixture[best[0]] = best[1]
        left -= best[2]


def _seeds(effects: Sequence[Sequence[Effect]], budget: Budget, base: int) -> list[Mixture]:
    """Give the mixtures to begin with: a single choice everywhere, and the greedy ones."""
    choices = range(len(effects[0]))
    total = [sum(row[choice].bits for row in effects) for choice in choices]
    if budget.name == SIZE:
        most = budget.limit * 8e6 - base
        limits = [most * part for part in _SEEDS]
    else:
        # What costs time or energy is not known yet: greedy mixtures of all sizes.
        limits = [min(total) + (max(total) - min(total)) * part / 4 for part in range(1, 4)]
        most = float("inf")
    seeds = [(choice,) * len(effects) for choice in choices if total[choice] <= most]
    seeds += [greedy(effects, limit, power) for power in (1.0, 0.5) for limit in limits]
    return list(dict.fromkeys(seeds))


def _parameters(mixer: Mixer, mixture: Mixture) -> dict[str, int]:
    return dict(zip(mixer.groups, mixture, strict=True))


def _effects(study: Any, mixer: Mixer, progress: Progress) -> list[list[Effect]]:
    """Measure every group's sensitivity, or take what the study knows."""
    known = study.user_attrs.get(_EFFECTS)
    if known:
        return [[Effect(*effect) for effect in row] for row in known]
    total = len(mixer.groups) * len(mixer.choices)
    effects: list[list[Effect]] = []
    for group in range(len(mixer.groups)):
        effects.append([])
        for choice in range(len(mixer.choices)):
            progress("measuring sensitivities", group * len(mixer.choices) + choice, total)
            effects[-1].append(mixer.effect(group, choice))
    study.set_user_attr(_EFFECTS, [[dataclasses.astuple(e) for e in row] for row in effects])
    return effects


def _open_study(optuna: Any, storage: Storage, fingerprint: str) -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            study_name=storage.study,
            storage=storage.url,
            load_if_exists=True,
            # The seeds are the start; after them nothing is to be tried at random.
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=1, multivariate=True, seed=storage.seed
            ),
        )
    except Exception as error:  # SQLAlchemy's errors and Optuna's share no narrower base
        raise QuantLlmError(
            f"the storage {storage.url} cannot be used: {' '.join(str(error).split())[:300]}"
        ) from error
    known = study.user_attrs.get(_FINGERPRINT)
    if known is None:
        study.set_user_attr(_FINGERPRINT, fingerprint)
    elif known != fingerprint:
        raise RecipeError(
            f"the study {storage.study!r} in {storage.url} is about another model, other choices "
            "or another budget; give another --study or --storage"
        )
    return study


def _fingerprint(mixer: Mixer, budget: Budget) -> str:
    """Hash what makes trials comparable."""
    # Patterns of a tied model's groups and the adapter's name tell models apart well enough; the
    # checkpoint's hash is in the recipe or in its path.
    settings = {k: v for k, v in mixer.recipe.settings.items() if k not in ("quantize", "name")}
    parts = [settings, [dict(c) for c in mixer.choices], list(mixer.groups), str(budget)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise EngineError(
            "the search needs optuna; run `pip install 'quant_llm_ros[search]'`"
        ) from error
    return optuna
