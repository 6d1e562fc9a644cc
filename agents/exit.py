"""Expert Iteration (Anthony et al. 2017): a network imitates a search that the network makes better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mbrl_wrappers.agents.alphazero import AlphaZero
from mbrl_wrappers.agents.self_play import Examples
from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.tree import UCT, Method
from mbrl_wrappers.planners.tree.games import GameExpansion, Rollouts


class ExIt(AlphaZero):
    """Expert Iteration: UCT with random games is the expert, a network its apprentice.

    The expert searches by ``Q(s, a) + c_b sqrt(log N / n(s, a)) + w_a p(a | s) / (n(s, a) + 1)`` with the apprentice's
    policy ``p`` (equation 6), and values states by one random game and, with a weight, by the apprentice's value. The
    apprentice learns the expert's share of visits (tree-policy targets, equation 3) and the outcome. Before it has
    learned, the expert is plain UCT.

    With ``iteration_size`` the apprentice learns from the newest positions of one iteration at a time, as in batch
    Expert Iteration; otherwise from all in the buffer, as in the online form, whose data are aggregated as by DAgger.

    Deviations: all positions of the expert's own games are learned from, where the paper takes one of each game that
    the apprentice played; no RAVE; a network that is not begun anew at each iteration.

    Args:
        *args: :class:`AlphaZero`'s.
        exploration: ``c_b``.
        prior_bonus: ``w_a``; 100 in the paper, whose searches are of 10,000 simulations.
        value_weight: ``w_v``: the value of a state is ``(z + w_v v) / (1 + w_v)``, with the outcome ``z`` of a random
            game and the apprentice's value ``v``; 0 for random games alone.
        iteration_size: positions of an iteration, after which the buffer is emptied; default: it never is.
        **kwargs: :class:`AlphaZero`'s, but for ``search`` and its arguments.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> agent = ExIt("MlpPolicy", "mbrl_wrappers.envs:mbrl_wrappers/Hex5-v0")
        >>> agent.learn(50_000)  # doctest: +SKIP
    """

    searches: ClassVar[tuple[str, ...]] = ("uct",)

    def __init__(
        self,
        *args: Any,
        exploration: float = 0.2,
        prior_bonus: float = 30.0,
        value_weight: float = 1.0,
        iteration_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (
            ("exploration", exploration),
            ("prior_bonus", prior_bonus),
            ("value_weight", value_weight),
        ):
            check_number(name, value, 0, math.inf)
        for name in ("search_kwargs", "deterministic_search_kwargs"):
            if kwargs.get(name):
                raise ValueError(f"{name} must be left out, since ExIt has its own, got {kwargs[name]}")
        if iteration_size is not None:
            check_whole_number("iteration_size", iteration_size)
        self.exploration, self.prior_bonus, self.value_weight = exploration, prior_bonus, value_weight
        self.iteration_size = iteration_size
        super().__init__(*args, **{"search": "uct", **kwargs})

    @property
    def _has_apprentice(self) -> bool:
        return self._n_updates > 0

    def _method(self, is_quiet: bool) -> Method:
        return UCT(self.exploration, self.prior_bonus)

    def _expansion(self, generators: Sequence[np.random.Generator]) -> GameExpansion:
        if not self._has_apprentice:
            return GameExpansion(self.rules, Rollouts(self.rules, generators))
        weight = self.value_weight / (1 + self.value_weight)
        return GameExpansion(self.rules, Rollouts(self.rules, generators, self.evaluate, weight))

    def _keep(self, examples: Examples, lengths: np.ndarray) -> None:
        if self.iteration_size is not None and len(self.examples) >= self.iteration_size:
            self.examples.clear()
        super()._keep(examples, lengths)
