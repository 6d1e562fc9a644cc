"""Whether an agent's updates run as they are, compiled, or on a GPU captured."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFrequencyUnit

from mbrl_wrappers.acceleration.functional import compiled

Mode = Literal["eager", "captured", "compiled"]
# Recording takes some tenths of a second, and each captured update saves about a hundredth of a second.
MIN_CAPTURED_UPDATES = 100


class AcceleratedUpdates(OffPolicyAlgorithm):
    """A mixin, before SB3's class, that decides how an agent's updates run when ``learn`` begins.

    ``compile`` is True, False or ``"auto"``, which chooses the mode that pays off for the number of updates that
    ``learn`` is asked for, if the agent can be compiled. A run that goes on (``reset_num_timesteps=False``) keeps its
    mode. On a GPU, compiled updates are captured too.
    """

    compiles_on_gpu: ClassVar[bool]

    compile: bool | Literal["auto"]
    _mode: Mode | None = None
    _has_updated = False  # in the current mode
    _compiled_parts: dict[Callable[..., Any], Callable[..., Any]] | None = None

    @abstractmethod
    def _objection(self) -> str | None:
        """Return the reason why the agent's updates can be neither compiled nor captured, or None."""

    @abstractmethod
    def _pays_from(self) -> float:
        """Return the number of updates from which compiling pays on the agent's device."""

    def _constants(self) -> list[Any]:
        """Return the values that a captured graph takes for constants; if one changes, the update is captured anew."""
        return []

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def _is_compiled(self) -> bool:
        return self._mode == "compiled"

    @property
    def _is_captured(self) -> bool:
        return self._on_gpu and self._mode in ("compiled", "captured")

    def _check_compile(self) -> None:
        check_compile(self.compile)  # loading an agent may have set any value
        if self.compile is True and (objection := self._objection()):
            raise ValueError(f"compile must be False or 'auto' for this agent, got True: {objection}")

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self._check_compile()
        # A run that goes on keeps its mode, even for few steps, since results of modes differ in their last digits.
        if self.compile == "auto" and not reset_num_timesteps and self._mode is not None:
            if self._objection():
                self._mode = "eager"
        else:
            way = self._mode_for(total_timesteps, 0 if reset_num_timesteps else self.num_timesteps)
            self._has_updated = self._has_updated and way == self._mode
            self._mode = way
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _mode_for(self, total_timesteps: int, steps_done: int) -> Mode:
        compiles = self.compiles_on_gpu or not self._on_gpu
        if self.compile is True:
            return "compiled" if compiles else "captured"
        if self.compile is False or self._objection():
            return "eager"
        planned = self._planned_updates(total_timesteps, steps_done)
        if compiles and planned >= self._pays_from():
            return "compiled"
        return "captured" if self._on_gpu and planned >= MIN_CAPTURED_UPDATES else "eager"

    def _planned_updates(self, total_timesteps: int, steps_done: int) -> float:
        steps = max(0, total_timesteps - max(0, self.learning_starts - steps_done))
        if self.gradient_steps < 0:  # as many as env steps
            return steps
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:  # type: ignore[union-attr]
            return 0.0  # how long episodes will be is not known
        return steps / (self.train_freq.frequency * self.n_envs) * self.gradient_steps  # type: ignore[union-attr]

    def _part(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of this class as a function without ``self``, compiled if updates are.

        Args:
            function: the method, a part of updates that changes nothing in place.
        """
        if not self._is_compiled:
            return partial(function, self)
        if self._compiled_parts is None:
            self._compiled_parts = {}
        if function not in self._compiled_parts:
            self._compiled_parts[function] = compiled(function)
        return partial(self._compiled_parts[function], self)

    def _fall_back(self, error: Exception) -> None:
        """Fall back to a simpler mode if an error comes before the first update is done; otherwise raise it.

        Failures to compile have no exception class in common; an error of another kind will be raised again.
        """
        if self.compile != "auto" or self._has_updated or self._mode in (None, "eager"):
            raise error
        plainer: Mode = "captured" if self._mode == "compiled" and self._on_gpu else "eager"
        how = "captured" if plainer == "captured" else "in eager mode"
        warnings.warn(f"updates cannot be {self._mode} here and go on {how}: {error}", stacklevel=3)
        self._mode = plainer

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_has_updated", "_compiled_parts"]


def check_compile(value: Any) -> None:
    """Refuse an invalid value of ``compile``."""
    if not isinstance(value, bool) and value != "auto":
        raise ValueError(f"compile must be True, False or 'auto', got {value!r}")
