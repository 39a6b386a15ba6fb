"""Other runtimes in the benchmark, and the model in the form that they take."""

from __future__ import annotations

from pathlib import Path

from quant_llm_ros.benchmark import genai, llama_cpp
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import EngineError, RecipeError

PEERS = {
    "llama_cpp": (llama_cpp.USERS, llama_cpp.BEST, llama_cpp.DRAFTED),
    "onnxruntime_genai": (genai.USERS, genai.GUIDED, genai.BEST),
}
"""Contenders by the name of their runtime."""

FOLDER = "peers"


def model_of(peer: str, bundle: Bundle, recipe_file: Path, *, threads: int) -> str:
    """Give a bundle's model in the form that a runtime takes; written where it is missing.

    Args:
        peer: One of ``PEERS``.
        bundle: The bundle.
        recipe_file: The recipe that it was made by.
        threads: CPU threads, where they are said in a file.

    Returns:
        A file or a folder, in the bundle's folder; not among its hashed files.

    Raises:
        RecipeError: The bundle was made by another recipe, or the runtime has no such weights.
        EngineError: The runtime or the quantization tools are not installed.
    """
    if peer == "llama_cpp":
        llama_cpp.load_library()  # before a minute is spent on the file
        return str(gguf_of(bundle, recipe_file))
    genai.load_library()
    return str(genai_of(bundle, threads=threads))


def gguf_of(bundle: Bundle, recipe_file: Path) -> Path:
    """Give a bundle's model as GGUF; written at the first call, which takes about a minute.

    Args:
        bundle: The bundle.
        recipe_file: The recipe that it was made by.

    Raises:
        RecipeError: The bundle was made by another recipe, or llama.cpp has no such weights.
        EngineError: The quantization tools are not installed.
    """
    path = _place(bundle).with_suffix(".gguf")
    if path.is_file():
        return path
    try:
        from quant_llm_ros.quantize.gguf_export import write_gguf
        from quant_llm_ros.quantize.recipe import Recipe
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    recipe = Recipe.load(recipe_file)
    if dict(recipe.settings) != dict(bundle.recipe):
        raise RecipeError(
            f"{bundle.path} was made by the recipe {bundle.recipe.get('name')!r} as it was then, "
            f"not by {recipe_file} as it is; name the recipe with --recipe, or build the bundle "
            "again"
        )
    write_gguf(recipe, path)
    return path


def genai_of(bundle: Bundle, *, threads: int) -> Path:
    """Give the folder of a bundle's model for onnxruntime-genai.

    Args:
        bundle: The bundle.
        threads: CPU threads of a pass.

    Raises:
        BundleError: The bundle is for another runtime.
        EngineError: The quantization tools are not installed.
    """
    try:
        from quant_llm_ros.quantize.genai_export import write_genai
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    path = _place(bundle).with_suffix(".genai")
    write_genai(bundle, path, threads=threads)
    return path


def _place(bundle: Bundle) -> Path:
    return bundle.path / FOLDER / bundle.files["model.onnx.data"].sha256[:16]


def _not_installed(error: ModuleNotFoundError) -> EngineError:
    return EngineError(
        f"writing the model for another runtime needs the package {error.name!r}; install the "
        "extra: pip install 'quant_llm_ros[quantize]'"
    )
