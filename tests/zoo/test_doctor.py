"""The examination of an env: it finds every planted fault, none in sound envs, and says how well a model would do."""

from __future__ import annotations

import importlib
import re
import shlex
import time
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.doctor import examine
from mbrl_wrappers.zoo.doctor.advice import expected_cost
from mbrl_wrappers.zoo.doctor.findings import Findings
from mbrl_wrappers.zoo.doctor.text import WIDTH, text_of
from mbrl_wrappers.zoo.doctor.watching import Pace, Watched
from mbrl_wrappers.zoo.environment import MAX_EPISODE_STEPS, make_env
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import parse_params
from testing.broken_envs import FAULTS, Sound
from testing.commands import parser_of_commands

MODULE = "testing.broken_envs"
HERE = __name__
SOUND = [f"{MODULE}:Sound", "CartPole-v1", "Pendulum-v1", "FrozenLake-v1"]
MORE_SOUND = [
    "BipedalWalker-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
    "InvertedPendulum-v5",
    "LunarLander-v3",
    "MountainCarContinuous-v0",
    "Reacher-v5",
    "Taxi-v4",
    f"{HERE}:cartpole_swingup",
    f"{HERE}:walker_walk",
    f"{HERE}:reacher_easy",
]


class Noisy(Sound):
    """The second entry of an observation is a coin that nobody can foresee."""

    def shown(self) -> Any:
        return np.array([self.state[0], 4 * self.np_random.random()], np.float32)


class Waits(Sound):
    """Sleeps, as for a network or a simulator in another process."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        time.sleep(0.02)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        time.sleep(0.002)
        return super().step(action)


class Pixels(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def shown(self) -> Any:
        return np.full((8, 8, 3), np.clip(100 + 20 * self.state[0], 0, 255), np.uint8)


class Control(gym.Env[Any, Any]):
    """A task of dm_control, with its observations laid flat and a time limit of 100 steps."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, domain: str, task: str) -> None:
        suite = importlib.import_module("dm_control.suite")
        self.task = suite.load(domain, task)
        action = self.task.action_spec()
        self.action_space = spaces.Box(np.float32(action.minimum), np.float32(action.maximum), dtype=np.float32)
        size = len(self._flat(self.task.reset()))
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)

    @staticmethod
    def _flat(step: Any) -> np.ndarray:
        return np.concatenate([np.ravel(part) for part in step.observation.values()])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.task.task.random.seed(seed)
        self.count = 0
        return self._flat(self.task.reset()), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        step = self.task.step(action)
        ended = bool(step.last() and step.discount == 0)
        return self._flat(step), float(step.reward or 0.0), ended, not ended and self.count >= 100, {}


def cartpole_swingup() -> gym.Env:
    return Control("cartpole", "swingup")


def walker_walk() -> gym.Env:
    return Control("walker", "walk")


def reacher_easy() -> gym.Env:
    return Control("reacher", "easy")


def pushed_twice(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """A reward that is not the env's."""
    return 1.0 - 2 * next_obs[:, 0].abs()


def right_reward(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    return 1.0 - next_obs[:, 0].abs()


def ends_early(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    return next_obs[:, 0].abs() > 1


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_every_planted_fault_is_found(kind: type[Sound]) -> None:
    topic, words = FAULTS[kind]
    result = examine(
        f"{MODULE}:{kind.__name__}", steps=1100 if kind.__name__ == "NeverEnds" else 400, model=False, estimate=False
    )
    found = [finding for finding in result.findings if finding.topic == topic and re.search(words, finding.says)]
    assert found, "\n".join(f"{finding.topic}: {finding.says}" for finding in result.findings)
    assert found[0].is_fault == (kind.__name__ != "NeverEnds")  # which some envs of Gymnasium's do as well
    assert ("Mend the faults first" in text_of(result)) == found[0].is_fault == (result.advice is None)
    assert topic in text_of(result)


@pytest.mark.parametrize("name", SOUND)
def test_no_fault_is_found_in_a_sound_env(name: str) -> None:
    result = examine(name, steps=600, model=False, estimate=False)
    assert [finding.says for finding in result.faults] == []
    assert result.advice is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MORE_SOUND)
def test_no_fault_is_found_in_other_peoples_envs(name: str) -> None:
    if name.startswith(HERE):
        pytest.importorskip("dm_control")
    result = examine(name, steps=600, model=name.endswith(("Hopper-v5", "walker_walk")), estimate=False)
    assert [finding.says for finding in result.faults] == []


@pytest.fixture(scope="module")
def examined() -> Any:
    return examine(f"{HERE}:Noisy", steps=1600, seed=1, estimate=False)


def test_the_trial_says_what_can_be_predicted(examined: Any) -> None:
    place, coin = examined.trial.columns
    assert place.is_foreseen and not coin.is_foreseen
    assert (place.name, coin.name) == ("[0]", "[1]")
    assert 0 < place.errors[0] < 0.5 * place.spread and place.errors[0] < place.errors[-1]
    assert coin.spread == pytest.approx(4 / np.sqrt(12), rel=0.1)  # uniform
    assert coin.errors[0] == pytest.approx(coin.spread, rel=0.2)  # in the env's units
    assert examined.trial.reward_r2 > 0.5
    (remark,) = (finding for finding in examined.findings if "can't be predicted" in finding.says)
    assert "obs[1]" in remark.says and "obs[0]" not in remark.says and not remark.is_fault


def test_the_text_fits_a_screen(examined: Any) -> None:
    lines = text_of(examined).splitlines()
    assert max(map(len, lines)) <= WIDTH and len(lines) < 40
    assert any("obs[1]" in line and "can't be predicted" in line for line in lines)


def test_the_advice_is_a_command_that_can_be_given() -> None:
    result = examine(f"{MODULE}:Sound", steps=1000, estimate=False)
    assert result.trial is not None and result.trial.trusted >= 10 and result.trial.reward_r2 > 0.9
    advice = result.advice
    assert advice is not None and advice.agent == "mbpo" and advice.spec is not None
    words = shlex.split(advice.command)
    assert words[:6] == ["mbrl-zoo", "train", "mbpo", "--env", f"{MODULE}:Sound", "-n"]
    params = parse_params(words[words.index("--params") + 1 :])
    assert make_job("mbpo", words[4], steps=int(words[6]), params=params) == advice.spec


def test_a_given_function_is_compared_with_the_env() -> None:
    wrong = examine(
        f"{MODULE}:Sound", reward_fn=pushed_twice, termination_fn=ends_early, steps=800, model=False, estimate=False
    )
    assert [finding.topic for finding in wrong.faults] == ["given", "given"]
    reward, end = (finding.says for finding in wrong.faults)
    says, real = map(float, re.search(r"says (\S+) where the env says (\S+),", reward).groups())
    assert 1 - real == pytest.approx((1 - says) / 2, abs=1e-4)
    assert "termination_fn (yours) says 1 where the env says 0" in end
    right = examine(f"{MODULE}:Sound", reward_fn=right_reward, steps=800, model=False, estimate=False)
    assert right.faults == []


def test_images_are_for_an_agent_with_an_encoder() -> None:
    result = examine(f"{HERE}:Pixels", steps=400, estimate=False)
    assert result.faults == [] and result.trial is None
    assert result.advice is not None and result.advice.agent == "dreamer"


def test_the_time_of_a_run_grows_with_its_steps(examined: Any) -> None:
    spec = make_job("mbpo", "Pendulum-v1", params={"agent.gradient_steps": 1, "dynamics.max_steps": 50})
    with make_env("Pendulum-v1") as env:
        steps = collect_transitions(env, EnsembleDynamics.for_env(env, hidden=(8,)), 200, seed=0)
    quick = Pace(step=0.0, step_cpu=0.0, reset=0.0, reset_cpu=0.0, length=200)
    short, long = (expected_cost(replace(spec, steps=steps_), steps, quick) for steps_ in (1000, 100_000))
    assert short is not None and long is not None and 0 < 10 * short.seconds < long.seconds
    assert expected_cost(make_job("pets", "Pendulum-v1"), steps, quick) is None
    waits = replace(quick, step=10.0, reset=200.0)  # 11 s a step
    slow = expected_cost(replace(spec, steps=1000, eval_freq=400, eval_episodes=3), steps, waits)
    assert slow is not None
    num_steps = 1000 + 3 * 3 * 200 + 2 * 2000 + 20 * 100  # of training, evaluations and the diagnosis
    assert slow.in_env == pytest.approx(11 * num_steps)
    assert slow.seconds == pytest.approx(slow.in_env, rel=0.01) and slow.seconds > slow.in_env
    busy = expected_cost(replace(spec, steps=1000), steps, replace(waits, step_cpu=10.0, reset_cpu=200.0))
    assert busy is not None and waits.waiting == 11 and busy.in_env > 1000 * 11 > busy.in_env - busy.seconds > 0


class Counts(Sound):
    """Notes on how many threads torch computes."""

    seen: ClassVar[set[int]] = set()

    def step(self, action: Any) -> Any:
        self.seen.add(torch.get_num_threads())
        return super().step(action)


def test_times_are_those_of_one_thread_and_the_callers_number_stays() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        examine(f"{HERE}:Counts", steps=200, model=False, estimate=False)
        with pytest.raises(ValueError, match="env must be"):
            examine("nowhere:Env")
        assert torch.get_num_threads() == 3 and Counts.seen == {1}
    finally:
        torch.set_num_threads(before)


def test_waiting_is_time_too() -> None:
    """Of a step, and of a reset."""
    result = examine(f"{HERE}:Waits", steps=200, model=False, estimate=False)
    assert result.faults == []
    step, cpu, reset = (float(number) for number in re.findall(r"(\S+) ms", result.facts["time"]))
    assert step >= 2 and step > cpu and reset >= 20
    env = Watched(Waits(), Findings())
    for _ in range(2):
        env.reset(seed=0)
        env.step(env.action_space.sample())
    pace = env.pace()
    assert pace.step >= 0.002 and pace.reset >= 0.02 and pace.length == MAX_EPISODE_STEPS
    assert pace.step_cpu < pace.step and 0 < pace.waiting < pace.per_step


def test_a_board_game_keeps_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {"opponent": "one_ply", "first": False}
    result = examine("mbrl_wrappers/TicTacToe-v0", env_kwargs=kwargs)
    assert result.advice is not None and result.advice.spec.env_kwargs == kwargs
    assert parser_of_commands(monkeypatch)(result.advice.command or "") == result.advice.spec
    assert "opponent=one_ply first=false" in text_of(result)


def test_arguments_that_can_not_be_typed_leave_the_advice() -> None:
    result = examine("mbrl_wrappers/TicTacToe-v0", env_kwargs={"opponent": lambda game, state, generator: None})
    assert result.advice is not None and result.advice.command is None and "Train alphazero" in text_of(result)


def raises_in_words(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    raise ValueError("no such column")


def takes_one_row(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    return next_obs[0, 7]


def returns_a_list(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> Any:
    return [1.0] * len(obs)


def dislikes_what_is_imagined(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    if len(obs) == 200:  # all real steps
        return next_obs[:, 0].abs() > 2
    raise ZeroDivisionError("a state that no env has")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raises_in_words, r"reward_fn \(yours\) raises ValueError in line \d+ of .*test_doctor.py: no such column;"),
        (takes_one_row, r"reward_fn \(yours\) raises IndexError in line \d+ of .*test_doctor.py: index 7 is out of "),
        (returns_a_list, r"reward_fn must return a tensor of shape \(200,\) and floating dtype, got list:"),
    ],
)
def test_a_given_function_that_fails_is_a_finding(function: Any, says: str) -> None:
    result = examine(f"{MODULE}:Sound", reward_fn=function, termination_fn=ends_early, steps=200)
    assert [finding.topic for finding in result.faults] == ["given", "given"]  # the other one is compared as well
    (found,) = (finding.says for finding in result.faults if "reward_fn" in finding.says)
    assert re.match(says, found)
    assert len(found) < 500 and found.endswith(
        "; it was called with obs [200, 2], action [200, 1] and next_obs [200, 2]"
    )
    assert result.trial is None and result.advice is None


def test_a_given_function_that_fails_in_the_model_only_is_a_finding() -> None:
    result = examine(f"{MODULE}:Sound", termination_fn=dislikes_what_is_imagined, steps=200)
    (fault,) = result.faults
    assert re.match(
        r"termination_fn \(yours\) raises ZeroDivisionError .*: a state that no env has; .* with obs", fault.says
    )
    assert result.trial is None and result.advice is None


def test_the_command_prints_and_ends_with_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{MODULE}:HugeRewards", "-n", "300", "--no-model"]) == 1
    out = capsys.readouterr().out
    assert "Faults (1)" in out and "normalize.norm_obs=false" in out
    assert main(["doctor", f"{MODULE}:Sound", "-n", "300", "--no-model"]) == 0
    assert f"mbrl-zoo train mbpo --env {MODULE}:Sound" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("doctor Nowhere-v0", "env must be a Gymnasium id"),
        ("doctor Pendulum-v1 -n 10", "steps must be a whole number of at least 200, got 10"),
        ("doctor Pendulum-v1 --reward-fn nowhere:f", "reward_fn must be 'package.module:function', got 'nowhere:f'"),
        ("doctor Pendulum-v1 --reward-fn os:sep", "reward_fn must be a function, got '/' from 'os:sep'"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
