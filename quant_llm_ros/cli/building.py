"""How the subcommands of comparison build a bundle."""

from __future__ import annotations

from pathlib import Path
import shutil
import tempfile
from typing import TYPE_CHECKING

from quant_llm_ros.engine.bundle import Bundle, SKILLS, TOKENIZER
from quant_llm_ros.report.measure import Progress

if TYPE_CHECKING:
    from quant_llm_ros.quantize.build import CheckedCheckpoints
    from quant_llm_ros.quantize.calibration import Passages
    from quant_llm_ros.quantize.checkpoint import Checkpoint
    from quant_llm_ros.quantize.recipe import Recipe


class Builder:
    """Builds bundles, one after the other; a checkpoint that several have is read once."""

    def __init__(self) -> None:
        """Begin with no checkpoint."""
        self._checked: CheckedCheckpoints = {}

    def __call__(self, recipe: Recipe, output: Path, skills: Path, progress: Progress) -> Bundle:
        """Build a bundle; see ``quantize.build.build_bundle``."""
        from quant_llm_ros.cli.calibration import command_source, reference_source
        from quant_llm_ros.quantize.build import build_bundle

        examples = recipe.prompt_examples == "always"
        return build_bundle(
            recipe,
            output,
            skills=skills,
            progress=progress,
            commands=command_source(examples=examples),
            texts=reference_source(examples=examples),
            checked=self._checked,
        )


def reference_texts(recipe: Recipe, checkpoint: Checkpoint, skills: Path) -> Passages:
    """Make the commands on which a recipe's models are compared, as the build does."""
    from quant_llm_ros.cli.calibration import reference_source
    from quant_llm_ros.quantize import reference

    source = reference_source(examples=recipe.prompt_examples == "always")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
        shutil.copyfile(skills, folder / SKILLS)
        return reference.passages(recipe, checkpoint, folder, source)
