"""Training by the zoo where workers play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.self_play_workers import Played, Player, Weights
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import run
from testing.workers import Nearby

ENV = "mbrl_wrappers/TicTacToe-v0"
PARAMS: dict[str, Any] = {
    "agent.num_games": 8, "agent.num_simulations": 4, "agent.learning_starts": 50, "agent.batch_size": 32,
    "agent.workers": 1, "agent.policy_kwargs": {"features_extractor_kwargs": {"widths": [8]}},
}  # fmt: skip


@pytest.mark.slow
def test_a_run_has_workers_of_its_own(tmp_path: Path) -> None:
    trained = zoo.train("alphazero", ENV, steps=200, params=PARAMS, eval_episodes=1, folder=tmp_path / "run")
    assert isinstance(trained.agent, AlphaZero)
    assert (trained.agent.workers, trained.agent.num_timesteps) == (1, 200)
    assert trained.agent._n_updates > 0


def test_cpu_time_is_that_of_workers_too(tmp_path: Path) -> None:
    class Slow(Player):
        def move(self, weights: Weights) -> Played:
            return super().move(weights)._replace(seconds=1000.0)

    count = torch.get_num_threads()
    spec = make_job("alphazero", ENV, steps=80, params=PARAMS, eval_episodes=1, eval_freq=40)
    _, rows = run(spec, tmp_path / "run", executor=Nearby(makes=Slow))
    torch.set_num_threads(count)
    assert [row.cpu_seconds // 1000 for row in rows] == [5, 10]


def test_a_place_for_workers_needs_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"train alphazero --env {ENV} --executor ray --folder {tmp_path / 'run'}"
    assert main(command.split()) == 2
    assert "executor must be 'local' without agent.workers in params or recipe, got 'ray'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"executor must be one of .*, got 'cloud'"):
        zoo.train("alphazero", ENV, params=PARAMS, executor="cloud", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
