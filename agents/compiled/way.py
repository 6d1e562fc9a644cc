"""Whether an agent's updates run as they are, compiled, or on a GPU recorded."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFrequencyUnit

Way = Literal["as it is", "recorded", "compiled"]
# Recording takes some tenths of a second, and each update gains a hundredth.
MIN_RECORDED_UPDATES = 100


class Compilable(OffPolicyAlgorithm):
    """An agent that decides when ``learn`` begins how its updates run; to be put in front of SB3's class.

    Its ``compile`` is True or False, or ``"auto"``: what pays for as many updates as ``learn`` is asked for, of what
    the agent allows; a run that goes on (``reset_num_timesteps=False``) stays as it was. On a GPU compiled updates are
    recorded too.
    """

    # Updates from which compiling pays, on a CPU and on a GPU.
    min_updates: ClassVar[tuple[int, int]]

    compile: bool | Literal["auto"]
    _way: Way | None = None

    @abstractmethod
    def _objection_to(self, way: Way) -> str | None:
        """Say why the agent's updates can't be compiled or recorded, None if they can."""

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
        if self.compile is True and (objection := self._objection_to("compiled")):
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
            if self._way != "as it is" and self._objection_to(self._way):
                self._way = "as it is"
        else:
            self._way = self._way_for(total_timesteps, 0 if reset_num_timesteps else self.num_timesteps)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _stay_as_it_is(self) -> None:
        self._way = "as it is"

    def _way_for(self, total_timesteps: int, steps_done: int) -> Way:
        if self.compile != "auto":
            return "compiled" if self.compile else "as it is"
        planned = self._planned_updates(total_timesteps, steps_done)
        pays: dict[Way, int] = {"compiled": self.min_updates[self._on_gpu]}
        if self._on_gpu:
            pays["recorded"] = MIN_RECORDED_UPDATES
        ways = (way for way, least in pays.items() if planned >= least and self._objection_to(way) is None)
        return next(ways, "as it is")

    def _planned_updates(self, total_timesteps: int, steps_done: int) -> float:
        steps = max(0, total_timesteps - max(0, self.learning_starts - steps_done))
        if self.gradient_steps < 0:  # as many as env steps
            return steps
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:  # type: ignore[union-attr]
            return 0.0  # how long episodes will be is not known
        return steps / (self.train_freq.frequency * self.n_envs) * self.gradient_steps  # type: ignore[union-attr]


def check_compile(value: Any) -> None:
    """Refuse what ``compile`` can't be."""
    if value not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto', got {value!r}")
