"""What can be said of an env without a model: its spaces, its seeds, its pictures, and Gymnasium's own check."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence

from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.zoo.doctor.findings import Findings

NUM_REPLAYED = 60
NUM_SEEDS = 3
_ROUNDING = 1e-3
_LATE = 10  # steps after which rounding errors may have moved a contact to another step
# Complaints of Gymnasium's check that no agent suffers from: whether seeds work is tried out below.
_HARMLESS = ("np_random", "random number generators", "random generates", "infos returned", "step info")

MakeEnv = Callable[..., gym.Env]


def check_spaces(env: gym.Env, findings: Findings) -> None:
    """Judge whether models and agents can take the spaces."""
    for topic, name in (("observations", "observation_space"), ("actions", "action_space")):
        try:
            FlatSpace(getattr(env, name), name, images=topic == "observations")
        except ValueError as error:
            findings.fault(topic, str(error))
    action = env.action_space
    if isinstance(action, spaces.Box):
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            findings.fault("actions", f"their bounds must be finite, or random actions are huge, got {action}")
        elif (action.low >= action.high).any():
            findings.fault("actions", f"their lower bounds must be below the upper ones, got {action}")
    elif isinstance(action, spaces.Discrete):
        if action.start != 0:
            findings.fault("actions", f"they must be numbered from 0, as SB3's agents count, got {action}")
    else:
        findings.remark("actions", f"SB3's off-policy agents take Box and Discrete, not {action}: use PPO in a model")


def shows_images(env: gym.Env) -> bool:
    """Tell whether the observations are images, or hold some, which only models with an encoder take."""
    try:
        FlatSpace(env.observation_space)
    except ValueError:
        return True
    return False


def check_interface(env: gym.Env, findings: Findings) -> None:
    """Run Gymnasium's own check."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    except Exception as error:  # it asserts, and the env may raise anything
        says = f"gymnasium.utils.env_checker.check_env says: {' '.join(str(error).split())[:300] or repr(error)}"
        harmless = isinstance(error, AssertionError) and any(part in str(error) for part in _HARMLESS)
        (findings.remark if harmless else findings.fault)("episodes", says)


def check_corners(env: gym.Env, findings: Findings) -> None:
    """Take the smallest and the largest action."""
    action = env.action_space
    if not isinstance(action, spaces.Box) or not np.isfinite([action.low, action.high]).all():
        return
    for name, corner in (("smallest", action.low), ("largest", action.high)):
        with findings.catching("actions", f"step with the {name} action"):
            env.reset(seed=0)
            env.step(corner.copy())


def check_seeds(make: MakeEnv, env: gym.Env, findings: Findings) -> None:
    """Play the same episode again, in the same env and in a new one, and one with other actions."""
    if env.spec is not None and env.spec.nondeterministic:
        findings.remark("seeds", "the env says of itself that it is not deterministic: its episodes can't be repeated")
        return
    matters = False
    for seed in range(NUM_SEEDS):
        actions, others = (_random_actions(env, which) for which in (2 * seed, 2 * seed + 1))
        first = _play(env, seed, actions)
        other = _play(env, seed, others)
        again = _play(env, seed, actions)
        with make() as fresh, make() as other_fresh:
            anew, anew_again = _play(fresh, seed, actions), _play(other_fresh, seed, actions)
        if not _alike(anew, anew_again):
            findings.fault(
                "seeds",
                f"reset(seed={seed}) and the same actions made different episodes in two new envs, from "
                f"{_first_difference(anew, anew_again)} on: take all chance from self.np_random, after "
                "super().reset(seed=seed)",
            )
            return
        for played in (first, again):
            if not _alike(played, anew):
                is_rounding = _is_rounding(played, anew)  # of simulators that keep what they have solved
                (findings.remark if is_rounding else findings.fault)(
                    "seeds",
                    f"reset(seed={seed}) and the same actions made another episode than in a new env, from "
                    f"{_first_difference(played, anew)} on{', by rounding' * is_rounding}: reset leaves something of "
                    "the last episode",
                )
                return
        matters = matters or not _alike(first, other)
    if not matters:
        findings.fault("actions", f"they change nothing: {NUM_SEEDS} episodes went the same way with others")


def check_rendering(make: MakeEnv, env: gym.Env, findings: Findings) -> str:
    """Try to render a picture, and return what came of it."""
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        findings.remark("rendering", "there is no render mode 'rgb_array': reports have no videos")
        return f"modes {list(modes)}"
    try:
        with make(render_mode="rgb_array") as rendered:
            rendered.reset(seed=0)
            picture: Any = rendered.render()
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        findings.remark("rendering", f"a package is missing: {' '.join(str(error).split())}")
        return "not installed"
    except Exception as error:  # renderers raise all kinds of errors, most of them because of the machine
        is_envs = isinstance(
            error, AttributeError | IndexError | KeyError | NameError | NotImplementedError | TypeError
        )
        says = f"render_mode='rgb_array' fails: {' '.join(str(error).split())[:300]}"
        (findings.fault if is_envs else findings.remark)("rendering", says)
        return "broken"
    is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3
    if not is_picture or picture.shape[-1] != 3:
        seen = f"{picture.dtype}{list(picture.shape)}" if isinstance(picture, np.ndarray) else repr(picture)
        findings.fault("rendering", f"render must return an array of uint8 [height, width, 3], got {seen}")
        return "broken"
    return f"pictures of {picture.shape[1]} x {picture.shape[0]}"


def _random_actions(env: gym.Env, seed: int) -> list[Any]:
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(NUM_REPLAYED)]


def _play(env: gym.Env, seed: int, actions: Sequence[Any]) -> list[Any]:
    """Return what reset and each step returned, but for infos, to the end of the episode."""
    seen: list[Any] = [copy.deepcopy(env.reset(seed=seed)[0])]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(copy.deepcopy(action))
        seen.append((copy.deepcopy(obs), np.asarray(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            break
    return seen


def _alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(data_equivalence, one, other))


def _is_rounding(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Tell whether the first observations that differ do so by little, in relation to them, or late."""
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if not data_equivalence(a, b):
            first, second = (part[0] if isinstance(part, tuple) else part for part in (a, b))
            if not isinstance(first, np.ndarray) or first.shape != second.shape:
                return False
            gap = np.abs(first.astype(float) - second.astype(float)) / (1 + np.abs(first.astype(float)))
            # Where observations are equal, the reward or the end differs.
            return bool(gap.max() > 0) and bool(gap.max() < _ROUNDING or step > _LATE)
    return False


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    step = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if not data_equivalence(a, b)), None)
    return "the first observation" if step == 0 else f"step {min(len(one), len(other)) if step is None else step}"
