"""No imagination: batches of real transitions, for agents that use the model in another way."""

from __future__ import annotations

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.imagination.strategy import Samples, Strategy
from mbrl_wrappers.types import Transitions


class RealData(Strategy):
    """Every batch is the replay buffer's own; the model is fitted all the same.

    For agents that use the model themselves: with :class:`~mbrl_wrappers.agents.MAAC` this is SAC-SVG(H)
    (Amos et al. 2021), and :class:`~mbrl_wrappers.agents.SVG` learns from real data alone.

    Example:
        >>> MAAC("MlpPolicy", env, horizon=2).learn(2_000, callback=ModelBased(RealData()))  # doctest: +SKIP
    """

    needs_predictions = False

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Do nothing."""
        return {}

    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Samples:
        """Draw from the replay buffer."""
        return real_buffer.sample(batch_size, env=env)
