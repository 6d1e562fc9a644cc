"""An agent whose updates are compiled is the agent that it was: in its numbers, its files and its log."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.sac import policies as sac_policies
from stable_baselines3.sac.policies import Actor
from torch import nn

from mbrl_wrappers.agents import CompiledSAC, CompiledTD3, CompiledTQC, Dyna
from mbrl_wrappers.agents.compiled import agent as update
from mbrl_wrappers.agents.update_mode import MIN_CAPTURED_UPDATES
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.seeding import set_apart
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import Recipe
from mbrl_wrappers.zoo.training.run import run
from testing.envs import Walk
from testing.models import small_ensemble

MIN_UPDATES = 10_000
PAIRS: dict[str, tuple[Any, Any]] = {"SAC": (SAC, CompiledSAC), "TD3": (TD3, CompiledTD3), "TQC": (TQC, CompiledTQC)}
TINY: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": [16, 16], "max_steps": 20}


def walk(form: str = "box") -> Walk:
    return Walk(form, num_pushes=3, noise=0.05)


small_model = functools.partial(small_ensemble, walk(), seed=0, **TINY)


class Double(FlattenExtractor):
    """Lets a policy in float64 take the float32 that SB3 makes of every observation."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return super().forward(obs).double()


class Learned(BaseFeaturesExtractor):
    """A features extractor with weights."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.linear = nn.Linear(2, 4)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.linear(obs).tanh()


class Forgetful(Learned):
    """One that drops some of its features."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.dropout(super().forward(obs))

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.dropout = nn.Dropout(0.5)


class Counting(Learned):
    """One that changes with every batch that it sees."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        self.seen += len(obs)
        return super().forward(obs) / (1 + self.seen)


class OwnActor(Actor):
    """An actor that is more careful than SB3's."""

    def get_action_dist_params(self, obs: Any) -> Any:
        mean, log_std, kwargs = super().get_action_dist_params(obs)
        return 0.5 * mean, log_std, kwargs


def freeze(agent: Any) -> None:
    next(agent.critic.parameters()).requires_grad_(False)


def hook(agent: Any) -> None:
    for p in agent.critic.parameters():
        p.register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))


def make(
    kind: Any,
    *,
    form: str = "box",
    policy: dict[str, Any] | None = None,
    double: bool = True,
    num_envs: int = 1,
    **options: Any,
):
    defaults = {"net_arch": [16, 16], **({"features_extractor_class": Double} if double else {})}
    kwargs = {"batch_size": 33, "buffer_size": 300, "learning_starts": 40, "seed": 0, "device": "cpu", **options}
    name = "MlpPolicy" if form == "box" else "MultiInputPolicy"
    env = walk(form) if num_envs == 1 else make_vec_env(walk, num_envs)
    agent = kind(name, env, policy_kwargs={**defaults, **(policy or {})}, **kwargs)
    agent.set_logger(configure(None, []))
    if double:
        agent.policy.double()
        if getattr(agent, "log_ent_coef", None) is not None:
            agent.log_ent_coef.data = agent.log_ent_coef.data.double()
    return agent


def learn(agent: Any, steps: int) -> Any:
    """Train from the same random numbers each time."""
    agent.set_random_seed(0)
    return agent.learn(steps)


def numbers(tree: Any) -> list[torch.Tensor]:
    """All tensors of nested parameters, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [number for key in tree for number in numbers(tree[key])]
    return []


def assert_equal(one: Any, other: Any, tolerance: float = 1e-10) -> None:
    """Weights, targets and optimizer states are the same."""
    ours, theirs = numbers(one.get_parameters()), numbers(other.get_parameters())
    assert len(ours) == len(theirs) > 10
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def uncompiled(monkeypatch):
    """The function that would be compiled runs as it is, which is quick."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several updates per step": {"gradient_steps": 3},
    "as many updates as steps": {"gradient_steps": -1, "train_freq": 4},
    "several steps of reward": {"n_steps": 3},
    "falling learning rate": {"learning_rate": lambda remaining: 1e-2 * remaining},
    "own betas": {"policy": {"optimizer_kwargs": {"betas": (0.5, 0.9), "eps": 1e-3}}},
    "weight decay": {"policy": {"optimizer_kwargs": {"weight_decay": 0.1}}},
    "one layer, tanh": {"policy": {"net_arch": [8], "activation_fn": nn.Tanh}},
    "three critics": {"policy": {"n_critics": 3}},
}
OWN_VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("SAC", "fixed entropy coefficient", {"ent_coef": 0.2}),
    ("SAC", "learned from a given start", {"ent_coef": "auto_0.1"}),
    ("SAC", "rare target updates", {"gradient_steps": 5, "target_update_interval": 3}),
    ("TQC", "rare target updates", {"gradient_steps": 5, "target_update_interval": 3}),
    ("TQC", "nothing dropped", {"top_quantiles_to_drop_per_net": 0}),
    ("TD3", "rare actor updates", {"gradient_steps": 4, "policy_delay": 3}),
    ("TD3", "one update per step", {"policy_delay": 5}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(name, options, id=f"{name}, {what}") for name in PAIRS for what, options in VARIANTS.items()]
    + [pytest.param(name, options, id=f"{name}, {what}") for name, what, options in OWN_VARIANTS],
)
def test_the_update_is_sb3s(uncompiled, name, options):
    plain, ours = (make(kind, **options) for kind in PAIRS[name])
    ours.compile = True
    learn(plain, 60)
    learn(ours, 60)
    assert ours._has_updated
    assert_equal(ours, plain)
    assert ours._n_updates == plain._n_updates > 0
    expected = {key: value for key, value in plain.logger.name_to_value.items() if key.startswith("train/")}
    logged = {key: value for key, value in ours.logger.name_to_value.items() if key.startswith("train/")}
    assert logged == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_the_update_is_sb3s_on_dict_observations_and_in_single_precision(uncompiled, name):
    plain, ours = (make(kind, form="dict", double=False) for kind in PAIRS[name])
    ours.compile = True
    learn(plain, 60)
    learn(ours, 60)
    assert_equal(ours, plain, 1e-4)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("SAC", {}, 1e-10),
        ("SAC", {"double": False, "n_steps": 3}, 1e-4),
        pytest.param("TD3", {}, 1e-10, marks=pytest.mark.slow),  # a minute of compiling each
        pytest.param("TQC", {}, 1e-10, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_update_is_sb3s(name, options, tolerance):
    plain, ours = (make(kind, **options) for kind in PAIRS[name])
    ours.compile = True
    learn(plain, 60)
    learn(ours, 60)
    assert ours._has_updated
    assert_equal(ours, plain, tolerance)


CHANGES: list[tuple[str, str, Any]] = [
    *((name, attribute, value) for name in PAIRS for attribute, value in (("gamma", 0.5), ("tau", 0.5))),
    *((name, attribute, value) for name in ("SAC", "TQC") for attribute, value in (("target_entropy", -9.0),)),
    ("TD3", "target_noise_clip", 0.01),
    ("TD3", "target_policy_noise", 1.0),
    ("TD3", "policy_delay", 3),
    ("SAC", "target_update_interval", 2),
    ("TQC", "top_quantiles_to_drop_per_net", 5),
    ("SAC", "ent_coef_tensor", torch.tensor(0.7)),
]


@pytest.mark.parametrize(("name", "attribute", "value"), CHANGES)
def test_a_setting_that_is_changed_counts_from_then_on(uncompiled, name, attribute, value):
    options = {"ent_coef": 0.2} if attribute == "ent_coef_tensor" else {}
    plain, ours = (make(kind, gradient_steps=2, **options) for kind in PAIRS[name])
    ours.compile = True
    for agent in (plain, ours):
        learn(agent, 50)
        setattr(agent, attribute, value)
        agent.learn(20, reset_num_timesteps=False)
    assert_equal(ours, plain)


@pytest.mark.parametrize("name", PAIRS)
def test_an_optimizers_constants_that_are_changed_count_from_then_on(uncompiled, name):
    plain, ours = (make(kind) for kind in PAIRS[name])
    ours.compile = True
    for agent in (plain, ours):
        learn(agent, 50)
        agent.critic.optimizer.param_groups[0].update(betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)
        agent.learn(20, reset_num_timesteps=False)
    assert_equal(ours, plain)


@pytest.mark.slow
def test_many_agents_of_one_process_are_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=3):  # of a function; by default 8
        for units in range(4, 9):
            agent = make(CompiledTD3, compile=True, policy={"net_arch": [units]}, gamma=1 - 0.01 * units)
            learn(agent, 46)
            assert agent._n_updates == 6


def test_an_interrupt_leaves_weights_and_their_optimizer_in_step(uncompiled, monkeypatch):
    agent = learn(make(CompiledSAC, compile=True), 50)
    draw = agent._draw
    drawn: list[Any] = []

    def interrupted(batch: Any) -> Any:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(batch)
        return draw(batch)

    agent._draw = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.train(10, 33)
    assert {float(state["step"]) for state in agent.critic.optimizer.state.values()} == {13.0}


# -- when it is compiled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (MIN_UPDATES + 40, {}, True),
        (MIN_UPDATES + 39, {}, False),  # the first 40 steps only fill the buffer
        (MIN_UPDATES // 10 + 40, {"gradient_steps": 10}, True),
        (MIN_UPDATES + 40, {"train_freq": 2}, False),
        (MIN_UPDATES + 40, {"train_freq": 2, "gradient_steps": -1}, True),
        (MIN_UPDATES, {"train_freq": (1, "episode"), "gradient_steps": 50}, False),
        (MIN_UPDATES, {"compile": False}, False),
        (10, {"compile": True}, True),
        (MIN_UPDATES, {"use_sde": True}, False),
    ],
)
def test_only_what_pays_is_compiled(uncompiled, steps, options, expected):
    agent = make(CompiledSAC, double=False, **options)
    agent._setup_learn(steps)
    assert agent._is_compiled == expected


class Direct:
    """Stands where a GPU's recorder stands: calls what it would record."""

    def __init__(self, device: torch.device) -> None:
        pass

    def captured(self, function: Any, works_on: Any) -> Any:
        return function


@pytest.fixture
def on_gpu(monkeypatch):
    """Have agents take a CPU for a GPU."""
    monkeypatch.setattr(update, "GraphCapture", Direct)
    monkeypatch.setattr(update, "objection_to_capture", lambda device: None)
    monkeypatch.setattr(CompiledSAC, "_on_gpu", True)


def test_on_a_gpu_all_but_short_runs_are_recorded_and_long_ones_compiled_too(on_gpu):
    def ways(pays_from: int, **options: Any) -> list[str]:
        agent = make(CompiledSAC, double=False, **options)
        return [agent._mode_for(40 + pays_from + more, 0) for more in (-1, 0)]

    assert ways(MIN_CAPTURED_UPDATES) == ["eager", "captured"]
    assert ways(MIN_CAPTURED_UPDATES, use_sde=True) == ["eager", "eager"]
    assert ways(100_000, gradient_steps=2) == ["captured", "compiled"]
    assert ways(10**9) == ["captured", "captured"]  # one by one
    assert ways(200_000, gradient_steps=-1, num_envs=2) == ["captured", "compiled"]
    assert ways(1, compile=True) == ["compiled", "compiled"]
    assert ways(10**9, compile=False) == ["eager", "eager"]


def test_on_a_gpu_where_compiling_fails_updates_are_recorded(on_gpu, monkeypatch):
    def fail(function: Any, **_: Any) -> Any:
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", fail)
    plain, ours = (make(kind, double=False) for kind in PAIRS["SAC"])
    ours._pays_from = lambda: 0
    learn(plain, 60)
    ours.set_random_seed(0)
    with pytest.warns(UserWarning, match="cannot be compiled here and go on captured: no Triton"):
        ours.learn(60)
    assert ours._is_captured and not ours._is_compiled
    assert ours._n_updates == plain._n_updates == 20


def test_a_run_that_goes_on_elsewhere_is_recorded_on_a_gpu_alone(on_gpu, monkeypatch):
    agent = make(CompiledSAC, double=False, compile="auto")
    agent._planned_updates = lambda *steps: MIN_CAPTURED_UPDATES
    learn(agent, 60)
    assert (agent._mode, agent._is_captured) == ("captured", True)
    monkeypatch.setattr(CompiledSAC, "_on_gpu", False)
    agent.learn(10, reset_num_timesteps=False)
    assert (agent._is_compiled, agent._is_captured) == (False, False)


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        ({}, {"use_sde": True}, "StateDependentNoiseDistribution"),
        ({"optimizer_class": torch.optim.RMSprop}, {}, "RMSprop"),
        ({"optimizer_class": torch.optim.AdamW}, {}, "AdamW"),
        ({"optimizer_kwargs": {"amsgrad": True}}, {}, "amsgrad=True"),
        ({"features_extractor_class": Learned, "share_features_extractor": True}, {}, "features extractor"),
        ({"features_extractor_class": Forgetful}, {}, "Dropout"),
        ({"features_extractor_class": Counting}, {}, "the actor has buffers"),
    ],
)
def test_what_cannot_be_compiled_is_said_or_runs_as_it_is(policy, options, reason):
    with pytest.raises(ValueError, match=f"compile must be False or 'auto'.*got True: .*{reason}"):
        make(CompiledSAC, double=False, policy=policy, compile=True, **options).learn(50)
    plain, ours = (make(kind, double=False, policy=policy, **options) for kind in (SAC, CompiledSAC))
    ours._planned_updates = lambda *steps: MIN_UPDATES
    learn(plain, 60)
    learn(ours, 60)
    assert_equal(ours, plain, 0)


def clip(agent: Any) -> None:
    def clip_gradients(optimizer: Any, *_: Any) -> None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1e-3)

    agent.critic.optimizer.register_step_pre_hook(clip_gradients)


def watch(agent: Any) -> None:
    agent.critic.register_forward_hook(lambda module, inputs, outputs: tuple(0.5 * value for value in outputs))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (freeze, "frozen"),
        (hook, "hooks on their gradients"),
        (clip, "the optimizer has hooks"),
        (watch, "the critic has hooks"),
    ],
)
def test_an_agent_that_was_changed_is_noticed(change, reason):
    wanted = make(CompiledSAC, double=False, compile=True)
    change(wanted)
    with pytest.raises(ValueError, match=f"got True: .*{reason}"):
        wanted.learn(50)
    plain, ours = (make(kind, double=False) for kind in (SAC, CompiledSAC))
    ours._planned_updates = lambda *steps: MIN_UPDATES
    for agent in (plain, ours):
        change(agent)
        learn(agent, 60)
    assert_equal(ours, plain, 0)


def test_a_change_before_a_run_goes_on_is_noticed(uncompiled):
    agent = make(CompiledSAC, double=False)
    agent._planned_updates = lambda *steps: MIN_UPDATES
    learn(agent, 50)
    assert agent._has_updated
    freeze(agent)
    frozen = next(agent.critic.parameters())
    before = frozen.clone()
    agent.learn(20, reset_num_timesteps=False)
    assert torch.equal(frozen, before) and not agent._is_compiled
    frozen.requires_grad_(True)  # its optimizer has now counted fewer steps than the others'
    agent.compile = True
    with pytest.raises(ValueError, match="different numbers of steps"):
        agent.learn(10, reset_num_timesteps=False)


def test_an_actor_of_ones_own_is_noticed(monkeypatch):
    monkeypatch.setattr(sac_policies, "Actor", OwnActor)
    with pytest.raises(ValueError, match="got True: the actor is a OwnActor"):
        make(CompiledSAC, double=False, compile=True).learn(50)


def test_a_features_extractor_of_each_network_is_compiled(uncompiled):
    plain, ours = (make(kind, double=False, policy={"features_extractor_class": Learned}) for kind in PAIRS["SAC"])
    ours.compile = True
    learn(plain, 60)
    learn(ours, 60)
    assert_equal(ours, plain, 1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_the_signature_is_the_agents_own_and_compile(name):
    plain, ours = (inspect.signature(kind).parameters for kind in PAIRS[name])
    assert dict(list(ours.items())[:-1]) == dict(plain)
    assert list(ours)[-1] == "compile"


def test_another_value_of_compile_is_named():
    for value in ("yes", 1, None):
        with pytest.raises(ValueError, match=f"compile must be True, False or 'auto', got {value!r}"):
            make(CompiledSAC, compile=value)
    agent = make(CompiledSAC)
    agent.compile = "yes"  # as loading sets it
    with pytest.raises(ValueError, match="compile must be True, False or 'auto', got 'yes'"):
        agent.learn(1)


@pytest.mark.parametrize("kind", [RuntimeError, torch._dynamo.exc.FailOnRecompileLimitHit])
def test_where_compiling_fails_the_agent_trains_all_the_same(monkeypatch, kind):
    def compiler(function: Any, **_: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise kind("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    agent = make(CompiledSAC)
    agent._planned_updates = lambda *steps: MIN_UPDATES
    with pytest.warns(UserWarning, match="cannot be compiled here and go on in eager mode: no C\\+\\+ compiler"):
        agent.learn(60)
    assert agent._n_updates == 20
    wanted = make(CompiledSAC, compile=True)
    with pytest.raises(kind, match="no C\\+\\+ compiler"):
        wanted.learn(60)


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_either_class_goes_on_with_the_others_file(uncompiled, name, tmp_path):
    plain_kind, our_kind = PAIRS[name]
    ours = make(our_kind, double=False, compile=True)
    learn(ours, 60)
    ours.save(tmp_path / "ours")
    plain = plain_kind.load(tmp_path / "ours", env=walk())
    assert_equal(plain, ours, 0)
    plain.save(tmp_path / "plain")
    back = our_kind.load(tmp_path / "plain", env=walk())
    assert_equal(back, ours, 0)
    for agent in (plain, back):
        agent.replay_buffer = ours.replay_buffer
        agent.set_logger(configure(None, []))
        agent.set_random_seed(1)
        agent.train(5, 33)
    assert_equal(plain, back, 1e-4)


@pytest.mark.parametrize("was_compiled", [True, False])
def test_a_run_that_goes_on_stays_as_it_was(uncompiled, was_compiled, tmp_path):
    agent = make(CompiledSAC, double=False)
    agent._planned_updates = lambda *steps: MIN_UPDATES if was_compiled else 0
    agent.learn(60)
    del agent._planned_updates
    agent.save(tmp_path / "agent")
    loaded = CompiledSAC.load(tmp_path / "agent", env=walk())
    loaded._setup_learn(10**9 if not was_compiled else 1, reset_num_timesteps=False)
    assert loaded._is_compiled == was_compiled
    loaded._setup_learn(10**9 if not was_compiled else 1)
    assert loaded._is_compiled != was_compiled


def test_compile_given_at_loading_counts(uncompiled, tmp_path):
    learn(make(CompiledSAC, double=False), 50).save(tmp_path / "agent")
    for value in (True, False):
        loaded = CompiledSAC.load(tmp_path / "agent", env=walk(), compile=value)
        loaded.learn(1, reset_num_timesteps=False)
        assert loaded._is_compiled == value


# -- with a model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("real_ratio", [0.0, 0.25])
def test_with_a_model_the_update_is_sb3s_with_that_model(uncompiled, name, real_ratio):
    plain, ours = (make(kind, gradient_steps=4, num_envs=2) for kind in PAIRS[name])
    ours.compile = True
    for agent in (plain, ours):
        agent.set_random_seed(0)
        agent.learn(80, callback=ModelBased(Dyna(real_ratio, rollouts_per_step=5), small_model(), fit_every=20))
    assert ours._n_updates == plain._n_updates > 50
    assert_equal(ours, plain)


@pytest.mark.parametrize("name", PAIRS)
def test_with_every_imagined_row_discarded_it_is_sb3s(uncompiled, name):
    plain, ours = (make(kind, gradient_steps=4, num_envs=2) for kind in PAIRS[name])
    ours.compile = True
    plain.set_random_seed(0)
    set_apart(plain.action_space)
    plain.learn(80)
    ours.set_random_seed(0)
    ours.learn(80, callback=ModelBased(Dyna(real_ratio=1.0, rollouts_per_step=5), small_model(), fit_every=20))
    assert ours._n_updates == plain._n_updates > 50
    assert_equal(ours, plain)


@pytest.mark.slow
@pytest.mark.usefixtures("brief_diagnosis")
def test_a_checkpoint_of_a_compiled_run_resumes_bit_for_bit(uncompiled, tmp_path):
    def spec(steps: int) -> JobSpec:
        agent = {"learning_starts": 20, "batch_size": 16, "gradient_steps": 2, "compile": True}
        recipe = Recipe("SAC", 100, agent, {"rollouts_per_step": 5}, {"fit_every": 20}, TINY)
        return JobSpec(f"{__name__}:walk", recipe, True, 0, steps, 40, eval_episodes=1, save_freq=30)

    whole, _ = run(spec(100), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(agent: Any) -> None:
        if agent.num_timesteps == 70:
            raise Stop

    with pytest.raises(Stop):
        run(spec(100), tmp_path / "cut", on_step=stop)
    resumed: Any = run(spec(100), tmp_path / "cut")[0]
    assert resumed._has_updated
    states = numbers(whole.get_parameters())
    assert all(torch.equal(a, b) for a, b in zip(states, numbers(resumed.get_parameters()), strict=True))
