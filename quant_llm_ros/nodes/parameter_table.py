"""The parameters of a node as a table of specifications, kept valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import difflib
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from quant_llm_ros.errors import QuantLlmError

SettingsT = TypeVar("SettingsT")


_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a double",
    bool: "true or false",
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What one parameter may be.

    Attributes:
        name: Its name, with the unit where it has one.
        default: Value when none is given; its type is the parameter's.
        description: What it does, for ``ros2 param describe``.
        low: Smallest value of a number.
        high: Largest value of a number.
        loading: It takes part in loading the model, so it can only change before that.
        read_only: It is read once when the process starts.
    """

    name: str
    default: str | int | float | bool
    description: str
    low: float = 0
    high: float = 0
    loading: bool = False
    read_only: bool = False

    @property
    def is_number(self) -> bool:
        """Whether the parameter has a range."""
        return isinstance(self.default, (int, float)) and not isinstance(self.default, bool)

    def descriptor(self) -> ParameterDescriptor:
        """Give the ROS description, with the range."""
        descriptor = ParameterDescriptor(description=self.description, read_only=self.read_only)
        if self.loading:
            descriptor.additional_constraints = "can be set while the node is unconfigured"
        if self.is_number and isinstance(self.default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
            ]
        elif self.is_number:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
            ]
        return descriptor

    def accept(self, value: Any) -> Any:
        """Check a value given before the start.

        Args:
            value: The value as it was read from a file or the command line.

        Returns:
            The value in the parameter's type: a whole number is welcome where a double is wanted.

        Raises:
            QuantLlmError: Its type or size is wrong.
        """
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        right_type = type(value) is type(self.default)
        if not right_type or (self.is_number and not self.low <= value <= self.high):
            limits = (
                f" from {_written(self.low)} to {_written(self.high)}" if self.is_number else ""
            )
            raise QuantLlmError(
                f"parameter '{self.name}' is {value!r}; "
                f"expected {_TYPE_NAMES[type(self.default)]}{limits}"
            )
        return value


@dataclasses.dataclass(frozen=True)
class ChoiceSpec(Spec):
    """A string parameter with few possible values.

    Attributes:
        choices: The values.
    """

    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Give the ROS description, with the choices."""
        descriptor = super().descriptor()
        constraint = f"one of {', '.join(self.choices)}"
        if descriptor.additional_constraints:
            constraint = f"{constraint}; {descriptor.additional_constraints}"
        descriptor.additional_constraints = constraint
        return descriptor

    def accept(self, value: Any) -> Any:
        """Check a value; see ``Spec.accept``."""
        value = super().accept(value)
        if value not in self.choices:
            raise QuantLlmError(
                f"parameter '{self.name}' is {value!r}; expected one of {', '.join(self.choices)}"
            )
        return value


def _written(limit: float) -> str:
    return str(int(limit)) if float(limit).is_integer() else f"{limit:g}"


class ParameterTable(Generic[SettingsT]):
    """Declares the parameters of a node and keeps its settings valid.

    A value that cannot be used never ends the node: one from a file or the command line is
    reported and kept for ``require_valid``; one that comes at run time is refused with the reason.

    Attributes:
        settings: The values now; replaced as a whole at every change.
    """

    def __init__(
        self,
        node: Node,
        specs: Sequence[Spec],
        make: Callable[..., SettingsT],
        *,
        is_loaded: Callable[[], bool] = lambda: False,
        on_change: Callable[[SettingsT], None] = lambda settings: None,
    ) -> None:
        """Declare all parameters with their overrides.

        Args:
            node: The node to declare them on.
            specs: What each may be.
            make: Makes the settings of all values by name.
            is_loaded: Whether the node is past the state in which loading parameters may change.
            on_change: Told the new settings after a change at run time.
        """
        self._node = node
        self._specs = {spec.name: spec for spec in specs}
        self._make = make
        self._is_loaded = is_loaded
        self._on_change = on_change
        self._problems: dict[str, str] = {}
        self._adopting: dict[str, Any] = {}
        # The only way to see an override before it is declared, on Humble to Kilted: declaring it
        # raises for a wrong value, which would end the process, and a misspelt one stays unseen.
        overrides: dict[str, Any] = getattr(node, "_parameter_overrides", {})
        self._values = {spec.name: self._declare(spec, overrides.get(spec.name)) for spec in specs}
        self.settings = make(**self._values)
        self._warn_of_unknown(overrides)
        node.add_on_set_parameters_callback(self._on_set)

    def require_valid(self, *, read_only: bool = False) -> None:
        """Check that no parameter was given an unusable value and not corrected since.

        Args:
            read_only: Those too that can only be corrected by a new start.

        Raises:
            QuantLlmError: Names the parameters and what is wrong with them.
        """
        problems = [
            problem
            for name, problem in self._problems.items()
            if read_only or not self._specs[name].read_only
        ]
        if problems:
            raise QuantLlmError("; ".join(problems))

    def adopt(self, **values: Any) -> None:
        """Take over values of loading parameters that the node itself has put into effect."""
        self._adopting = values
        try:
            self._node.set_parameters_atomically(
                [Parameter(name, value=value) for name, value in values.items()]
            )
        finally:
            self._adopting = {}

    def _declare(self, spec: Spec, override: Parameter | None) -> Any:
        value: Any = spec.default
        if override is not None and override.type_ != Parameter.Type.NOT_SET:
            try:
                value = spec.accept(override.value)
            except QuantLlmError as error:
                self._node.get_logger().error(str(error))
                self._problems[spec.name] = str(error)
        self._node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
        return value

    def _warn_of_unknown(self, overrides: dict[str, Any]) -> None:
        # Only a warning: a file may set common parameters for many nodes at once.
        for name in overrides:
            if self._node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            near = difflib.get_close_matches(name, list(self._specs), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self._node.get_logger().warning(
                f"parameter '{name}' is unknown and has no effect{hint}"
            )

    def _on_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        # Types, ranges and read-only are checked by rclpy, from the descriptors, before this.
        ours = {p.name: p.value for p in parameters if p.name in self._specs}
        for name in ours:
            if self._specs[name].loading and self._is_loaded() and ours != self._adopting:
                return SetParametersResult(
                    successful=False,
                    reason=f"'{name}' can only change while the node is unconfigured; deactivate "
                    "it and clean it up first",
                )
        if ours:
            try:
                values = {**self._values, **{n: self._specs[n].accept(v) for n, v in ours.items()}}
                changed = self._make(**values)
                self._on_change(changed)
            except (QuantLlmError, ValueError, ParameterException) as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._values, self.settings = values, changed
            for name in ours:
                self._problems.pop(name, None)
        return SetParametersResult(successful=True)
