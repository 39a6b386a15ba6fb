"""Other runtimes in the benchmark, and the model in the form that they take."""

from __future__ import annotations

from pathlib import Path

from quant_llm_ros.benchmark import llama_cpp
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import EngineError, RecipeError

PEERS = {"llama_cpp": (llama_cpp.USERS, llama_cpp.BEST)}
"""Contenders by the name of their runtime."""

FOLDER = "peers"


def gguf_of(bundle: Bundle, recipe_file: Path) -> Path:
    """Give a bundle's model as GGUF; written at the first call, which takes about a minute.

    Args:
        bundle: The bundle.
        recipe_file: The recipe that it was made by.

    Returns:
        The file, in the bundle's folder; not among its hashed files.

    Raises:
        RecipeError: The bundle was made by another recipe, or llama.cpp has no such weights.
        EngineError: The quantization tools are not installed.
    """
    path = bundle.path / FOLDER / f"{bundle.files['model.onnx.data'].sha256[:16]}.gguf"
    if path.is_file():
        return path
    try:
        from quant_llm_ros.quantize.gguf_export import write_gguf
        from quant_llm_ros.quantize.recipe import Recipe
    except ModuleNotFoundError as error:
        raise EngineError(
            f"writing GGUF needs the package {error.name!r}; install the extra: pip install "
            "'quant_llm_ros[quantize]'"
        ) from error
    recipe = Recipe.load(recipe_file)
    if dict(recipe.settings) != dict(bundle.recipe):
        raise RecipeError(
            f"{bundle.path} was made by the recipe {bundle.recipe.get('name')!r} as it was then, "
            f"not by {recipe_file} as it is; name the recipe with --recipe, or build the bundle "
            "again"
        )
    write_gguf(recipe, path)
    return path
