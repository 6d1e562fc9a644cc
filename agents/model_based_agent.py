"""SB3 agents that can't do without a model, and bring one to ``learn`` themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.imagination import ModelBased, Strategy


class ModelBasedAgent(OffPolicyAlgorithm):
    """A mixin that stands before an SB3 agent's class: ``learn`` always runs with a ``ModelBased`` callback.

    The callback is the one passed to ``learn``; or else the one that the agent has from an earlier ``learn`` or was
    loaded with; or else a new one with the agent's default strategy.
    """

    default_strategy: ClassVar[type[Strategy]]
    # The name of the SB3 agent to compare with, which is the same without a model. It gets the arguments that both
    # agents have, except for `not_shared`, which mean something else to it.
    model_free: ClassVar[str]
    not_shared: ClassVar[frozenset[str]] = frozenset()

    model_based: Any  # a ModelBased, from the first learn on

    @property
    def dynamics(self) -> Any:
        """The model; None before the first ``learn``."""
        model_based = getattr(self, "model_based", None)
        return None if model_based is None else model_based.dynamics

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        found = list(model_callbacks(callback))
        if len(found) > 1:
            raise ValueError(f"callback must hold one ModelBased at most, got {len(found)}")
        if not found:
            own = getattr(self, "model_based", None) or ModelBased(type(self).default_strategy())
            callback = in_front_of(callback, own)
        return super()._init_callback(callback, progress_bar)

    @contextmanager
    def _naming_what_is_refused(self) -> Iterator[None]:
        """Turn SB3's assertions about arguments into ValueErrors."""
        try:
            yield
        except AssertionError as error:
            space = getattr(self, "action_space", None)
            is_box = isinstance(space, spaces.Box) and space.is_bounded("both")
            raise ValueError(str(error) if is_box else f"action_space must be a bounded Box, got {space}") from error


def in_front_of(callback: Any, own: ModelBased) -> list[BaseCallback]:
    """Put a ``ModelBased`` in front of the callbacks given to ``learn``."""
    others = callback if isinstance(callback, list) else [callback] if callback is not None else []
    return [own, *(one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in others)]


def model_callbacks(callback: Any) -> Iterator[ModelBased]:
    """Yield every ``ModelBased`` among the callbacks given to ``learn``."""
    if isinstance(callback, ModelBased):
        yield callback
    elif isinstance(callback, CallbackList):
        yield from model_callbacks(callback.callbacks)
    elif isinstance(callback, list):
        for part in callback:
            yield from model_callbacks(part)
