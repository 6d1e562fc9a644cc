"""The base of the compiled agents: the loop over a block of updates, each of which is one function."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mbrl_wrappers.acceleration.adam import AdamStep, FusedAdamStep
from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture, objection_to_capture
from mbrl_wrappers.acceleration.functional import compiled
from mbrl_wrappers.agents.update_mode import AcceleratedUpdates, check_compile
from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.imagination.buffer import draw_batches


class CompiledAgent(AcceleratedUpdates):
    """Runs each gradient update of an SB3 agent as one compiled function, or one CUDA graph.

    A mixin that stands before the agent's class. Results are the same as of the agent's own ``train``, up to rounding:
    the same batches, the same noise from torch's global generator, the same order of updates. Weights and optimizers
    are saved as SB3 saves them, so that either class loads the other's files; values are logged under the same keys.
    Weight decay also changes parameters that no forward pass uses, which torch's optimizers leave alone.

    Args:
        *args: the agent's arguments.
        compile: True, False or ``"auto"``: True if the agent can be compiled and ``learn`` is asked for enough
            updates to win back the half minute that compiling takes. A run that goes on
            (``reset_num_timesteps=False``) keeps its mode. On a GPU a compiled update is captured too, as one CUDA
            graph, and ``"auto"`` captures updates that it does not compile in all but the shortest runs, which takes
            some tenths of a second. If compiling fails, ``"auto"`` warns and captures only; if capturing fails, it
            trains as SB3 does, though with later random numbers, since the attempts have drawn some.
        **kwargs: the agent's arguments.

    Raises:
        ValueError: for another ``compile``; from ``learn`` if it is True and the agent cannot be compiled: another
            optimizer than Adam, frozen parameters, hooks, gSDE, Dropout, buffers (batch normalisation), an actor or
            critic of one's own, or a features extractor that actor and critic share.
    """

    compiles_on_gpu = True

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class the signature of the SB3 agent, with ``compile`` added."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            return
        plain = next(base for base in cls.__mro__ if not issubclass(base, AcceleratedUpdates))
        compile = inspect.Parameter("compile", inspect.Parameter.KEYWORD_ONLY, default="auto")
        cls.__signature__ = inspect.Signature([*inspect.signature(plain).parameters.values(), compile])

    def __init__(self, *args: Any, compile: bool | Literal["auto"] = "auto", **kwargs: Any) -> None:
        check_compile(compile)
        check_device("device", kwargs.get("device", "auto"))
        super().__init__(*args, **kwargs)
        self.compile = compile
        self._built: Callable[..., Tensor] | None = None
        self._built_with: Any = None
        self._capture: GraphCapture | None = None

    # -- what a subclass defines ------------------------------------------------------------------

    @abstractmethod
    def _trained(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by the names of the networks that they train."""

    @abstractmethod
    def _objection_of_kind(self) -> str | None:
        """Return the reason why an agent of this kind can't be compiled, or None."""

    @abstractmethod
    def _make_update(self) -> Callable[..., Tensor]:
        """Return a function of ``(state, schedule, settings, batch, noise, is_due)`` that updates in place.

        ``schedule`` holds for each optimizer its row of :meth:`AdamStep.schedule`. The function returns the numbers to
        log.
        """

    @abstractmethod
    def _state(self) -> Any:
        """Return the tensors that updates read and write."""

    @abstractmethod
    def _settings(self) -> Any:
        """Return the agent's hyperparameters as tensors, so that a change of them needs no recompilation."""

    def _steps_of(self, name: str, count: int) -> int:
        """Return how many steps an optimizer takes in the next ``count`` updates."""
        return count

    @abstractmethod
    def _draw(self, batch: ReplayBufferSamples) -> Any:
        """Draw the noise of an update, in the order in which SB3 draws it."""

    @abstractmethod
    def _is_due(self, index: int) -> bool:
        """Tell whether the ``index``-th update of a block does its delayed part, such as moving the target network."""

    @abstractmethod
    def _record(self, logged: Tensor) -> None:
        """Log a block's updates, ``[gradient_steps, ...]``, under SB3's keys."""

    # -- training ---------------------------------------------------------------------------------

    def _objection(self) -> str | None:
        return (objection_to_capture(self.device) if self._on_gpu else None) or self._objection_of_kind()

    def _pays_from(self) -> float:
        if not self._on_gpu:
            return 10_000  # compiling takes half a minute and saves some 5 ms an update
        collected = self.train_freq.frequency * self.n_envs  # type: ignore[union-attr]
        block = self.gradient_steps if self.gradient_steps >= 0 else collected
        # Compiling saves 0.15 to 0.35 ms an update, and nothing if updates come one by one and wait for the CPU.
        return 200_000 if block > 1 else math.inf

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the networks; see the agent's own ``train``."""
        while gradient_steps and (self._is_compiled or self._is_captured):
            try:
                self._record(self._run(self._built_update(), gradient_steps, batch_size))
                return
            except Exception as error:
                self._fall_back(error)
        super().train(gradient_steps, batch_size)

    def _built_update(self) -> Callable[..., Tensor]:
        """Return the function of an update, a new one if a constant that is built into it has changed."""
        built_with: dict[str, Any] = {name: AdamStep.constants(o) for name, o in self._trained().items()}
        built_with["mode"] = self._mode
        if self._is_captured:
            built_with["constants"] = self._constants()
        if self._built is None or self._built_with != built_with:
            update = self._make_update()
            self._capture = GraphCapture(self.device) if self._is_captured else None
            self._built = compiled(update) if self._is_compiled else update
            self._built_with = built_with
        return self._built

    @property
    def _adam(self) -> type[AdamStep]:
        return AdamStep if self._is_compiled else FusedAdamStep

    def _adam_steps(self) -> dict[str, AdamStep]:
        """Return a step of each optimizer."""
        return {name: self._adam(optimizer) for name, optimizer in self._trained().items()}

    def _run(self, update: Callable[..., Tensor], gradient_steps: int, batch_size: int) -> Tensor:
        optimizers = self._trained()
        self.policy.set_training_mode(True)
        self._update_learning_rate(list(optimizers.values()))
        state, settings = self._state(), self._settings()
        # One row more than steps: an update that skips an optimizer still gets its next row, but doesn't read it.
        rows = {
            name: self._adam.schedule(o, self._steps_of(name, gradient_steps) + 1) for name, o in optimizers.items()
        }

        def drawn(schedule: dict[str, Tensor], settings: Any, batch: Any, is_due: bool) -> Tensor:
            return update(state, schedule, settings, batch, self._draw(batch), is_due)

        take = drawn
        if self._capture is not None:
            take = self._capture.captured(drawn, [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)])
        logged: list[Tensor] = []
        try:
            with torch.no_grad():
                batches = draw_batches(self.replay_buffer, batch_size, gradient_steps, self._vec_normalize_env)
                for index, batch in enumerate(batches):
                    schedule = {name: of_steps[self._steps_of(name, index)] for name, of_steps in rows.items()}
                    logged.append(take(schedule, settings, batch, self._is_due(index)))
                    self._has_updated = True
        finally:  # also after an interrupt, optimizers must have counted the steps that the weights have made
            for name, optimizer in optimizers.items():
                AdamStep.count(optimizer, self._steps_of(name, len(logged)))
        return torch.stack(logged)

    def _number(self, value: Any) -> Tensor:
        """Return a number as a tensor of the networks' dtype and device."""
        like = next(self.policy.parameters())
        return torch.as_tensor(value, dtype=like.dtype).to(like.device, non_blocking=True)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_built", "_built_with", "_capture"]


def logged_values(values: Iterable[Tensor]) -> Tensor:
    """Return losses side by side; an agent's coefficient may be of another dtype than its networks."""
    first, *others = values
    return torch.stack([first, *(value.to(first) for value in others)])


def common_objection(policy: Any, networks: Mapping[str, tuple[type, ...]], optimizers: Iterable[Any]) -> str | None:
    """Return the reason why a policy or its optimizers can't be compiled, None if they can.

    Args:
        policy: the agent's.
        networks: the classes that each named network of the policy may have; a subclass may behave differently.
        optimizers: the agent's.
    """
    for name, kinds in networks.items():
        network = getattr(policy, name)
        if type(network) not in kinds:
            return f"the {name} is a {type(network).__name__}"
        if any(True for _ in network.buffers()):
            return f"the {name} has buffers, which a forward pass may change"
        if network._forward_hooks or network._forward_pre_hooks or network._backward_hooks:
            return f"the {name} has hooks"
    if any(isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU) for module in policy.modules()):
        return "the policy has Dropout or other noise"
    if policy.share_features_extractor and list(policy.actor.features_extractor.parameters()):
        return "actor and critic share a features extractor"
    return next(filter(None, map(AdamStep.objection, optimizers)), None)
