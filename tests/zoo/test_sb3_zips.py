"""Zips of Stable-Baselines3: every weight comes along or is named, older releases' too, and nothing is unpickled."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import zoo
from mbrl_wrappers.zoo import ZooError
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.storage.inert_pickle import array_of, describe_pickle
from testing.envs import Still

NET = {"net_arch": [8]}
PENDULUM = "Pendulum-v1"


def change_zip(
    file: Path,
    *,
    data: Callable[[dict[str, Any]], None] | None = None,
    policy: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    variables: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    names: dict[str, str] | None = None,
) -> Path:
    """Write a zip anew with other contents, beside the old one."""
    out = file.with_name(f"changed-{file.name}")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data" and data is not None:
                fields = json.loads(content)
                data(fields)
                content = json.dumps(fields).encode()
            for member, change in (("policy.pth", policy), ("pytorch_variables.pth", variables)):
                if name == member and change is not None:
                    content = torch_bytes(change(torch.load(io.BytesIO(content), weights_only=True)))
            new.writestr((names or {}).get(name, name), content)
    return out


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def renamed(*pairs: tuple[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give tensors the names of an older release, by regular expressions."""

    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        for pattern, name in pairs:
            tensors = {re.sub(pattern, name, key): value for key, value in tensors.items()}
        return tensors

    return rename


def as_gym_wrote(data: dict[str, Any]) -> None:
    """Describe spaces as gym before 0.20 did."""
    for name in ("observation_space", "action_space"):
        space = data[name]
        space[":type:"] = space[":type:"].replace("gymnasium", "gym")
        space["shape"] = space.pop("_shape")
        space["np_random"] = "RandomState(MT19937)"
        space[":serialized:"] = "gAVub3RoaW5n"  # what needs gym can't be unpickled here


def brought(file: Path, env: str, **arguments: Any) -> tuple[Any, list[str]]:
    folder = file.with_name(f"{file.stem}-out")
    notes = import_sb3(file, folder, env=env, episodes=0, **arguments)
    real = gym.make(env)
    loaded = zoo.load(folder, env=real, device="cpu")
    real.close()
    return loaded, notes


def assert_same_policy(one: Any, other: Any) -> None:
    a, b = one.policy.state_dict(), other.policy.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert type(one.policy) is type(other.policy)


@pytest.fixture(scope="module")
def sac(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    agent = sb3.SAC("MlpPolicy", PENDULUM, policy_kwargs={**NET, "n_critics": 1}, device="cpu", buffer_size=10)
    file = tmp_path_factory.mktemp("sac") / "sac.zip"
    agent.save(file)
    return agent, file


# -- weights ------------------------------------------------------------------------------------------


def test_every_tensor_that_is_missing_is_named(sac, tmp_path):
    agent, file = sac
    for name in agent.policy.state_dict():
        without = change_zip(file, policy=lambda old, name=name: {key: old[key] for key in old if key != name})
        with pytest.raises(ZooError, match=f"policy.pth must hold the tensors of SACPolicy, but it lacks {name}"):
            import_sb3(without, tmp_path / "never", env=PENDULUM)
    assert not (tmp_path / "never").exists()


def test_tensors_of_other_names_and_shapes_are_named(sac, tmp_path):
    _, file = sac
    name = "actor.mu.weight"
    for change, message in (
        (lambda old: {**old, "extra": torch.zeros(1)}, "it has besides extra"),
        (lambda old: {**old, name: torch.zeros(2, 8)}, rf"it has {name} of shape \(2, 8\) in place of \(1, 8\)"),
        (renamed(("^actor.", "pi.")), r"it lacks actor\..*, .* and 1 more; it has besides pi\..* and 1 more$"),
        (lambda old: {}, "it lacks actor.latent_pi.0.bias"),
        (lambda old: {**old, name: torch.full((1, 8), torch.nan)}, f"the tensor {name} must be finite"),
        (lambda old: {**old, name: 3}, f"{name} must be a tensor"),
        (lambda old: {**old, name: torch.zeros(1).expand(10**9)}, f"{name} must be a tensor with a number of its own"),
        (lambda old: torch.zeros(3), "policy.pth must hold tensors by name, got Tensor"),
    ):
        with pytest.raises(ZooError, match=message):
            import_sb3(change_zip(file, policy=change), tmp_path / "never", env=PENDULUM)
    wrong = change_zip(file, variables=lambda old: {"log_ent_coef": torch.zeros(7)})
    with pytest.raises(ZooError, match=r"log_ent_coef must have shape \(1,\), got \(7,\)"):
        import_sb3(wrong, tmp_path / "never", env=PENDULUM)


@pytest.mark.parametrize("policy", ["LinearPolicy", "MlpPolicy"])
@pytest.mark.parametrize("env", [PENDULUM, "CartPole-v1"])
def test_both_policies_of_ars_are_imported(policy, env, tmp_path):
    kwargs = dict(NET) if policy == "MlpPolicy" else {}
    agent = sb3_contrib.ARS(policy, env, policy_kwargs=kwargs, zero_policy=False, device="cpu")
    agent.save(tmp_path / "ars.zip")
    loaded, notes = brought(tmp_path / "ars.zip", env)
    assert_same_policy(agent, loaded)
    assert loaded.policy.squash_output == agent.policy.squash_output
    assert not notes


def test_a_linear_policy_of_an_older_release_is_imported(tmp_path):
    agent = sb3_contrib.ARS("LinearPolicy", PENDULUM, zero_policy=False, device="cpu")
    agent.save(tmp_path / "ars.zip")
    old = change_zip(tmp_path / "ars.zip", data=as_gym_wrote, policy=renamed((r"action_net\.0\.", "action_net.")))
    assert_same_policy(agent, brought(old, PENDULUM)[0])


def test_a_policy_of_ones_own_is_not_taken_for_another(sac, tmp_path):
    _, file = sac

    def other_class(data: dict[str, Any]) -> None:
        data["policy_class"][":serialized:"] = base64.b64encode(b"\x80\x03cstable_baselines3.my\nOwnPolicy\n.").decode()

    with pytest.raises(ZooError, match=r"policy_class must be one of .*got stable_baselines3.my.OwnPolicy"):
        import_sb3(change_zip(file, data=other_class), tmp_path / "never", env=PENDULUM)
    hidden = change_zip(file, data=lambda data: data["policy_class"].update({":serialized:": "AAAA"}))
    _, notes = brought(hidden, PENDULUM)
    assert "policy_class: pickled in the zip, so it is taken for SAC's MlpPolicy" in notes


# -- older releases -----------------------------------------------------------------------------------


def as_before_1(data: dict[str, Any]) -> None:
    as_gym_wrote(data)
    data["policy_kwargs"] = {**NET, "n_critics": 2, "use_sde": False, "device": "cpu"}
    data.update(train_freq=-1, n_episodes_rollout=1, gradient_steps=-1)
    for name in ("replay_buffer_class", "replay_buffer_kwargs", "n_steps", "use_sde_at_warmup"):
        data.pop(name, None)


@pytest.mark.parametrize("ent_coef", ["auto", 0.1])
def test_a_sac_of_before_1_is_imported(ent_coef, tmp_path):
    agent = sb3.SAC("MlpPolicy", PENDULUM, policy_kwargs=dict(NET), device="cpu", buffer_size=10, ent_coef=ent_coef)
    agent.save(tmp_path / "sac.zip")
    critics = renamed(*((rf"^(critic|critic_target)\.qf{i}\.", rf"\1.q{i + 1}_net.") for i in (0, 1)))

    def variables(new: dict[str, Any]) -> dict[str, Any]:
        if ent_coef == "auto":
            return {"log_ent_coef": torch.tensor([-1.5], requires_grad=True)}
        return {"log_ent_coef": None, "ent_coef_tensor": torch.tensor(0.1)}

    old = change_zip(
        tmp_path / "sac.zip",
        data=as_before_1,
        policy=critics,
        variables=variables,
        names={"pytorch_variables.pth": "tensors.pth"},
    )
    loaded, notes = brought(old, PENDULUM)
    assert_same_policy(agent, loaded)
    assert (loaded.train_freq.frequency, loaded.train_freq.unit.value) == (1, "episode")
    assert loaded.gradient_steps == -1 and loaded.ent_coef == ent_coef
    if ent_coef == "auto":
        assert loaded.log_ent_coef.item() == -1.5
    else:
        assert loaded.ent_coef_tensor.item() == pytest.approx(0.1)
    assert not any("ent_coef" in note for note in notes)


def test_a_temperature_that_is_not_in_the_zip_is_told(sac):
    _, file = sac
    for change in (lambda old: {}, lambda old: {"log_ent_coef": None}):
        folder = file.with_name(f"no-{len(list(file.parent.iterdir()))}")
        notes = import_sb3(change_zip(file, variables=change), folder, env=PENDULUM, episodes=0)
        assert "log_ent_coef: not in the zip, so it begins anew when training goes on" in notes


def picture() -> Still:
    return Still(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-1, 1, (1,), np.float32))


def test_pictures_of_older_releases_are_imported(tmp_path):
    env = f"{__name__}:picture"
    ppo = sb3.PPO(
        "CnnPolicy", picture(), device="cpu", n_steps=4, batch_size=4, policy_kwargs={"net_arch": {"pi": [8]}}
    )
    ppo.save(tmp_path / "ppo.zip")
    sac = sb3.SAC("CnnPolicy", picture(), device="cpu", buffer_size=4, policy_kwargs=dict(NET))
    sac.save(tmp_path / "sac.zip")

    def one_extractor(new: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in new.items() if not re.match("(pi|vf)_features", name)}

    def layers(data: dict[str, Any]) -> None:
        data["policy_kwargs"] = {"net_arch": [{"pi": [8], "vf": []}]}

    def shared(new: dict[str, Any]) -> dict[str, Any]:
        actor = {name: value for name, value in new.items() if name.startswith("actor.features_extractor.")}
        both = {f"critic.{name.removeprefix('actor.')}": value for name, value in actor.items()}
        return {**new, **both, **{name.removeprefix("actor."): value for name, value in actor.items()}}

    for file, agent in (
        (change_zip(tmp_path / "ppo.zip", data=layers, policy=one_extractor), ppo),
        (change_zip(tmp_path / "sac.zip", policy=shared), sac),
    ):
        import_sb3(file, tmp_path / f"{file.stem}-out", env=env, episodes=0)
        loaded = zoo.load(tmp_path / f"{file.stem}-out", env=picture(), device="cpu")
        new, old = loaded.policy.state_dict(), agent.policy.state_dict()
        assert new.keys() == old.keys()
        assert all(torch.equal(new[name], old[name]) for name in new if not name.startswith("critic.features"))


def test_spaces_of_another_shape_are_named_whatever_wrote_them(sac, tmp_path):
    _, file = sac
    old = change_zip(file, data=as_gym_wrote)
    with pytest.raises(ZooError, match=r"env must have the observation_space of .*, a Box of shape \[3\], got Box"):
        import_sb3(old, tmp_path / "never", env="MountainCarContinuous-v0")


# -- VecNormalize -------------------------------------------------------------------------------------


def seen(env: str, steps: int = 50, **arguments: Any) -> Any:
    """Statistics of some steps."""
    venv = VecNormalize(DummyVecEnv([lambda: gym.make(env)]), **arguments)
    venv.reset()
    for _ in range(steps):
        venv.step([venv.action_space.sample()])
    return venv


@pytest.mark.parametrize("place", ["vecnormalize.pkl", "vec_normalize.pkl", "a2c/vecnormalize.pkl"])
def test_statistics_beside_the_zip_are_read(place, tmp_path):
    venv = seen(PENDULUM, clip_obs=5.0, gamma=0.9, norm_reward=False)
    agent = sb3.A2C("MlpPolicy", venv, device="cpu", policy_kwargs=dict(NET))
    agent.save(tmp_path / "a2c.zip")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    venv.save(str(tmp_path / place))
    loaded, notes = brought(tmp_path / "a2c.zip", PENDULUM)
    assert f"VecNormalize: its statistics are those of {tmp_path / place}" in notes
    own: Any = loaded.get_vec_normalize_env()
    obs = np.array([[0.3, -0.9, 4.0]], np.float32)
    assert np.allclose(own.normalize_obs(obs), venv.normalize_obs(obs), rtol=1e-6)
    for name in ("clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs", "norm_reward", "training"):
        assert getattr(own, name) == getattr(venv, name), name
    assert own.ret_rms.var == venv.ret_rms.var and own.obs_rms.count == venv.obs_rms.count


@pytest.mark.parametrize("trains_under_one", [True, False])
def test_statistics_of_another_agent_are_not_taken(trains_under_one, tmp_path, capsys):
    """A folder may hold several zips and one file of statistics: a zip tells whether its agent was trained with any."""
    venv = seen(PENDULUM, norm_reward=False)
    env: Any = venv if trains_under_one else gym.make(PENDULUM)
    agent = sb3.A2C("MlpPolicy", env, n_steps=4, device="cpu", policy_kwargs=dict(NET)).learn(4)
    agent.save(tmp_path / "a2c.zip")
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    loaded, notes = brought(tmp_path / "a2c.zip", PENDULUM)
    assert (loaded.get_vec_normalize_env() is not None) is trains_under_one
    assert any("VecNormalize" in note for note in notes) is trains_under_one
    arguments = ["--env", PENDULUM, "--to", str(tmp_path / "plain"), "--eval-episodes", "0", "--plain"]
    assert main(["import", str(tmp_path / "a2c.zip"), *arguments]) == 0
    assert "VecNormalize" not in capsys.readouterr().err
    with gym.make(PENDULUM) as real:
        assert zoo.load(tmp_path / "plain", env=real, device="cpu").get_vec_normalize_env() is None


def test_without_statistics_none_are_spoken_of(sac):
    _, file = sac
    notes = import_sb3(file, file.with_name("alone"), env=PENDULUM, episodes=0)
    assert not any("VecNormalize" in note for note in notes)


def test_statistics_of_dict_observations_are_read(tmp_path):
    space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float64), "mean": spaces.Box(-9, 9, (1,), np.float64)})
    kwargs = {"observation_space": space, "action_space": spaces.Discrete(2)}
    gym.register("NamedOfZips-v0", Still, kwargs=kwargs)
    try:
        venv = seen("NamedOfZips-v0", norm_obs_keys=["a"])
        agent = sb3.A2C("MultiInputPolicy", venv, device="cpu", policy_kwargs=dict(NET))
        agent.save(tmp_path / "a2c.zip")
        venv.save(str(tmp_path / "vecnormalize.pkl"))
        own = brought(tmp_path / "a2c.zip", "NamedOfZips-v0")[0].get_vec_normalize_env()
    finally:
        gym.registry.pop("NamedOfZips-v0")
    assert own.obs_rms.keys() == {"a"} and np.array_equal(own.obs_rms["a"].mean, venv.obs_rms["a"].mean)


def test_statistics_can_be_given_as_json(tmp_path, capsys):
    agent = sb3.A2C("MlpPolicy", PENDULUM, device="cpu", policy_kwargs=dict(NET))
    agent.save(tmp_path / "a2c.zip")
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"obs": {"mean": [1, 2, 3], "var": [4, 1, 9]}, "clip_obs": 2}))
    arguments = ["--env", PENDULUM, "--to", str(tmp_path / "out"), "--eval-episodes", "1", "--normalize", str(file)]
    assert main(["import", str(tmp_path / "a2c.zip"), *arguments]) == 0
    assert f"VecNormalize: its statistics are those of {file}" in capsys.readouterr().err
    with gym.make(PENDULUM) as env:
        own = zoo.load(tmp_path / "out", env=env, device="cpu").get_vec_normalize_env()
    assert np.allclose(own.normalize_obs(np.array([3.0, 2.5, 99.0])), [1.0, 0.5, 2.0])
    for content, message in (
        ({"obs": {"mean": [1, 2, 3], "var": [4, 1, -9]}}, "a variance of the same shape, of at least 0"),
        ({"obs": {"mean": [1, 2], "var": [4, 1]}}, r"vec_normalize.obs.mean must have shape \(3,\), got \(2,\)"),
        ({"obs": {"mean": [1, 2, 3]}}, "must hold the statistics of a VecNormalize: KeyError"),
        ({"mean": [1, 2, 3]}, r"must have the entries obs, returns and .*got \['mean'\]"),
        ({"obs": {"mean": [1, 2, 3], "var": [1, 1, 1], "count": 0}}, "the count of obs must be above 0"),
        ({"obs": {"mean": [1, 2, 3], "var": [1, 1, 1]}, "norm_obs": 1}, "norm_obs must be true or false"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ZooError, match=message):
            import_sb3(tmp_path / "a2c.zip", tmp_path / "never", env=PENDULUM, normalize=file)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_nothing_in_statistics_is_unpickled(sac, tmp_path):
    _, file = sac
    mark = tmp_path / "ran"
    venv = seen(PENDULUM)
    venv.clip_reward = Payload(mark)
    for content in (pickle.dumps(venv), pickle.dumps(Payload(mark)), pickle.dumps(print), pickle.dumps([1, 2])):
        (tmp_path / "vecnormalize.pkl").write_bytes(content)
        with pytest.raises(
            ZooError, match=r"vecnormalize.pkl (can't be read without unpickling it: it names|must hold)"
        ):
            import_sb3(file, tmp_path / "never", env=PENDULUM, normalize=tmp_path / "vecnormalize.pkl")
    assert not mark.exists() and not (tmp_path / "never").exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickles_arrays_are_read_from_their_bytes(protocol):
    random = np.random.default_rng(0)
    arrays: list[Any] = [
        random.normal(size=(2, 3)),
        np.asfortranarray(random.normal(size=(2, 3)).astype(np.float32)),
        np.arange(4, dtype=">i4"),
        np.array([True, False]),
        np.zeros((0, 3)),
    ]
    found = describe_pickle(pickle.dumps(arrays, protocol=protocol), "it")
    for array, record in zip(arrays, found, strict=True):
        read: Any = array_of(record)
        assert np.array_equal(read, array) and read.shape == array.shape and read.dtype == array.dtype
    with pytest.raises(ValueError, match="an array must be of numbers"):
        array_of(describe_pickle(pickle.dumps(np.array([{}], dtype=object), protocol=protocol), "it"))


def test_a_damaged_pickle_is_an_error_and_nothing_else(tmp_path):
    venv = seen(PENDULUM, 3)
    venv.save(str(tmp_path / "it.pkl"))
    whole = (tmp_path / "it.pkl").read_bytes()
    random = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(len(damaged), size=3):
            damaged[place] = random.integers(256)
        try:
            describe_pickle(bytes(damaged[: random.integers(1, len(damaged))]), "it")
        except ZooError:
            continue


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + 30_000 * b"]\x94" + b".",  # many opcodes
        b"\x80\x04]" + 60_000 * b"\x85" + b".",  # nested tuples
        b"\x80\x04K\x01" + 90 * b"\x94h\x00h\x00\x86" + b".",
        b"\x80\x04}\x94" + 1000 * b"(" + b"u.",
        b"\x80\x04}" + b")" + 40_000 * b"\x85" + b"K\x01s.",  # a key that takes long to hash
        b"\x80\x04\x95" + 8 * b"\xff" + b".",
        b"\x80\x04\x8e" + 7 * b"\xff" + b"\x0f",  # bytes without end
        b"\x80\x04" + 200_000 * b"N" + b".",
        b"cos\nsystem\n(S'true'\ntR.",
        b"",
    ],
)
def test_a_pickle_that_asks_for_much_is_refused_or_read_at_once(content):
    try:
        describe_pickle(content, "it")
    except ZooError as error:
        assert str(error).startswith("it ")


# -- zips that claim much -----------------------------------------------------------------------------


def test_a_zip_that_unpacks_to_much_more_is_refused(sac, tmp_path):
    _, file = sac
    zeros = torch_bytes({"a": torch.zeros(4_000_000)})
    with zipfile.ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist()}

    def write(name: str, changes: dict[str, bytes], **arguments: Any) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", **arguments) as new:
            for member, content in {**members, **changes}.items():
                new.writestr(member, content)
        return tmp_path / name

    inner = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(zeros)) as old, zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    many = {f"member{index}": b"" for index in range(40_000)}
    for bomb, message in (
        (write("packed.zip", {"policy.pth": zeros}, compression=zipfile.ZIP_DEFLATED), "not packed a hundredfold"),
        (write("inner.zip", {"policy.pth": inner.getvalue()}), "policy.pth holds more than tensors: .*hundredfold"),
        (write("data.zip", {"data": 4_000_001 * b" "}), "data must have at most 4000000 bytes"),
        (write("many.zip", many), "a directory must have at most 2000000 bytes"),
        (write("lzma.zip", {}, compression=zipfile.ZIP_LZMA), "must be stored or deflated"),
        (write("cut.zip", {"policy.pth": members["policy.pth"][:1000]}), "policy.pth holds more than tensors"),
        (write("deep.zip", {"data": 100_000 * b"["}), "is not JSON"),
    ):
        with pytest.raises(ZooError, match=message):
            import_sb3(bomb, tmp_path / "never", env=PENDULUM)
    write("escape.zip", {"../../escaped": b"x"})  # members of other names are not looked at
    import_sb3(tmp_path / "escape.zip", tmp_path / "out", env=PENDULUM, episodes=0)
    assert not (tmp_path.parent.parent / "escaped").exists()
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ZooError, match=r"pipe\.zip must be a file"):
        import_sb3(tmp_path / "pipe.zip", tmp_path / "never", env=PENDULUM)
