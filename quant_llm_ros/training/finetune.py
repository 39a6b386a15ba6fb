"""Fine-tuning: an adapter that teaches the model to answer with calls of skills.

Low-rank adaptation: Hu et al. 2021, «LoRA: Low-Rank Adaptation of Large Language Models». With
``train: weights`` all matrices of the layers are trained instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import tempfile
from typing import Any

import peft
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.reference import load_transformers
from quant_llm_ros.training.adapter_files import save_low_rank, save_whole, take_over
from quant_llm_ros.training.generator import TrainingExample
from quant_llm_ros.training.lessons import Lessons
from quant_llm_ros.training.optimizer import falling, make_optimizer, take_step
from quant_llm_ros.training.packing import Pack, use_packed_attention
from quant_llm_ros.training.qat import (
    distillation_loss,
    make_simulation,
    merge_start,
    recipe_for_training,
    round_once,
    StraightThrough,
)
from quant_llm_ros.training.reconstruction import LayerReport, train_layers
from quant_llm_ros.training.rounding import (
    plain_layers,
    round_embedding,
    TARGETS,
)
from quant_llm_ros.training.settings import FinetuneSettings

STATE = "state.safetensors"


@dataclasses.dataclass(frozen=True)
class Report:
    """How training goes.

    Attributes:
        step: Steps done.
        loss: Mean loss per answer token since the last report, in nats.
        held_out_loss: The same on held-out generated sentences.
        held_out_exact: Share of them whose every answer token is the most probable one.
        rounding: Whether weights are being rounded.
    """

    step: int
    loss: float
    held_out_loss: float
    held_out_exact: float
    rounding: bool


class Finetuner:
    """Trains an adapter or all weights, step by step, and can go on where it was interrupted."""

    def __init__(
        self,
        settings: FinetuneSettings,
        output: Path,
        *,
        skills: SkillRegistry,
        own_registry: bool = False,
        human: Sequence[TrainingExample] = (),
        measured: Sequence[Path] = (),
        start: Path | None = None,
        device: str = "cpu",
        threads: int = 2,
    ) -> None:
        """Load the checkpoint that the recipe names and get it ready to be trained.

        Args:
            settings: How to train.
            output: Folder of the adapter and of the state of an interrupted run.
            skills: The registry that human sentences are for.
            own_registry: Whether it takes the default one's place in the generated sentences too.
            human: Human sentences with their answers.
            measured: Files of sentences that must not be learnt: a generated one is left out, a
                human one is an error.
            start: Folder of an adapter to begin with, of the same rank where its values are
                taken over; None begins anew.
            device: ``cpu`` or ``cuda``.
            threads: CPU threads of torch.

        Raises:
            QuantLlmError: The recipe or the checkpoint cannot be used.
        """
        torch.set_num_threads(threads)
        self.settings = settings
        self.output = output
        self.step = 0
        self._device = device
        self._start_sha256 = ""
        if start is not None:
            adapter = Adapter.load(start)
            adapter.need_comparable(f"{start}: training")
            self._start_sha256 = adapter.sha256
        recipe = recipe_for_training(Recipe.load(settings.recipe), settings.method)
        checkpoint = recipe.checkpoint.open()
        if checkpoint.config.windows:
            raise CheckpointError(
                f"{checkpoint.location}: sentences are packed behind one prompt for training, "
                "which layers that see only a window of tokens cannot read; train another model"
            )
        with tempfile.TemporaryDirectory() as folder:
            tokenizer_path = Path(folder) / "tokenizer.json"
            tokenizer_path.write_text(checkpoint.tokenizer_json, encoding="utf-8")
            tokenizer = Tokenizer(tokenizer_path)
        self._lessons = Lessons(
            settings,
            tokenizer,
            skills,
            own_registry=own_registry,
            human=human,
            measured=measured,
        )
        output.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        base = load_transformers(checkpoint.location)
        self._teacher = self._load_teacher(checkpoint.location, start)
        whole = settings.train == "weights"
        if start is not None and (whole or settings.on_top or settings.method == "frozen"):
            merge_start(base, start)
            start = None  # it is in the weights now
        if settings.method == "frozen":
            round_once(base, recipe)
        else:
            round_embedding(base, recipe)
        use_packed_attention(base)
        self._model: Any = base.to(device)
        if whole:
            self._model.requires_grad_(False)
            for layer in plain_layers(self._model).values():
                layer.weight.requires_grad_(True)
        else:
            self._add_adapter()
        if start is not None:
            take_over(self._model, start)
        self._rounding = make_simulation(settings.method, self._model, recipe)
        self._is_rounding = False
        weights = [p for p in self._model.parameters() if p.requires_grad]
        steps = self._rounding.parameters().values()
        self._parameters = [*weights, *steps]
        self._optimizer = make_optimizer(weights, steps)
        self._layers_trained = not settings.layerwise

    def train(
        self,
        on_step: Callable[[int], None],
        on_report: Callable[[Report], None],
        on_layer: Callable[[LayerReport], None] = lambda report: None,
    ) -> None:
        """Do the steps that are left, saving the state at every report, and write the adapter."""
        if not self._layers_trained:
            self._train_layers(on_layer)
            self._save_state()
        held_out = self._lessons.held_out()
        losses: list[float] = []
        for batch in self._lessons.of_steps(self.step, self._device):
            if self.step and self.step == self._lessons.human_step:
                self._save_adapter(self.output / "before_human")
            losses.append(self._train_step(batch))
            self.step += 1
            on_step(self.step)
            last = self.step >= self.settings.steps
            if last or self.step % self.settings.report_every == 0:
                if self._is_rounding:
                    self._rounding.refresh()  # so that the report is about rounded weights
                loss, exact = self._evaluate(held_out)
                mean = sum(losses) / len(losses)
                losses.clear()
                self._save_state()
                on_report(Report(self.step, mean, loss, exact, self._is_rounding))
            if last:
                break
        self._rounding.save(self.output)
        self._save_adapter(self.output)

    def resume(self) -> bool:
        """Go on from the state of an interrupted run, if the folder has one.

        Raises:
            CheckpointError: The state is of other settings.
        """
        path = self.output / STATE
        if not path.exists():
            return False
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = file.metadata()
        if metadata["settings"] != self._fingerprint():
            raise CheckpointError(
                f"{path}: belongs to a run with other settings or sentences; give the old ones, "
                "or another output folder"
            )
        self.step = int(metadata["step"])
        self._layers_trained = True  # the first state is saved after that
        for index, parameter in enumerate(self._parameters):
            parameter.data.copy_(tensors[f"{index}.value"])
            if f"{index}.exp_avg" not in tensors:
                continue  # a step size, and weights were not rounded yet
            self._optimizer.state[parameter] = {
                "step": tensors[f"{index}.step"].to(self._device),
                "exp_avg": tensors[f"{index}.exp_avg"].to(self._device),
                "exp_avg_sq": tensors[f"{index}.exp_avg_sq"].to(self._device),
            }
        return True

    def _load_teacher(self, location: Path, start: Path | None) -> Any:
        """Load the unquantized model whose answers are learnt, in bfloat16; None for none."""
        if not self.settings.distill:
            return None
        teacher = load_transformers(location)
        if start is not None:
            merge_start(teacher, start)
        for parameter in teacher.parameters():
            parameter.data = parameter.data.to(self._device, torch.bfloat16)
        use_packed_attention(teacher)
        return teacher.to(self._device).eval()

    def _add_adapter(self) -> None:
        """Put a fresh adapter beside the layers' matrices, which are frozen."""
        config = peft.LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            target_modules=list(TARGETS),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        peft.get_peft_model(self._model, config)  # in place

    def _save_adapter(self, folder: Path) -> None:
        if self.settings.train == "weights":
            assert isinstance(self._rounding, StraightThrough)
            save_whole(self._rounding.weights(), folder)
        else:
            save_low_rank(self._model, self.settings.rank, self.settings.alpha, folder)

    def _rounding_step(self) -> int:
        return round(self.settings.rounding_from * self.settings.steps)

    def _learning_rate(self) -> float:
        done = self.step / self.settings.steps
        if done < self.settings.warmup:
            return self.settings.learning_rate * (done / self.settings.warmup)
        part = (done - self.settings.warmup) / max(1e-9, 1.0 - self.settings.warmup)
        return self.settings.learning_rate * falling(part)

    def _train_layers(self, on_layer: Callable[[LayerReport], None]) -> None:
        """Let each layer learn by itself."""
        assert isinstance(self._rounding, StraightThrough)
        train_layers(
            self._model,
            self._rounding,
            self._lessons.of_layers(),
            passes=self.settings.layerwise,
            learning_rate=self.settings.layerwise_rate,
            seed=self.settings.seed,
            device=self._device,
            on_layer=on_layer,
        )

    def _train_step(self, batch: Pack) -> float:
        # The first step after a resumption refreshes too: the rounded weights are not saved.
        due = self.step % self.settings.refresh_every == 0 or not self._is_rounding
        if self.step >= self._rounding_step() and due:
            self._rounding.refresh()
            self._is_rounding = True
        logits = self._logits(batch)
        loss = functional.cross_entropy(logits, batch.labels.to(self._device))
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._logits(batch, self._teacher)
            share = self.settings.distill
            loss = (1 - share) * loss + share * distillation_loss(logits, taught)
        if not torch.isfinite(loss):
            raise CheckpointError(
                f"the loss is {float(loss)} at step {self.step}; lower learning_rate"
            )
        loss.backward()
        take_step(self._optimizer, self._learning_rate())
        return float(loss.detach())

    def _logits(self, batch: Pack, model: Any = None) -> Tensor:
        """Logits of the asked tokens, float32 ``[k, vocab]``; of the trained model or another."""
        batch = batch.to(self._device)
        model = self._model if model is None else model
        with torch.autocast(self._device, dtype=torch.bfloat16):
            states = model.model(
                input_ids=batch.tokens[None],
                position_ids=batch.positions[None],
                pack=batch,
                use_cache=False,
            ).last_hidden_state[0, batch.asked]
            logits: Tensor = model.lm_head(states)
        return logits.float()

    @torch.no_grad()
    def _evaluate(self, packs: Sequence[Pack]) -> tuple[float, float]:
        """Mean loss per answer token and share of answers that are right in every token."""
        total, tokens, right, answers = 0.0, 0, 0, 0
        for batch in packs:
            logits = self._logits(batch).cpu()
            total += float(functional.cross_entropy(logits, batch.labels, reduction="sum"))
            tokens += len(batch.labels)
            wrong = batch.owner[logits.argmax(-1) != batch.labels].unique()
            count = int(batch.owner.max()) + 1
            right += count - len(wrong)
            answers += count
        return total / tokens, right / answers

    def _save_state(self) -> None:
        tensors = {}
        for index, parameter in enumerate(self._parameters):
            state = self._optimizer.state.get(parameter)
            tensors[f"{index}.value"] = parameter.detach().cpu()
            if not state:
                continue
            tensors[f"{index}.step"] = state["step"].cpu()
            tensors[f"{index}.exp_avg"] = state["exp_avg"].cpu()
            tensors[f"{index}.exp_avg_sq"] = state["exp_avg_sq"].cpu()
        staged = self.output / f"{STATE}.part"
        safetensors.torch.save_file(
            tensors, staged, metadata={"step": str(self.step), "settings": self._fingerprint()}
        )
        os.replace(staged, self.output / STATE)

    def _fingerprint(self) -> str:
        settings = dataclasses.asdict(self.settings)
        settings["recipe"] = self.settings.recipe.read_text(encoding="utf-8")
        parts = [settings, self._lessons.fingerprint, self._start_sha256]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
