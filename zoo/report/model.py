"""A closer look at one trained agent and its model."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.models import DynamicsModel, WorldModel
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.dreams import Dream, dream_in
from mbrl_wrappers.zoo.analysis.findings import DIAGNOSIS, Diagnosis
from mbrl_wrappers.zoo.analysis.plan_candidates import Candidates, candidates_in
from mbrl_wrappers.zoo.environment import named_env
from mbrl_wrappers.zoo.registry import ALGORITHMS, DYNAMICS
from mbrl_wrappers.zoo.report.sentences import one_line
from mbrl_wrappers.zoo.storage.agent_file import model_config, model_of
from mbrl_wrappers.zoo.storage.folder import MISFITS, AgentFolder, load_agent
from mbrl_wrappers.zoo.video import side_by_side_video


@dataclass
class ModelFindings:
    """The findings about a model.

    Attributes:
        diagnosis: read from the folder, else measured now; None if neither was possible.
        video: an MP4 of a real and an imagined rollout side by side; None without a video.
        candidates: of a plan, for an agent that plans; None for other agents.
        dream: an episode and the model's dream of it, for a model with a memory; None for other models.
        obs_codec: of the observations of ``dream``.
        missing: a sentence for each part that is missing, with the reason.
    """

    diagnosis: Diagnosis | None = None
    video: bytes | None = None
    candidates: Candidates | None = None
    dream: Dream | None = None
    obs_codec: FlatSpace | None = None
    missing: list[str] = field(default_factory=list)


def look_into(folder: AgentFolder, *, video: bool, env: str | None = None) -> ModelFindings:
    """Collect the findings about an agent's model; parts that are not available are listed and raise no error.

    Args:
        folder: the folder of an agent with a model.
        video: whether to record a video.
        env: the name of the env to play in, which may be imported; default: the recorded one.

    Raises:
        ValueError: if there is no env of this name.
    """
    if env is not None:
        named_env(folder.env, env).close()
    findings = ModelFindings()
    stored = folder.file(DIAGNOSIS)
    try:
        if stored is not None:
            findings.diagnosis = Diagnosis.from_json(stored)
            if not video and not _plans(folder) and not _dreams(folder):
                return findings
        with closing(named_env(folder.env, env)) as real:
            agent = load_agent(folder, real, "cpu")
            if findings.diagnosis is None:
                findings.diagnosis = _diagnose(agent, real, findings)
            if isinstance(agent, PlanningAgent):
                findings.candidates = _plan(agent, real, findings)
            if _dreams(folder):
                dynamics = _model(agent)
                findings.dream = dream_in(agent, dynamics, real, deterministic=folder.is_deterministic)
                findings.obs_codec = dynamics.obs_codec
    except MISFITS as error:
        what = "The model is not shown" if findings.diagnosis is None else _what_else(folder, video)
        findings.missing.append(f"{what}: {one_line(error)}")
        return findings
    if video:
        findings.video = _record(agent, folder, env, findings)
    return findings


def _diagnose(agent: BaseAlgorithm, env: gym.Env, findings: ModelFindings) -> Diagnosis | None:
    try:
        return diagnose(agent, _model(agent), env)
    except ValueError as error:
        findings.missing.append(f"The model could not be measured: {one_line(error)}")
        return None


def _plans(folder: AgentFolder) -> bool:
    kind = ALGORITHMS.get(folder.config["algorithm"])
    return kind is not None and issubclass(kind, PlanningAgent)


def _dreams(folder: AgentFolder) -> bool:
    """Tell whether the agent's model has a memory."""
    kind = DYNAMICS.get((model_config(folder.config) or {}).get("kind", ""))
    return kind is not None and not issubclass(kind, DynamicsModel)


def _what_else(folder: AgentFolder, video: bool) -> str:
    """Name the parts that are missing besides the diagnosis."""
    missing = ["plan"] * _plans(folder) + ["video"] * video
    return f"There is no {' and no '.join(missing)}"


def _plan(agent: PlanningAgent, env: gym.Env, findings: ModelFindings) -> Candidates | None:
    try:
        found = candidates_in(agent, env)
    except ValueError as error:
        findings.missing.append(f"There is no plan: {one_line(error)}")
        return None
    if not len(found.returns):
        findings.missing.append("There is no plan: no candidate had a return that is finite.")
        return None
    return found


def _record(agent: BaseAlgorithm, folder: AgentFolder, env: str | None, findings: ModelFindings) -> bytes | None:
    def make_env() -> gym.Env:
        return named_env(folder.env, env, render_mode="rgb_array")

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "video.mp4"
        try:
            side_by_side_video(agent, _model(agent), make_env, file, deterministic=folder.is_deterministic)
        except Exception as error:  # renderers raise all kinds of errors, and the report can do without a video
            findings.missing.append(f"There is no video: {one_line(error)}")
            return None
        return file.read_bytes()


def _model(agent: BaseAlgorithm) -> WorldModel:
    dynamics = model_of(agent)
    assert dynamics is not None  # as the folder says
    return dynamics
