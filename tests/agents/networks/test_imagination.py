"""I2A's rollout encoder, against its definition."""

from __future__ import annotations

import torch

from mbrl_wrappers.agents.networks.imagination import ImaginationExtractor
from mbrl_wrappers.tasks.grids import SokobanGames
from mbrl_wrappers.wrappers.imagined_futures import imagined_space


def test_rollouts_are_read_backwards_and_laid_side_by_side_before_the_model_free_path() -> None:
    games = SokobanGames(3, size=5, num_boxes=1, levels=(0, 50))
    extractor = ImaginationExtractor(
        imagined_space(games.observation_space, games.action_space, 4),
        channels=4, features_dim=8, rollout_channels=4, frame_features=6, rollout_features=5,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    frames = 255 * torch.randint(2, (3, 4, 4, 4, 5, 5), generator=generator)
    rewards, seen = torch.randn(3, 4, 4, generator=generator), torch.rand(3, 4, 5, 5, generator=generator)
    cell = torch.nn.LSTMCell(7, 5)
    cell.load_state_dict({name.removesuffix("_l0"): part for name, part in extractor.rollouts.state_dict().items()})
    parts = []
    for action in range(4):
        memory = torch.zeros(3, 5), torch.zeros(3, 5)
        for step in (3, 2, 1, 0):
            read = torch.cat([extractor.frames(frames[:, action, step] / 255), rewards[:, action, step, None]], 1)
            memory = cell(read, memory)
        parts.append(memory[0])
    found = extractor({"observation": seen, "frames": frames, "rewards": rewards})
    torch.testing.assert_close(found, torch.cat([*parts, extractor.model_free(seen)], 1))
