"""Whether an agent's updates run as they are, compiled, or on a GPU recorded."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar, Literal

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFrequencyUnit

Way = Literal["as they are", "recorded", "compiled"]
# Recording takes some tenths of a second, and each update gains a hundredth.
MIN_RECORDED_UPDATES = 100


class Compilable(OffPolicyAlgorithm):
    """An agent that decides when ``learn`` begins how its updates run; to be put in front of SB3's class.

    Its ``compile`` is True or False, or ``"auto"``: what pays for as many updates as ``learn`` is asked for, where the
    agent can be compiled; a run that goes on (``reset_num_timesteps=False``) stays as it was. On a GPU updates that
    are compiled are recorded too.
    """

    compiles_on_gpu: ClassVar[bool]

    compile: bool | Literal["auto"]
    _way: Way | None = None
    _has_updated = False  # in that way

    @abstractmethod
    def _objection(self) -> str | None:
        """Say why the agent's updates can be neither compiled nor recorded, None if they can."""

    @abstractmethod
    def _pays_from(self) -> float:
        """Return the number of updates from which compiling pays on the agent's device."""

    def _constants(self) -> list[Any]:
        """Return what a recording takes for constant, to be compared: it is made anew where that has changed."""
        return []

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def _is_compiled(self) -> bool:
        return self._way == "compiled"

    @property
    def _is_recorded(self) -> bool:
        return self._on_gpu and self._way in ("compiled", "recorded")

    def _check_compile(self) -> None:
        check_compile(self.compile)  # loading sets whatever it is given
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
        # A run that goes on, though for few steps, stays what it was: numbers would differ in their last digits.
        if self.compile == "auto" and not reset_num_timesteps and self._way is not None:
            if self._objection():
                self._way = "as they are"
        else:
            way = self._way_for(total_timesteps, 0 if reset_num_timesteps else self.num_timesteps)
            self._has_updated = self._has_updated and way == self._way
            self._way = way
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _way_for(self, total_timesteps: int, steps_done: int) -> Way:
        compiles = self.compiles_on_gpu or not self._on_gpu
        if self.compile is True:
            return "compiled" if compiles else "recorded"
        if self.compile is False or self._objection():
            return "as they are"
        planned = self._planned_updates(total_timesteps, steps_done)
        if compiles and planned >= self._pays_from():
            return "compiled"
        return "recorded" if self._on_gpu and planned >= MIN_RECORDED_UPDATES else "as they are"

    def _planned_updates(self, total_timesteps: int, steps_done: int) -> float:
        steps = max(0, total_timesteps - max(0, self.learning_starts - steps_done))
        if self.gradient_steps < 0:  # as many as env steps
            return steps
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:  # type: ignore[union-attr]
            return 0.0  # how long episodes will be is not known
        return steps / (self.train_freq.frequency * self.n_envs) * self.gradient_steps  # type: ignore[union-attr]

    def _fall_back(self, error: Exception) -> None:
        """Go on in a plainer way after an error before the first update is done, or raise it.

        Failures to compile have no class in common; an error of another kind comes again.
        """
        if self.compile != "auto" or self._has_updated or self._way in (None, "as they are"):
            raise error
        plainer: Way = "recorded" if self._way == "compiled" and self._on_gpu else "as they are"
        warnings.warn(f"updates cannot be {self._way} here and go on {plainer}: {error}", stacklevel=3)
        self._way = plainer

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_has_updated"]


def check_compile(value: Any) -> None:
    """Refuse what ``compile`` can't be."""
    if not isinstance(value, bool) and value != "auto":
        raise ValueError(f"compile must be True, False or 'auto', got {value!r}")
