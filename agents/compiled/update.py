"""What the compiled agents share: when to compile, and the loop over a block of updates."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, ReplayBufferSamples, TrainFrequencyUnit
from torch import Tensor, nn

from mbrl_wrappers.agents.compiled.adam import AdamStep
from mbrl_wrappers.imagination.buffer import BufferDecorator

# Compiling takes half a minute on a CPU; an update of small networks or of SB3's default ones gains some 5 ms.
MIN_UPDATES = 10_000


class CompiledAgent(OffPolicyAlgorithm):
    """Runs each gradient update of an SB3 agent as one compiled function.

    To be put in front of the agent's class. The numbers are those of the agent's own ``train`` up to rounding: the
    same batches, the same noise from torch's global generator, the same order of updates. What is saved and logged
    is the same too, so that either class loads the other's files.

    Args:
        *args: the agent's arguments.
        compile: True or False, or ``"auto"``: where the agent can be compiled and ``learn`` is asked for
            enough updates to win back the half minute that compiling takes.
        **kwargs: the agent's arguments.

    Raises:
        ValueError: for another ``compile``; from ``learn`` if it is True and the agent cannot be compiled (another
            optimizer than Adam, gSDE, batch normalisation, a features extractor shared by actor and critic).
    """

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class the signature of the agent that it stands in front of, and ``compile``."""
        super().__init_subclass__(**kwargs)
        plain = next(base for base in cls.__mro__ if not issubclass(base, CompiledAgent))
        compile = inspect.Parameter("compile", inspect.Parameter.KEYWORD_ONLY, default="auto")
        cls.__signature__ = inspect.Signature([*inspect.signature(plain).parameters.values(), compile])

    def __init__(self, *args: Any, compile: bool | Literal["auto"] = "auto", **kwargs: Any) -> None:
        if compile not in (True, False, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', got {compile!r}")
        super().__init__(*args, **kwargs)
        self.compile = compile
        self._is_compiled: bool | None = None
        self._update: Callable[..., Tensor] | None = None
        self._has_updated = False

    # -- what an agent says of itself -------------------------------------------------------------

    @abstractmethod
    def _trained(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by the names of what they train."""

    @abstractmethod
    def _objection(self) -> str | None:
        """Say why the agent cannot be compiled, None if it can."""

    @abstractmethod
    def _make_update(self) -> Callable[..., Tensor]:
        """Return a function of ``(state, batch, *draws)`` that updates in place and returns what is logged."""

    @abstractmethod
    def _make_states(self, count: int) -> list[Any]:
        """Return the tensors that each of the next ``count`` updates reads and writes."""

    def _steps_of(self, name: str, count: int) -> int:
        """Return how many steps an optimizer takes in the next ``count`` updates."""
        return count

    @abstractmethod
    def _draw(self, batch: ReplayBufferSamples, index: int) -> tuple[Any, ...]:
        """Draw the noise of the ``index``-th update of a block, in the order in which SB3 draws it."""

    @abstractmethod
    def _record(self, logged: Tensor) -> None:
        """Log a block's updates, ``[gradient_steps, ...]``, under SB3's keys."""

    # -- training ---------------------------------------------------------------------------------

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any
    ) -> Any:
        # A run that goes on, though for few steps, stays what it was: numbers would differ in their last digits.
        if reset_num_timesteps or self._is_compiled is None:
            self._is_compiled = self._is_to_be_compiled(total_timesteps)
        if not self._is_compiled:
            self._update = None
        elif self._update is None:
            self._update = torch.compile(self._make_update(), fullgraph=True, dynamic=False)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args)

    def _is_to_be_compiled(self, total_timesteps: int) -> bool:
        if self.compile == "auto":
            return self._planned_updates(total_timesteps) >= MIN_UPDATES and self._objection() is None
        if self.compile and (objection := self._objection()):
            raise ValueError(f"compile must be False or 'auto' for this agent, got True: {objection}")
        return bool(self.compile)

    def _planned_updates(self, total_timesteps: int) -> float:
        if self.gradient_steps < 0:  # as many as env steps
            return total_timesteps
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:  # type: ignore[union-attr]
            return 0.0  # how long episodes will be is not known
        steps = self.train_freq.frequency * self.n_envs  # type: ignore[union-attr]
        return total_timesteps / steps * self.gradient_steps

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the networks; see the agent's own ``train``."""
        if self._update is None:
            super().train(gradient_steps, batch_size)
            return
        try:
            logged = self._run(self._update, gradient_steps, batch_size)
        except RuntimeError as error:  # what every failure to compile is
            if self.compile != "auto" or self._has_updated:
                raise
            warnings.warn(f"the update cannot be compiled here and runs as it is: {error}", stacklevel=2)
            self._is_compiled, self._update = False, None
            super().train(gradient_steps, batch_size)
            return
        self._record(logged)

    def _run(self, update: Callable[..., Tensor], gradient_steps: int, batch_size: int) -> Tensor:
        optimizers = self._trained()
        self.policy.set_training_mode(True)
        self._update_learning_rate(list(optimizers.values()))
        states = self._make_states(gradient_steps)
        logged = []
        with torch.no_grad():
            for index, batch in enumerate(self._batches(gradient_steps, batch_size)):
                logged.append(update(states[index], batch, *self._draw(batch, index)))
                self._has_updated = True
        for name, optimizer in optimizers.items():
            AdamStep.count(optimizer, self._steps_of(name, gradient_steps))
        return torch.stack(logged)

    def _batches(self, count: int, batch_size: int) -> Iterable[Any]:
        buffer, env = self.replay_buffer, self._vec_normalize_env
        assert buffer is not None
        if isinstance(buffer, BufferDecorator):
            return buffer.sample_block(batch_size, count, env)
        return (buffer.sample(batch_size, env=env) for _ in range(count))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_update", "_has_updated"]


def common_objection(policy: Any, optimizers: list[torch.optim.Optimizer]) -> str | None:
    """Say what of a policy or its optimizers cannot be compiled, None if all can."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in policy.modules()):
        return "the policy has batch normalisation"
    if policy.share_features_extractor and list(policy.actor.features_extractor.parameters()):
        return "actor and critic share a features extractor"
    return next(filter(None, map(AdamStep.objection, optimizers)), None)
