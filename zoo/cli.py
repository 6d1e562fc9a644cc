"""The command ``mbrl-zoo``. Heavy libraries are imported when a command runs, not for its help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from mbrl_wrappers.zoo.processes import TrainingFailed
from mbrl_wrappers.zoo.recipe import parse_params

FAILED = 1
USERS_MISTAKE = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Train:
    """Train an agent on an environment, beside the same agent without its model.

    Prints a table and writes curves.png; the same command again goes on.
    """

    agent: Annotated[Positional[str], arg(metavar="AGENT")]
    """what to train: mbpo"""
    env: Annotated[str, arg(metavar="ENV")] = "Pendulum-v1"
    """Gymnasium id or package.module:Class"""
    steps: Annotated[int | None, arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """env steps"""
    seed: int = 0
    """of agents, model and episodes"""
    algo: Annotated[str | None, arg(metavar="ALGO", help_behavior_hint="(default: by action space)")] = None
    """SAC, TD3, DDPG, TQC, CrossQ, DQN or QRDQN"""
    params: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE", help_behavior_hint="")] = ()
    """changes to the recipe, such as strategy.real_ratio=0.1"""
    folder: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/AGENT_ENV_seedN)")] = None
    """where to write"""
    eval_episodes: int = 20
    """episodes of an evaluation"""
    checkpoint_every: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: a tenth of all)")] = None
    """env steps between checkpoints, 0 for none"""
    device: Annotated[str, arg(metavar="DEVICE")] = "cpu"
    """cpu, cuda or auto"""
    progress: bool = True
    """show a progress bar"""
    baseline: bool = True
    """train the agent without a model too"""

    def run(self) -> None:
        """Run the command.

        Raises:
            ValueError: for the user's mistakes.
        """
        params = parse_params(self.params)

        from rich.console import Console

        from mbrl_wrappers.zoo.display import result_table
        from mbrl_wrappers.zoo.job import default_folder, train

        folder = self.folder or default_folder(self.agent, self.env, self.seed)
        try:
            training = train(
                self.agent,
                self.env,
                steps=self.steps,
                seed=self.seed,
                algo=self.algo,
                params=params,
                folder=folder,
                eval_episodes=self.eval_episodes,
                checkpoint_every=self.checkpoint_every,
                device=self.device,
                baseline=self.baseline,
                progress_bar=self.progress,
            )
        except KeyboardInterrupt:
            _say(_where_it_goes_on(folder))
            raise
        title = " vs ".join(training.curves) + (" (same agent, no model, equal updates)" if self.baseline else "")
        console = Console()
        console.print(result_table(f"{self.env}\n{title}", training.curves, self.eval_episodes))
        console.print(f"Curves: {folder / 'curves.png'}", soft_wrap=True, highlight=False)
        console.print(f"Agents: {folder}/*/agent.zip", soft_wrap=True, highlight=False)


def _where_it_goes_on(folder: Path) -> str:
    """Say what an interrupted run has kept."""
    from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint

    kept = [path for path in sorted(folder.glob("*/")) if has_checkpoint(path / "checkpoint")]
    if not kept:
        return "interrupted before the first checkpoint: the same command starts anew"
    steps = " and ".join(f"step {checkpoint_extra(path / 'checkpoint')['steps']} of {path}" for path in kept)
    return f"interrupted: the same command goes on from {steps}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mbrl-zoo``.

    Args:
        arguments: the command line without the program's name; default: ``sys.argv``.

    Returns:
        The exit code: 0, 1 if a run failed, 2 for a user's mistake, 130 after Ctrl-C.
    """
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: an env of one's own lies where one works
    try:
        command: Any = tyro.extras.subcommand_cli_from_dict(
            {"train": Train},
            prog="mbrl-zoo",
            description="Train, keep and check model-based agents.",
            args=arguments,
        )
        command.run()
    except ValueError as error:
        _say(f"error: {error}")
        return USERS_MISTAKE
    except TrainingFailed as error:
        print(f"mbrl-zoo: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(message: str) -> None:
    """Print one line to stderr, whatever line breaks the message has."""
    print("mbrl-zoo:", " ".join(message.split()), file=sys.stderr)
