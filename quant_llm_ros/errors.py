"""Errors of the package: each says what happened, to which file or value, and what to do."""

from __future__ import annotations


class QuantLlmError(Exception):
    """Base of every error that a user of this package is expected to meet."""


class BundleError(QuantLlmError):
    """A bundle is missing, damaged, of another version, or made for other skills."""


class CheckpointError(QuantLlmError):
    """A model checkpoint is missing, damaged or of an unsupported architecture."""


class RecipeError(QuantLlmError):
    """A quantization recipe names something unknown or impossible."""


class SkillsError(QuantLlmError):
    """A skill registry file is malformed."""


class DatasetError(QuantLlmError):
    """A dataset file has a row that cannot be read."""


class EngineError(QuantLlmError):
    """An engine could not be loaded or could not run."""


class DeviceError(EngineError):
    """The GPU, its driver or its libraries are missing, too old, or failed."""


class DeviceMemoryError(DeviceError):
    """The GPU has not enough memory."""


class EngineFileError(EngineError):
    """A compiled engine is missing, damaged, or made for another GPU, runtime or model."""


class ContextOverflowError(EngineError):
    """The prompt and the answer do not fit into the model's context."""


class CommandError(QuantLlmError):
    """A command cannot be processed as given, for example because it is too long."""


class RecordingError(QuantLlmError):
    """A recording cannot be read, or has nothing that was asked for."""
