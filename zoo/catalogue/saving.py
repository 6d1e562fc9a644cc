"""Folders of agents: from an agent in memory, and from training runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces

from mbrl_wrappers.files import remove_abandoned, temporary_beside, write_atomically
from mbrl_wrappers.models.env_specs import TRANSPARENT_WRAPPERS, spec_of
from mbrl_wrappers.zoo.analysis.ladder import LADDER, ladder_from_json
from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.environment import env_from_file, installed_versions, make_env, record_env
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import num_episodes, play_episodes
from mbrl_wrappers.zoo.storage.folder import (
    CARD,
    CONFIG,
    ENV,
    EVAL,
    JOB,
    MODEL,
    VIDEO,
    AgentFolder,
    EvalRecord,
    load_agent,
    save_agent,
)
from mbrl_wrappers.zoo.storage.manifest import MANIFEST
from mbrl_wrappers.zoo.training.card import write_card
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.video import record_video

# Wrappers of training runs, which do not change the env that an agent sees.
_OF_A_RUN = {"EpisodeLimit", "FiniteEnv", "SeededEpisodes"}


def save(
    agent: BaseAlgorithm,
    folder: str | Path,
    *,
    env: str | None = None,
    episodes: int | None = None,
    with_optimizer: bool = False,
    deterministic: bool = True,
) -> None:
    """Write an agent, its model and its VecNormalize into a folder, without pickle.

    Args:
        agent: any SB3 or sb3-contrib agent, or an agent of a registered class.
        folder: a new folder, which is written completely or not at all.
        env: a Gymnasium id or ``"package.module:Class"``; default: the id of the agent's env.
        episodes: number of evaluation episodes to record for ``verify``; 0 for none; default: 20, or 5 for an agent
            that plans.
        with_optimizer: add optimisers, replay buffer and imagined rows, so that training can go on where it stopped.
        deterministic: play the policy's modes instead of samples, in these episodes and by default in all that the zoo
            plays with the agent.

    Raises:
        ValueError: for ``deterministic=False`` without episodes, which are what tells the zoo of it.
        ZooError: for an object that can't be saved, saying what to register.
    """
    if episodes == 0 and not deterministic:
        raise ValueError("episodes must be at least 1 for deterministic=False, got 0")
    name, kwargs = _env_of(agent) if env is None else (env, {})
    try:
        json.dumps(kwargs)
    except TypeError as error:
        raise ZooError(f"the arguments of {name} must be literals to be saved, got {kwargs}") from error
    with make_env(name, **kwargs) as playground, new_folder(folder) as partial:
        try:
            venv = BaseAlgorithm._wrap_env(playground, verbose=0)
            check_for_correct_spaces(venv, agent.observation_space, agent.action_space)
        except ValueError as error:
            raise ZooError(f"env must have the spaces of the agent, got {name}: {error}") from error
        evaluation = None
        episodes = num_episodes(type(agent)) if episodes is None else episodes
        if episodes:
            played = play_episodes(agent, playground, episodes, deterministic=deterministic)
            evaluation = EvalRecord(played, installed_versions(), deterministic=deterministic)
        record = record_env(playground, name, kwargs)
        save_agent(agent, partial, env=record, evaluation=evaluation, with_optimizer=with_optimizer)


def export(
    runs: Sequence[str | Path],
    folder: str | Path,
    *,
    name: str | None = None,
    with_optimizer: bool = False,
    episodes: int | None = None,
) -> AgentFolder:
    """Write the agent of the median run, with a card that shows all of them, into a folder to publish.

    Args:
        runs: folders of finished runs that differ only in their seeds. The median is taken over the mean return of the
            last evaluation; of an even number of runs, it is the lower middle one.
        folder: a new folder, which is written completely or not at all.
        name: the zoo's name for the agent, such as ``"mbpo/Pendulum-v1"``, for the card.
        with_optimizer: keep the state of training, which the run must have saved.
        episodes: of a new evaluation, for the card and for ``verify``; default: the run's last one.

    Raises:
        ZooError: if a folder is not a finished run, or runs differ in more than their seeds.
    """
    if not runs:
        raise ZooError(f"runs must name at least one folder, got {list(runs)}")
    folders = sorted((open_agent(run) for run in runs), key=_last_return)
    jobs = [_job_of(candidate) for candidate in folders]
    for candidate, job in zip(folders, jobs, strict=True):
        if dataclasses.replace(job, seed=0) != dataclasses.replace(jobs[0], seed=0):
            raise ZooError(f"runs must differ in their seed only, got {candidate.path} and {folders[0].path}")
    if len({job.seed for job in jobs}) < len(jobs):
        raise ZooError(f"runs must differ in their seeds, got {[job.seed for job in jobs]}")
    middle = (len(folders) - 1) // 2
    chosen, spec = folders[middle], jobs[middle]
    if with_optimizer and "training" not in chosen.config:
        raise ZooError(f"{chosen.path} holds no state of training: train with --with-optimizer to keep it")
    assert chosen.evaluation is not None  # a run without one has no last return to be sorted by
    seeds = [seed for one in folders if one.evaluation for seed in one.evaluation.trained_seeds]
    evaluation = dataclasses.replace(chosen.evaluation, trained_seeds=sorted(seeds, key=lambda seed: seed.seed))
    with new_folder(folder) as partial:
        own = chosen.records.keys() - {MODEL, CONFIG, ENV, EVAL, CARD, MANIFEST}
        for file in own:
            write_atomically(partial / file, chosen.file(file) or b"")
        agent = load_agent(chosen, device="cpu")
        if episodes is not None:
            with env_from_file(chosen.env.name, chosen.env.kwargs) as playground:
                played = play_episodes(agent, playground, episodes, deterministic=evaluation.deterministic)
            evaluation = dataclasses.replace(evaluation, episodes=played, versions=installed_versions())
        if VIDEO not in own and _record(agent, chosen, partial / VIDEO):
            own |= {VIDEO}
        ladder = chosen.file(LADDER)
        rungs = [] if ladder is None else ladder_from_json(ladder, chosen.path / LADDER)
        write_card(partial / CARD, spec, evaluation, name=name, has_model=chosen.has_model, ladder=rungs)
        save_agent(
            agent,
            partial,
            env=chosen.env,
            name=chosen.config["agent"],
            evaluation=evaluation,
            other_files={*own, CARD},
            with_optimizer=with_optimizer,
        )
    return open_agent(folder)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder to write in, which is renamed at the end, or removed after an error.

    Raises:
        ZooError: if the folder exists and is not empty.
    """
    folder = Path(folder).resolve()  # "." has no name to write beside
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ZooError(f"folder must be new or empty, got {folder}")
    partial = temporary_beside(folder)
    partial.mkdir(parents=True)
    remove_abandoned(folder.parent)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _record(agent: BaseAlgorithm, folder: AgentFolder, file: Path) -> bool:
    """Record an episode; return whether the env can be rendered here."""
    try:
        record_video(
            agent,
            lambda: env_from_file(folder.env.name, folder.env.kwargs, render_mode="rgb_array"),
            file,
            deterministic=folder.is_deterministic,
        )
    except Exception:  # renderers raise all kinds of errors, and an agent can be published without a video
        return False
    return True


def _env_of(agent: BaseAlgorithm) -> tuple[str, dict]:
    """Return id and arguments of the env that an agent was trained in."""
    spec = None if agent.env is None else spec_of(agent.env)
    if spec is None:
        raise ZooError("env must be given: the agent's own has no Gymnasium id, or can't send it from its process")
    changing = {wrapper.name for wrapper in spec.additional_wrappers or ()} - TRANSPARENT_WRAPPERS - _OF_A_RUN
    if changing:
        raise ZooError(f"env must be given, registered with its wrappers, since the agent's has {sorted(changing)}")
    kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    if spec.max_episode_steps != gym.spec(spec.id).max_episode_steps:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    return spec.id, kwargs


def _last_return(folder: AgentFolder) -> float:
    if folder.evaluation is None or not folder.evaluation.trained_seeds:
        raise ZooError(f"{folder.path} must be a training run, it records none in {EVAL}")
    return folder.evaluation.trained_seeds[-1].return_mean


def _job_of(folder: AgentFolder) -> JobSpec:
    data = folder.file(JOB)
    if data is None:
        raise ZooError(f"{folder.path} must be a training run, it has no {JOB}")
    return JobSpec.from_json(data)
