"""How the subcommands of comparison build a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.report.measure import Progress

if TYPE_CHECKING:
    from quant_llm_ros.quantize.recipe import Recipe


def build(recipe: Recipe, output: Path, skills: Path, progress: Progress) -> Bundle:
    """Build a bundle; see ``quantize.build.build_bundle``."""
    from quant_llm_ros.cli.calibration import command_source
    from quant_llm_ros.quantize.build import build_bundle

    return build_bundle(
        recipe,
        output,
        skills=skills,
        progress=progress,
        commands=command_source(examples=recipe.prompt_examples == "always"),
    )
