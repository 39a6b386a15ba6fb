"""Bundles: a folder with a model, all that belongs to it, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import os
from pathlib import Path, PurePosixPath
import types
from typing import Any, TypeVar

import yaml

from quant_llm_ros.errors import BundleError

FORMAT_VERSION = 1
DESCRIPTION = "bundle.yaml"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"
TOKENIZER = "tokenizer.json"
SKILLS = "skills.yaml"
REFERENCE = "reference.npz"
DRAFTER = "drafter.json"
"""What the drafter has learned for the bundle's skills; a bundle may be without it."""
REQUIRED_FILES = (MODEL, MODEL_DATA, TOKENIZER, SKILLS, REFERENCE)

PROMPT_EXAMPLES = ("always", "other", "never")
"""When a prompt shows the examples of the skills: ``always``, as a model needs that was not
fine-tuned for the task; with ``other`` skills than the bundle's own, which it was fine-tuned for;
``never``."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What the model of a bundle is.

    Attributes:
        source: Checkpoint that it was made from, for people.
        source_sha256: Hash of that checkpoint.
        license: SPDX name of the weights' licence, or ``unknown``.
        architecture: ``llama``, ``qwen2``, ``qwen3`` or ``gemma3``.
        parameters: Number of weights, a tied embedding counted once.
        layers: Number of transformer blocks.
        hidden_size: Features of a token between the layers.
        attention_heads: Query heads.
        key_value_heads: Key and value heads.
        head_dim: Features of a head.
        rope_thetas: Base of the rotary embedding, for each layer.
        vocab_size: Number of tokens.
        context_length: Most tokens in the cache.
        bos_token_id: Token that every text begins with, or None.
        eos_token_id: Token that ends an answer.
        chat_template: ``chatml``, ``other`` or ``none``.
    """

    source: str
    source_sha256: str
    license: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    rope_thetas: tuple[float, ...]
    vocab_size: int
    context_length: int
    bos_token_id: int | None
    eos_token_id: int
    chat_template: str


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """What a file of a bundle must be.

    Attributes:
        sha256: Hash of its content, in hexadecimal.
        bytes: Its size.
    """

    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose description has been read and checked.

    Attributes:
        path: The folder.
        name: Name that its recipe gave it.
        format_version: Of the folder's layout, :data:`FORMAT_VERSION`.
        created: Time it was built, ISO 8601 with a time zone.
        generator: Program that built it.
        model: What the model is.
        target: Kind of graph: ``ort``.
        recipe: The recipe as it was run.
        prompt_examples: When the prompt shows the skills' examples, one of
            :data:`PROMPT_EXAMPLES`.
        skills_fixed: The model was made for exactly the bundle's ``skills.yaml``.
        files: What each file must be, by name.
        figures: What was measured while building, by name.
        temperature: What calibrates the confidence of answers; 1 where it was not measured.
        sha256: Hash of ``bundle.yaml``, and so, through the hashes in it, of everything.
    """

    path: Path
    name: str
    format_version: int
    created: str
    generator: str
    model: ModelInfo
    target: str
    recipe: Mapping[str, Any]
    prompt_examples: str
    skills_fixed: bool
    files: Mapping[str, FileInfo]
    figures: Mapping[str, float]
    temperature: float
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Size of all files together, without ``bundle.yaml``."""
        return sum(info.bytes for info in self.files.values())

    @property
    def weight_bytes(self) -> int:
        """Size of the graph and its weights, which each pass of the model reads."""
        return sum(info.bytes for name, info in self.files.items() if name.startswith(MODEL))

    def shows_examples(self, skills_sha256: str) -> bool:
        """Tell whether the prompt of a registry shows its examples.

        Args:
            skills_sha256: Hash of the registry's file.
        """
        own = skills_sha256 == self.files[SKILLS].sha256
        return {"always": True, "other": not own, "never": False}[self.prompt_examples]

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files.

        Raises:
            BundleError: The bundle lists no such file.
        """
        if name not in self.files:
            raise BundleError(f"{self.path / DESCRIPTION} lists no file {name}")
        return self.path / name

    @classmethod
    def load(cls, path: Path | str, *, verify: bool = True) -> Bundle:
        """Read a bundle's description and check its files.

        Args:
            path: The folder.
            verify: Compute and compare the files' hashes too. Without it only their presence
                and size are checked.

        Returns:
            The bundle.

        Raises:
            BundleError: Something is missing, damaged or of another version.
        """
        path = Path(path)
        description = path / DESCRIPTION
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise BundleError(
                f"the bundle {path} {what}; build it with `make bundle` or `quant_llm quantize`"
            )
        try:
            content = description.read_bytes()
        except FileNotFoundError:
            raise BundleError(f"{path} is no bundle: it has no {DESCRIPTION}") from None
        except OSError as error:
            raise BundleError(f"{description} cannot be read: {error.strerror}") from error
        try:
            fields = yaml.safe_load(content.decode("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BundleError(
                f"{description} is not valid YAML ({reason}); rebuild the bundle"
            ) from error
        bundle = _parse(path, fields, hashlib.sha256(content).hexdigest())
        for name, info in bundle.files.items():
            _check_file(path, name, info, verify)
        return bundle


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def add_figures(path: Path, figures: Mapping[str, float], *, temperature: float) -> Bundle:
    """Write figures that were measured on a finished bundle into its description.

    Args:
        path: Folder of the bundle.
        figures: Figures to add or replace.
        temperature: What calibrates the confidence of answers.

    Raises:
        BundleError: The bundle is damaged or cannot be written.
    """
    fields = _description_fields(path)
    fields["figures"].update(figures)
    fields["temperature"] = float(temperature)
    _replace_description(path, fields)
    return Bundle.load(path)


def add_file(path: Path, name: str, content: bytes) -> Bundle:
    """Add a file to a finished bundle, or replace one that was added before.

    Args:
        path: Folder of the bundle.
        name: Name of the file.
        content: What it holds.

    Raises:
        BundleError: The bundle is damaged or cannot be written.
    """
    fields = _description_fields(path)
    fields["files"][name] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    try:
        (path / name).write_bytes(content)
    except OSError as error:
        raise BundleError(f"{path / name} cannot be written: {error.strerror}") from error
    _replace_description(path, fields)
    return Bundle.load(path)


def _description_fields(path: Path) -> dict[str, Any]:
    """Read a description that is known to be in order, to change it."""
    Bundle.load(path, verify=False)
    fields: dict[str, Any] = yaml.safe_load((path / DESCRIPTION).read_bytes())
    return fields


def _replace_description(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a description as a whole or not at all."""
    description = path / DESCRIPTION
    staged = path / f"{DESCRIPTION}.part"
    try:
        staged.write_text(
            yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        os.replace(staged, description)
    except OSError as error:
        raise BundleError(f"{description} cannot be written: {error.strerror}") from error


def _parse(path: Path, fields: Any, sha256: str) -> Bundle:
    """Check a description's structure, types included."""
    description = path / DESCRIPTION
    if not isinstance(fields, dict):
        raise BundleError(f"{description} does not hold a mapping; rebuild the bundle")
    version = _get(description, fields, "format_version", int)
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{description} has format_version {version}, this program reads "
            f"{FORMAT_VERSION}; rebuild the bundle with this version"
        )
    model_fields = _get(description, fields, "model", dict)
    model: dict[str, Any] = {}
    for field in dataclasses.fields(ModelInfo):
        if field.name == "rope_thetas":
            bases = _get(description, model_fields, field.name, list, "model.")
            if not all(isinstance(base, float) and base > 1.0 for base in bases):
                raise BundleError(
                    f"{description}: model.rope_thetas is {bases!r}, expected numbers above 1; "
                    "rebuild the bundle"
                )
            if len(bases) != model["layers"]:
                raise BundleError(
                    f"{description}: model.rope_thetas has {len(bases)} numbers for "
                    f"{model['layers']} layers; rebuild the bundle"
                )
            model[field.name] = tuple(bases)
            continue
        if field.name == "bos_token_id" and model_fields.get("bos_token_id", "") is None:
            model[field.name] = None
            continue
        kind = str if field.type == "str" else int
        model[field.name] = _get(description, model_fields, field.name, kind, "model.")
    files = {}
    for name, info in _get(description, fields, "files", dict).items():
        _check_name(description, name)
        if not isinstance(info, dict):
            raise BundleError(f"{description}: files.{name} is not a mapping; rebuild the bundle")
        files[name] = FileInfo(
            _get(description, info, "sha256", str, f"files.{name}."),
            _get(description, info, "bytes", int, f"files.{name}."),
        )
    for name in REQUIRED_FILES:
        if name not in files:
            raise BundleError(f"{description}: files.{name} is missing; rebuild the bundle")
    prompt = _get(description, fields, "prompt", dict)
    examples = _get(description, prompt, "examples", str, "prompt.")
    if examples not in PROMPT_EXAMPLES:
        raise BundleError(
            f"{description}: prompt.examples is {examples!r}, expected one of "
            f"{', '.join(PROMPT_EXAMPLES)}; rebuild the bundle"
        )
    temperature = fields.get("temperature", 1.0)
    if not isinstance(temperature, float) or not 0.0 < temperature < 100.0:
        raise BundleError(
            f"{description}: temperature is {temperature!r}, expected a number above 0; rebuild "
            "the bundle"
        )
    skills = _get(description, fields, "skills", dict)
    return Bundle(
        path=path,
        name=_get(description, fields, "name", str),
        format_version=version,
        created=_get(description, fields, "created", str),
        generator=_get(description, fields, "generator", str),
        model=ModelInfo(**model),
        target=_get(description, fields, "target", str),
        recipe=types.MappingProxyType(_get(description, fields, "recipe", dict)),
        prompt_examples=examples,
        skills_fixed=_get(description, skills, "fixed", bool, "skills."),
        files=types.MappingProxyType(files),
        figures=types.MappingProxyType(_get(description, fields, "figures", dict)),
        temperature=temperature,
        sha256=sha256,
    )


def _get(
    description: Path, fields: Mapping[str, Any], key: str, kind: type[_T], prefix: str = ""
) -> _T:
    """Get a value that must be there and of a type."""
    if key not in fields:
        raise BundleError(f"{description}: {prefix}{key} is missing; rebuild the bundle")
    value = fields[key]
    # In Python a bool is an int; in YAML `yes` is no number.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(
            f"{description}: {prefix}{key} is {value!r}, expected {kind.__name__}; "
            f"rebuild the bundle"
        )
    return value


def _check_name(description: Path, name: object) -> None:
    """Refuse a file name that leads out of the bundle."""
    parts = PurePosixPath(str(name)).parts
    if not isinstance(name, str) or not parts or parts[0] == "/" or ".." in parts or "\\" in name:
        raise BundleError(
            f"{description}: the file name {name!r} leaves the bundle; do not use this bundle"
        )


def _check_file(path: Path, name: str, info: FileInfo, verify: bool) -> None:
    """Check that a file is there, is no link out of the bundle, and has its size and hash."""
    file = path / name
    if not file.is_file():
        raise BundleError(f"{path}: {name} is missing; rebuild the bundle or restore the file")
    if not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{path}: {name} is a link out of the bundle; put the file itself there")
    size = file.stat().st_size
    if size != info.bytes:
        raise BundleError(
            f"{path / DESCRIPTION}: {name} has {size} bytes, expected {info.bytes}; "
            f"rebuild the bundle or restore the file"
        )
    if not verify:
        return
    try:
        sha256 = file_sha256(file)
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    if sha256 != info.sha256:
        raise BundleError(
            f"{path / DESCRIPTION}: {name} has sha256 {sha256[:12]}…, expected "
            f"{info.sha256[:12]}…; rebuild the bundle or restore the file"
        )
