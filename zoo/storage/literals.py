"""Arguments of agents as JSON, and back: literals as they are, the few objects that agents take by tags.

A tag is an object with one key that begins with ``$``. Saving refuses values that are neither literals, nor have a tag
here, nor are registered; reading can't make anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

from mbrl_wrappers.spaces import space_from_json, space_to_json
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import OBJECTS, name_of

MAX_ARRAY_ENTRIES = 100_000
MAX_ENVS = 1024
_NOISES = {"$normal_noise", "$ornstein_uhlenbeck_noise"}


def encode(value: Any, what: str) -> Any:
    """Describe a value by JSON.

    Args:
        value: an argument of an agent.
        what: the argument's name for errors, such as ``"learning_rate of SAC"``.

    Raises:
        ZooError: for a value that can't be described, saying what to register.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, list):
        return [encode(part, f"{what}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, TrainFreq):
        value = (value.frequency, value.unit.value)
    if isinstance(value, tuple):
        return {"$tuple": [encode(part, f"{what}[{index}]") for index, part in enumerate(value)]}
    if isinstance(value, dict):
        return _encode_dict(value, what)
    if isinstance(value, GoalSelectionStrategy):
        return value.name.lower()
    if isinstance(value, np.ndarray):
        return _encode_array(value, what)
    if isinstance(value, spaces.Space):
        return {"$space": space_to_json(value)}
    registered = name_of(value, OBJECTS)
    if registered is not None:
        return {"$registered": registered}
    return _encode_object(value, what)


def decode(value: Any, what: str) -> Any:
    """Return the value that :func:`encode` described.

    Raises:
        ZooError: for anything else.
    """
    if isinstance(value, list):
        return [decode(part, what) for part in value]
    if not isinstance(value, dict):
        return value
    tags = [key for key in value if key.startswith("$")]
    if not tags:
        return {key: decode(part, what) for key, part in value.items()}
    if len(value) > 1 or tags[0] not in _DECODERS:
        raise ZooError(f"{what} must be a literal or have one tag of {sorted(_DECODERS)}, got {sorted(value)}")
    content = value[tags[0]]
    try:
        return _DECODERS[tags[0]](content, what)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"{what} has an unusable {tags[0]}: {error!r}") from error


def _encode_dict(value: dict[Any, Any], what: str) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or key.startswith("$"):
            raise ZooError(f"{what} must have keys that are strings without a leading '$', got {key!r}")
    return {key: encode(part, f"{what}[{key!r}]") for key, part in value.items()}


def _encode_array(value: np.ndarray, what: str) -> dict[str, Any]:
    if value.dtype.kind not in "biuf" or value.size > MAX_ARRAY_ENTRIES:
        raise ZooError(
            f"{what} must be an array of at most {MAX_ARRAY_ENTRIES} numbers, got {value.dtype} {value.size}"
        )
    entries = [encode(entry, what) for entry in value.flatten().tolist()]
    return {"$array": {"dtype": str(value.dtype), "shape": list(value.shape), "entries": entries}}


def _encode_object(value: Any, what: str) -> dict[str, Any]:
    """Describe one of SB3's schedules and noises, or refuse."""
    if isinstance(value, FloatSchedule):
        return _encode_object(value.value_schedule, what)
    if isinstance(value, ConstantSchedule):
        return {"$constant": encode(value.val, what)}
    if isinstance(value, LinearSchedule):
        return {"$linear": [encode(part, what) for part in (value.start, value.end, value.end_fraction)]}
    if type(value) is NormalActionNoise:
        return {"$normal_noise": [encode(np.asarray(part), what) for part in (value._mu, value._sigma)]}
    if type(value) is OrnsteinUhlenbeckActionNoise:
        parts: dict[str, Any] = {"mean": np.asarray(value._mu), "sigma": np.asarray(value._sigma)}
        parts |= {"theta": value._theta, "dt": value._dt, "initial_noise": value.initial_noise}
        return {"$ornstein_uhlenbeck_noise": encode(parts, what)}
    if type(value) is VectorizedActionNoise:
        return {"$vectorized_noise": [encode(value._base_noise, what), value.n_envs]}
    registered = name_of(getattr(value, "value_schedule", value), OBJECTS)
    if registered is not None:
        return {"$registered": registered}
    raise ZooError(
        f"{what} can't be saved without pickle, got {value!r}: if it is a class or function that every user of the "
        "agent has, register it on both sides by mbrl_wrappers.zoo.register('a_name', it)"
    )


def _decode_registered(content: Any, what: str) -> Any:
    if content not in OBJECTS:
        raise ZooError(
            f"{what} needs {content!r}, which is not registered here: call mbrl_wrappers.zoo.register({content!r}, it) "
            "before loading"
        )
    return OBJECTS[content]


def _decode_array(content: Mapping[str, Any], what: str) -> np.ndarray:
    dtype = np.dtype(content["dtype"])
    if dtype.kind not in "biuf" or len(content["entries"]) > MAX_ARRAY_ENTRIES:
        raise ZooError(f"{what} must be an array of at most {MAX_ARRAY_ENTRIES} numbers, got {dtype}")
    return np.array(decode(content["entries"], what), dtype=dtype).reshape(content["shape"])


def _decode_vectorized(content: Any, what: str) -> VectorizedActionNoise:
    encoded, num_envs = content
    if type(num_envs) is not int or not 1 <= num_envs <= MAX_ENVS:
        raise ZooError(f"{what} must be for at most {MAX_ENVS} envs, got {num_envs!r}")
    # Each env gets a copy of the noise, so nested vectorized noises would multiply their numbers of copies.
    if not isinstance(encoded, dict) or not encoded.keys() <= _NOISES:
        raise ZooError(f"{what} must repeat one of {sorted(_NOISES)}")
    noise = decode(encoded, what)
    entries = num_envs * (np.size(noise._mu) + np.size(noise._sigma))
    if entries > MAX_ARRAY_ENTRIES:
        raise ZooError(f"{what} must have at most {MAX_ARRAY_ENTRIES} numbers over all envs, got {entries}")
    return VectorizedActionNoise(noise, num_envs)


_DECODERS: dict[str, Callable[[Any, str], Any]] = {
    "$float": lambda content, what: float(content),
    "$tuple": lambda content, what: tuple(decode(content, what)),
    "$array": _decode_array,
    "$space": lambda content, what: space_from_json(content),
    "$registered": _decode_registered,
    "$constant": lambda content, what: ConstantSchedule(float(decode(content, what))),
    "$linear": lambda content, what: LinearSchedule(*(float(part) for part in decode(content, what))),
    "$normal_noise": lambda content, what: NormalActionNoise(*decode(content, what)),
    "$ornstein_uhlenbeck_noise": lambda content, what: OrnsteinUhlenbeckActionNoise(**decode(content, what)),
    "$vectorized_noise": _decode_vectorized,
}
