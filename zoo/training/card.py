"""An agent's model card: a README that people, and the Hub, read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.zoo.evaluation import mean_and_std

if TYPE_CHECKING:
    from mbrl_wrappers.agents.ladder import LadderRow
    from mbrl_wrappers.zoo.storage.folder import EvalRecord
    from mbrl_wrappers.zoo.training.job import JobSpec


def write_card(
    file: Path,
    spec: JobSpec,
    evaluation: EvalRecord,
    *,
    name: str | None = None,
    has_model: bool,
    ladder: Sequence[LadderRow] = (),
) -> None:
    """Write an agent's card.

    Args:
        file: the Markdown file to write.
        spec: the job that trained the agent.
        evaluation: the agent's evaluation.
        name: the zoo's name for the agent, such as ``"mbpo/Pendulum-v1"``, if it has one.
        has_model: whether the agent has a world model to load.
        ladder: of an agent that plays a board game.
    """
    write_atomically(file, card_text(spec, evaluation, name=name, has_model=has_model, ladder=ladder).encode())


def card_text(
    spec: JobSpec,
    evaluation: EvalRecord,
    *,
    name: str | None = None,
    has_model: bool,
    ladder: Sequence[LadderRow] = (),
) -> str:
    """Return the text of a card: the Hub's metadata, results, how to use and how to reproduce the agent."""
    mean, std = mean_and_std(evaluation.episodes)
    title = spec.label()
    load = name or "path/to/this/folder"
    policy = "the deterministic policy" if evaluation.deterministic else "actions sampled from the policy"
    predict = f"predict(obs, deterministic={evaluation.deterministic})"
    lines = [
        "---",
        yaml.safe_dump(_metadata(spec, title, mean, std), sort_keys=False).rstrip(),
        "---",
        "",
        f"# {title} on {spec.env}",
        "",
        f"Return {mean:.1f} ± {std:.1f} over {len(evaluation.episodes)} episodes with {policy}.",
        "",
        "```python",
        "from mbrl_wrappers import zoo",
        "",
        f'agent = zoo.load("{load}")  # an SB3 agent: {predict}, learn',
    ]
    if has_model:
        lines.append(f'model = zoo.load_dynamics("{load}")  # the world model alone')
    lines += ["```", ""]
    if ladder:
        lines += [*_ladder(ladder[-1]), ""]
    lines += [*_training(spec, evaluation), "", *_versions(evaluation)]
    return "\n".join(lines) + "\n"


def _metadata(spec: JobSpec, title: str, mean: float, std: float) -> dict[str, object]:
    result = {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": spec.env, "type": spec.env},
        "metrics": [{"type": "mean_reward", "value": f"{mean:.2f} +/- {std:.2f}", "name": "mean_reward"}],
    }
    return {
        "library_name": "mbrl-wrappers",
        "tags": ["reinforcement-learning", "model-based", "stable-baselines3", spec.env],
        "model-index": [{"name": title, "results": [result]}],
    }


def _ladder(last: LadderRow) -> list[str]:
    """Return the table of matches at the end of training."""
    lines = [
        "## Ladder",
        "",
        "Games at the end of training, half of which the agent began, with its own number of simulations.",
        "",
        "| opponent | won | drawn | lost |",
        "|---|---|---|---|",
        *(f"| {name} | {result.wins} | {result.draws} | {result.losses} |" for name, result in last.results.items()),
    ]
    if last.kept is not None and last.kept_by_network is not None:
        lines += [
            "",
            f"In positions after random moves, {last.kept:.1%} of its moves are as good as a perfect player's; without "
            f"search, {last.kept_by_network:.1%} of the moves that its network likes best are.",
        ]
    return lines


def _training(spec: JobSpec, evaluation: EvalRecord) -> list[str]:
    """Return the table of training seeds, with this agent's seed in bold."""
    lines = [
        "## Training",
        "",
        "| seed | env steps | updates | last return | wall time | CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for trained in evaluation.trained_seeds:
        seed = f"**{trained.seed}**" if trained.seed == spec.seed else str(trained.seed)
        last = f"{trained.return_mean:.1f} ± {trained.return_std:.1f}"
        seconds = f"{trained.wall_seconds:.0f} s | {trained.cpu_seconds:.0f} s"
        lines.append(f"| {seed} | {trained.steps:,} | {trained.updates:,} | {last} | {seconds} |")
    if len(evaluation.trained_seeds) > 1:
        lines += ["", f"This is the agent of seed {spec.seed}, whose return is the median over all seeds."]
    return [*lines, "", "`job.json` holds every setting of the run."]


def _versions(evaluation: EvalRecord) -> list[str]:
    return ["## Versions", "", ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())]
