"""What a row of a sweep was made from, as one hash: equal, and the row need not be made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import yaml

import quant_llm_ros
from quant_llm_ros.engine.bundle import file_sha256
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.report.measure import What

_ROOMS = ("command", "engine", "quantize", "report", "training")
# Of what decides a figure; a change of a picture or a page makes no row old.
_REPORT = ("energy.py", "measure.py", "perplexity.py")
_STATE = "state.safetensors"  # of training; it may lie beside an adapter, which does not need it
_RUNTIMES = ("onnxruntime", "torch")


def fingerprint(recipe: Path, what: What, skills: Path) -> str:
    """Hash a recipe, all the files it names, what is measured, and the program's own code.

    Args:
        recipe: Recipe file.
        what: What the bundle is measured on.
        skills: Skill registry that goes into the bundle.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        RecipeError: The recipe cannot be read.
    """
    digest = hashlib.sha256()
    settings = json.dumps(dataclasses.asdict(what), sort_keys=True)
    digest.update(settings.encode())
    for name in _RUNTIMES:
        digest.update(f"{name} {_version(name)}\n".encode())
    inputs = [recipe, skills, *map(Path, what.datasets), *_named(recipe)]
    inputs += [Path(what.text)] if what.text else []
    for file in (*inputs, *_code()):
        for path in _files(file):
            digest.update(path.name.encode() + b"\0")
            digest.update(file_sha256(path).encode())
    return digest.hexdigest()


def _named(recipe: Path) -> Iterator[Path]:
    """Find the files and folders that a recipe names, wherever in it, relative to itself."""
    try:
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the recipe {recipe}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{recipe} cannot be read: {' '.join(str(error).split())}") from error
    for text in _texts(settings):
        # A file inside a package is named by its package, and pinned by its hash.
        path = recipe.parent / Path(text).expanduser()
        if len(text) < 1000 and "\0" not in text and path.exists() and text not in ("", "."):
            yield path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _code() -> Iterable[Path]:
    root = Path(quant_llm_ros.__file__).parent
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            if room != "report" or path.name in _REPORT:
                yield path


def _files(path: Path) -> list[Path]:
    """Give a file, or the files of a folder that a recipe reads, in a fixed order."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != _STATE)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
