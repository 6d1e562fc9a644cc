"""A job: everything that one training run depends on, as one value that can be written down as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.storage.limits import parse_json
from mbrl_wrappers.zoo.training.recipe import Recipe


@dataclass(frozen=True)
class JobSpec:
    """One training run.

    Attributes:
        env: a Gymnasium id or ``"package.module:Class"``.
        recipe: the settings of agent and model.
        model: whether the agent gets a model; without one, the same agent is trained with equal updates per step. True
            for agents that need a model.
        seed: of the agent, the model and the sequence of episodes.
        steps: env steps.
        eval_freq: env steps between evaluations.
        eval_episodes: episodes per evaluation, with the same start states every time.
        save_freq: env steps between checkpoints; 0 for none.
        device: of agent and model.
        agent: registered name of the agent.
        env_kwargs: arguments of the env.
    """

    env: str
    recipe: Recipe
    model: bool
    seed: int
    steps: int
    eval_freq: int
    eval_episodes: int = 20
    save_freq: int = 0
    device: str = "cpu"
    agent: str = "mbpo"
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    def label(self) -> str:
        """Return the agent's usual name: ``"MBPO(SAC)"``, ``"SAC"`` without a model, ``"PETS"``."""
        record = AGENTS.get(self.agent)
        if record is not None and record.control is not None:
            return self.agent.upper().replace("_", "-") if self.model else record.control
        is_whole = record is not None and not record.serves_others
        return self.recipe.algo if is_whole or not self.model else f"{self.agent.upper()}({self.recipe.algo})"

    def to_json(self) -> str:
        """Return the job as JSON text, the same for equal jobs."""
        fields = dataclasses.asdict(self)
        if not self.recipe.normalize:  # so that jobs from before this section keep their digests
            del fields["recipe"]["normalize"]
        if self.recipe.num_envs == 1:  # likewise
            del fields["recipe"]["num_envs"]
        if self.recipe.deterministic:  # likewise
            del fields["recipe"]["deterministic"]
        return json.dumps(fields, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobSpec:
        """Read the result of :meth:`to_json`.

        Raises:
            ValueError: if it is not a job of this version.
        """
        try:
            fields = parse_json(text, "text", finite=False)
            return cls(**{**fields, "recipe": Recipe(**fields["recipe"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"text must be a job as JSON: {error!r}") from error

    def digest(self) -> str:
        """Return a name for the job: 16 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
