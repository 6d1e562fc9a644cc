"""Evolution of a vector by CMA-ES (Hansen 2016), by the package cma, and the trials of its candidates in real envs."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbrl_wrappers.arguments import check_whole_number


def check_cma() -> None:
    """Refuse to go on without the package cma.

    Raises:
        ValueError: saying how to install it.
    """
    try:
        import cma  # noqa: F401
    except ImportError as error:
        raise ValueError("WorldModels learns by the package cma: pip install mbrl-wrappers[world-models]") from error


class Evolution:
    """A population of vectors that is drawn around a mean, again and again, and moves to where returns are high.

    It draws from a generator of its own, and can be pickled between any two calls.

    Args:
        mean: where it begins, ``[N]``.
        sigma: the standard deviation that it begins with.
        population: ``P``, at least 2.
        seed: of its generator.

    Raises:
        ValueError: for a population below 2, or if cma is not installed.
    """

    def __init__(self, mean: np.ndarray, sigma: float, population: int, seed: int) -> None:
        check_cma()
        import cma

        check_whole_number("population", population, 2)
        self._normal = _Normal(seed)
        # A seed that is not a number keeps cma from seeding NumPy's global generator.
        options = {"popsize": population, "randn": self._normal, "seed": np.nan, "verbose": -9, "tolfacupx": np.inf}
        self._strategy: Any = cma.CMAEvolutionStrategy(mean, sigma, options)

    def ask(self) -> np.ndarray:
        """Return the next candidates, ``[P, N]``."""
        return np.stack(self._strategy.ask())

    def tell(self, candidates: np.ndarray, returns: np.ndarray) -> None:
        """Take in the returns ``[P]`` of candidates ``[P, N]``, the higher the better."""
        self._strategy.tell(list(candidates), (-returns).tolist())

    @property
    def mean(self) -> np.ndarray:
        """The vector around which candidates are drawn, ``[N]``."""
        return np.asarray(self._strategy.mean)

    @property
    def sigma(self) -> float:
        """The overall standard deviation."""
        return float(self._strategy.sigma)


class _Normal:
    """Standard normal numbers of a generator of its own, as cma asks for them."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self._generator.standard_normal(shape)


class Trials:
    """Candidates that play real episodes, ``trials`` each, in envs that finish their episodes at different times.

    Args:
        candidates: ``[P, N]``.
        trials: episodes of each candidate.
        num_envs: ``B``.
    """

    def __init__(self, candidates: np.ndarray, trials: int, num_envs: int) -> None:
        self.candidates = candidates
        self._results = np.full(len(candidates) * trials, np.nan)
        self._begun = 0
        self._of_env = np.full(num_envs, -1)  # the trial that an env plays; -1 for none
        self._returns = np.zeros(num_envs)

    def players(self, starts: np.ndarray) -> np.ndarray:
        """Return the candidates of the envs' next steps, ``[B]``; -1 where none is to be tried.

        Args:
            starts: ``[B]`` bool, envs that begin an episode. A trial whose episode was broken off begins again.
        """
        self._returns[starts] = 0.0
        for env in np.flatnonzero(starts & (self._of_env < 0)):
            if self._begun < len(self._results):
                self._of_env[env] = self._begun
                self._begun += 1
        return np.where(self._of_env < 0, -1, self._of_env % len(self.candidates))

    def add(self, reward: np.ndarray, dones: np.ndarray) -> None:
        """Take in a step of all envs: rewards ``[B]``, and whether it ended their episodes, ``[B]`` bool."""
        self._returns += reward
        for env in np.flatnonzero(dones & (self._of_env >= 0)):
            self._results[self._of_env[env]] = self._returns[env]
            self._of_env[env] = -1

    @property
    def are_over(self) -> bool:
        """Whether all have been played."""
        return not np.isnan(self._results).any()

    @property
    def returns(self) -> np.ndarray:
        """The mean return of each candidate, ``[P]``."""
        return self._results.reshape(-1, len(self.candidates)).mean(0)
