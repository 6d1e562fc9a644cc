"""On a GPU agents and models learn what they learn on a CPU, by recordings in place of single launches.

Without a GPU these tests don't run. `test_captured_updates.py` and `test_adam.py` take the steps of a captured graph on
a CPU.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture
from mbrl_wrappers.agents import MAAC, SVG, CompiledSAC, CompiledTD3, CompiledTQC, Dyna, RealData, update_mode
from mbrl_wrappers.imagination import ModelBased, load_checkpoint, save_checkpoint
from mbrl_wrappers.models.fit import FitData, FitSettings, fit_ensemble
from mbrl_wrappers.models.heads import Heads
from mbrl_wrappers.models.network import EnsembleMLP
from testing.agents import weights
from testing.envs import Line
from testing.models import small_ensemble

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node"),  # trying a function runs on a stream of its own
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

CUDA = torch.device("cuda")
PAIRS: dict[str, tuple[Any, Any]] = {"SAC": (SAC, CompiledSAC), "TD3": (TD3, CompiledTD3), "TQC": (TQC, CompiledTQC)}


@pytest.fixture(autouse=True)
def record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``compile="auto"`` record what is too short to pay."""
    monkeypatch.setattr(update_mode, "MIN_CAPTURED_UPDATES", 0)


small_model = functools.partial(small_ensemble, "Pendulum-v1", seed=0, device="cuda")


def arguments() -> dict[str, Any]:
    return {
        "policy_kwargs": {"net_arch": [32, 32]},
        "learning_starts": 60,
        "buffer_size": 2_000,
        "seed": 0,
        "device": "cuda",
    }


# -- recordings ------------------------------------------------------------------------------------


def noisy_walk(state: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
    state += push + torch.randn_like(state)
    return state.sum()


def test_a_recording_does_what_its_function_does_random_numbers_included() -> None:
    found = []
    for is_captured in (False, True):
        torch.manual_seed(3)
        state, recorder = torch.zeros(5, device=CUDA), GraphCapture(CUDA)

        def walk(push: torch.Tensor, state: torch.Tensor = state) -> torch.Tensor:
            return noisy_walk(state, push)

        outputs = []
        for step in range(4):
            push = torch.full((5,), float(step), device=CUDA)
            outputs.append(recorder.captured(walk, [state])(push) if is_captured else walk(push))
            outputs.append(torch.rand((), device=CUDA))  # what is drawn between goes on from there
        found.append([*outputs, state])
    for plain, recorded in zip(*found, strict=True):
        torch.testing.assert_close(plain, recorded)


def test_what_a_recording_works_on_may_move() -> None:
    recorder, one, other = GraphCapture(CUDA), torch.zeros(3, device=CUDA), torch.zeros(3, device=CUDA)
    push = torch.ones(3, device=CUDA)
    held = [one]

    def add(push: torch.Tensor) -> torch.Tensor:
        held[0] += push
        return held[0].clone()

    assert recorder.captured(add, held)(push).tolist() == [1, 1, 1]
    held[0] = other
    assert recorder.captured(add, held)(push).tolist() == [1, 1, 1]
    assert (one.tolist(), other.tolist()) == ([1, 1, 1], [1, 1, 1])


def test_other_shapes_and_constants_have_recordings_of_their_own() -> None:
    recorder, total = GraphCapture(CUDA), torch.zeros((), device=CUDA)

    def add(values: torch.Tensor, twice: bool) -> torch.Tensor:
        total.add_(values.sum() * (2 if twice else 1))
        return total.clone()

    asked = [
        (torch.ones(2, device=CUDA), False),
        (torch.ones(3, device=CUDA), False),
        (torch.ones(2, device=CUDA), True),
    ]
    assert [float(recorder.captured(add, [total])(*one)) for one in (*asked, *asked)] == [2, 5, 9, 11, 14, 18]


def test_an_error_while_recording_leaves_what_it_worked_on() -> None:
    recorder, state = GraphCapture(CUDA), torch.zeros(3, device=CUDA)

    def fail(push: torch.Tensor) -> None:
        state.add_(push)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        recorder.captured(fail, [state])(torch.ones(3, device=CUDA))
    assert state.tolist() == [0, 0, 0]


def test_what_waits_for_the_gpu_can_t_be_recorded_and_leaves_the_generator_usable() -> None:
    recorder, state = GraphCapture(CUDA), torch.zeros(3, device=CUDA)

    def wait(push: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand_like(push)
        return drawn if drawn.sum().item() > -1 else push

    torch.manual_seed(5)
    with pytest.raises(RuntimeError):
        recorder.captured(wait, [state])(torch.ones(3, device=CUDA))
    drawn = torch.rand(3, device=CUDA)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3, device=CUDA))
    push = torch.zeros(3, device=CUDA)
    torch.manual_seed(5)
    assert torch.equal(recorder.captured(torch.rand_like, [state])(push), drawn)


def test_an_interrupt_while_recording_leaves_all_as_it_was() -> None:
    recorder, state = GraphCapture(CUDA), torch.zeros(3, device=CUDA)
    is_interrupted = True

    def walk(push: torch.Tensor) -> torch.Tensor:
        result = noisy_walk(state, push)
        if is_interrupted and torch.cuda.is_current_stream_capturing():
            raise KeyboardInterrupt
        return result

    torch.manual_seed(5)
    push = torch.ones(3, device=CUDA)
    with pytest.raises(KeyboardInterrupt):
        recorder.captured(walk, [state])(push)
    assert state.tolist() == [0, 0, 0]
    is_interrupted = False
    recorder.captured(walk, [state])(push)
    recorded = state.clone()
    torch.manual_seed(5)
    state.zero_()
    walk(push)
    torch.testing.assert_close(state, recorded)


def test_auto_goes_on_without_recording_where_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: GraphCapture, function: Any, works_on: Any) -> Any:
        raise RuntimeError("no graph")

    agent = CompiledSAC("MlpPolicy", "Pendulum-v1", **arguments())
    monkeypatch.setattr(GraphCapture, "recorded", fail)
    with pytest.warns(UserWarning, match="cannot be captured here and go on in eager mode: no graph"):
        agent.learn(80)
    assert agent._n_updates == 20


# -- agents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", ["auto", True])  # recorded, and compiled too
@pytest.mark.parametrize("name", PAIRS)
def test_a_recorded_agent_learns_what_sb3s_learns(name: str, compile: Any) -> None:
    plain, kind = PAIRS[name]
    found = []
    for make, kwargs in ((plain, {}), (kind, {"compile": compile})):
        agent = make("MlpPolicy", "Pendulum-v1", train_freq=5, gradient_steps=5, **arguments(), **kwargs)
        agent.learn(150)
        found.append((weights(agent), agent.actor.optimizer.state_dict()["state"][0]["step"]))
    assert agent._is_captured and agent._is_compiled == (compile is True)
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-4, rtol=1e-3)
    assert float(found[0][1]) == float(found[1][1])


@pytest.mark.parametrize("expand_critic", [False, True])
def test_a_recorded_maac_learns_what_it_learns_otherwise(expand_critic: bool) -> None:
    found = []
    for compile in (False, True):
        env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
        options: dict[str, Any] = {"expand_critic": expand_critic, "target_critics": 1, "max_grad_norm": 1.0}
        agent = MAAC("MlpPolicy", env, horizon=3, compile=compile, **options, **arguments())
        agent.learn(130, callback=ModelBased(Dyna(0.5, rollouts_per_step=10), small_model(), fit_every=40, seed=0))
        found.append((weights(agent), agent.actor.optimizer.state_dict()["state"][0]["step"]))
        assert agent._is_captured == compile
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-4, rtol=1e-3)
    assert float(found[0][1]) == float(found[1][1])


@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_a_recorded_svg_learns_what_it_learns_otherwise(horizon: int) -> None:
    found = []
    for compile in (False, True):
        env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
        options: dict[str, Any] = {"horizon": horizon, "ent_coef": 0.1, "max_grad_norm": 1.0}
        agent = SVG("MlpPolicy", env, compile=compile, **options, **arguments())
        agent.learn(130, callback=ModelBased(RealData(), small_model(), fit_every=40, seed=0))
        found.append(weights(agent))
        assert agent._is_captured == compile
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-3)


def test_updates_of_a_recorded_agent_do_not_wait_for_the_gpu() -> None:
    agent = MAAC("MlpPolicy", "Pendulum-v1", horizon=3, compile="auto", **arguments())
    agent.learn(70, callback=ModelBased(Dyna(0.0, rollouts_per_step=10), small_model()))
    assert agent._is_captured
    with agent._updating() as update:
        batch = agent.replay_buffer.sample(256)
        inputs = (batch, agent.model_based.view.flat_obs(batch.observations, None), None, None, True)
        update(*inputs)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                update(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_settings_that_are_changed_count_from_then_on() -> None:
    found = []
    for compile in (False, "auto"):
        agent = MAAC("MlpPolicy", "Pendulum-v1", horizon=2, compile=compile, **arguments())
        callback = ModelBased(Dyna(0.5, rollouts_per_step=10), small_model(), fit_every=40, seed=0)
        agent.learn(80, callback=callback)
        agent.gamma, agent.horizon, agent.learning_rate = 0.5, 1, 1e-3
        agent._setup_lr_schedule()
        agent.learn(20, callback=callback, reset_num_timesteps=False)
        assert agent._is_captured == bool(compile)
        found.append(weights(agent))
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-3)


def test_gsde_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be False or 'auto' for this agent, got True: use_sde"):
        MAAC("MlpPolicy", "Pendulum-v1", compile=True, use_sde=True, **arguments())


def line() -> Line:
    """A point on a line that should be at 3, pushed by the action from 0 for ten steps."""
    return Line(start=0.0, bound=20.0, reward=lambda x: -((x[..., 0] - 3) ** 2))


@pytest.mark.parametrize("kind", [CompiledSAC, MAAC, SVG])
def test_a_run_that_resumes_is_the_run_that_never_stopped(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_ensemble(line(), seed=0)
    strategy: Any = RealData() if kind is SVG else Dyna(0.5, rollouts_per_step=10)
    callback = ModelBased(strategy, model, fit_every=40, seed=0)
    whole = kind("MlpPolicy", line(), compile="auto", **arguments()).learn(100, callback=callback)
    save_checkpoint(whole, tmp_path / "checkpoint")
    whole.learn(60, callback=callback, reset_num_timesteps=False)

    resumed = load_checkpoint(kind, tmp_path / "checkpoint", line(), "cuda")
    monkeypatch.setattr(update_mode, "MIN_CAPTURED_UPDATES", 10**9)  # a run that is captured stays captured
    resumed.learn(60, callback=resumed.model_based, reset_num_timesteps=False)
    assert whole._is_captured and resumed._is_captured
    torch.testing.assert_close(weights(whole), weights(resumed), atol=1e-4, rtol=1e-3)


def test_what_was_trained_on_a_gpu_plays_on_a_cpu(tmp_path: Path) -> None:
    agent = MAAC("MlpPolicy", "Pendulum-v1", horizon=2, compile="auto", **arguments())
    agent.learn(80, callback=ModelBased(Dyna(0.5, rollouts_per_step=10), small_model()))
    agent.save(tmp_path / "agent.zip")
    loaded = MAAC.load(tmp_path / "agent.zip", env=make_vec_env("Pendulum-v1", 1), device="cpu")
    obs = np.zeros(3, np.float32)
    np.testing.assert_allclose(
        loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0], atol=1e-4
    )
    assert loaded.model_based.dynamics.device.type == "cpu"


# -- models ----------------------------------------------------------------------------------------


def test_a_model_fitted_on_a_gpu_is_the_one_fitted_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 4, generator=generator), torch.randn(300, 2, generator=generator)
    data = FitData(x, y, torch.zeros(300, 0), torch.ones(2), torch.ones(0))
    settings = FitSettings(1e-3, [1e-4] * 3, 128, 50, 3, 30, 0.0, "mse", 0.0)
    network = EnsembleMLP(3, 4, Heads(2), (16, 16), seed=0)
    found = []
    for device in ("cpu", "cuda"):
        own = copy.deepcopy(network).to(device)
        there = FitData(**{name: part.to(device) for name, part in vars(data).items()})
        report = fit_ensemble(own, there, there[torch.arange(50, device=device)], settings, generator.manual_seed(1))
        assert report.steps == 30
        found.append(torch.cat([p.detach().flatten().cpu() for p in own.parameters()]))
    assert not torch.equal(found[0], torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
