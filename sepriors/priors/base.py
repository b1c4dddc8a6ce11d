"""Networks describe themselves: one function makes any of them from its file."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Self, get_args, get_type_hints

import torch
from torch import nn

from sepriors.weights import Weights


class Configured(nn.Module):
    """A network that keeps each argument of its constructor under the argument's own name.

    So `config` can read them, and `from_config` make the network again. Arguments are numbers, text, tuples, frozen
    dataclasses (a transform) and networks of this kind; `fast` says how a machine computes, and stays out.
    """

    @classmethod
    def _choices(cls) -> dict[str, Any]:
        """The constructor's arguments and what they are annotated with."""
        hints = get_type_hints(cls.__init__)
        return {name: kind for name, kind in hints.items() if name not in ("return", "fast")}

    @property
    def config(self) -> dict[str, Any]:
        """Its family and the arguments that it was made with, as JSON knows them."""
        return {"family": type(self).__name__.lower()} | {name: _plain(getattr(self, name)) for name in self._choices()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The network of a `config`, its parameters as they are before training; KeyError where an argument lacks."""
        return cls(**{name: _typed(config[name], kind) for name, kind in cls._choices().items()})

    @classmethod
    def from_weights(cls, found: Weights) -> Self:
        """The network of a file, in single precision."""
        made = cls.from_config(found.config)
        made.load_tensors({name: tensor.float() for name, tensor in found.tensors.items()})
        return made

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its parameters as a file has them."""
        return self.state_dict()

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the parameters of a file."""
        self.load_state_dict(tensors)


def _plain(value: Any) -> Any:
    if isinstance(value, Configured):
        return value.config
    if isinstance(value, tuple):
        return list(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _typed(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    kind = (*get_args(kind), kind)[0]  # of `SSL | None`, SSL
    return kind.from_config(value) if issubclass(kind, Configured) else kind(**value)
