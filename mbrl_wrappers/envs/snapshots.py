"""Exact snapshots of a running environment, for planning and tree search in the true simulator.

A snapshot copies the attributes of every wrapper and of the env itself. Objects that keep their state outside Python
(MuJoCo's data, the ALE, random generators) are saved by their own methods, and the state is written back into the very
object, so that references to it stay valid. Objects without state are left alone: spaces, specs, classes, functions,
networks, renderers and windows. MuJoCo's model is constant in most envs, but some move a target or draw a mass in it:
its numbers are compared, and those that have changed are written back.

An object that releases a resource when it is deleted (``__del__``, ``weakref.finalize``) is refused before anything is
copied. A copy would share the resource, such as the connection to a physics server, and the first of the two to be
deleted would take it away from the other.

The random generators of spaces are left alone too. A planner may sample from ``env.action_space`` between two restores,
and would otherwise get the same actions each time.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import random
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

_Restore = tuple[Callable[[Any], Any], Any]  # a function, and the state to call it with
_CHECKED_STEPS = 32


class Snapshot:
    """The state of an environment at some time, for :meth:`Snapshots.restore`; it can be restored again and again."""

    def __init__(self, env: gym.Env, saver: _Saver) -> None:
        self.env = env
        self.layers = saver.layers
        self.copies = saver.stream.getvalue()
        self.kept = saver.kept
        self.states = saver.states


class Snapshots:
    """Takes and restores snapshots of an environment's full state, wrappers and random generators included.

    Supported are Python environments whose attributes can be pickled, MuJoCo environments (also if a reset changes the
    model, except its meshes and textures), and ALE environments without sticky actions. Any other env or wrapper can
    define two methods, which then replace the copy of its attributes, except Gymnasium's ``np_random`` and a wrapper's
    ``env``:

    - ``clone_state()`` returns everything that the env's future depends on, in objects that later steps don't change;
    - ``restore_state(state)`` goes back to that state, and does not change ``state``, so that it can be restored again.

    Two things can't be undone: output to files or the screen during a step (put Gymnasium's ``RecordVideo`` and the
    like around the env that is given here, not inside it), and the picture of ALE's ``render``, which shows the last
    frame that was played.

    Args:
        env: with any wrappers, reset or not.
        check: whether to test at once that repeated steps after a restore are bit-equal. The test resets the env, plays
            the same steps twice with random actions (valid ones if the env has ``action_masks``), and leaves the env as
            it was. It can prove that snapshots are inexact, not that they are exact: rare events may not occur in it.

    Raises:
        ValueError: if the env can't be saved or was not restored exactly, with the reason. The env can still be used
            afterwards.

    Example:
        >>> env = gym.make("CartPole-v1")
        >>> snapshots = Snapshots(env)
        >>> first_obs, _ = env.reset(seed=0)
        >>> start = snapshots.take()
        >>> once = env.step(0)[0]
        >>> snapshots.restore(start)
        >>> bool((env.step(0)[0] == once).all())
        True
    """

    def __init__(self, env: gym.Env, *, check: bool = True) -> None:
        self.env = env
        self._spare_data: list[Any] = []
        self._models: list[_MujocoModel] = []
        before = self.take()
        if check:
            cause = None
            try:
                problem = self._compare_runs()
            except Exception as error:
                problem, cause = f"{type(error).__name__}: {error}", error
            self.restore(before)
            if problem:
                raise ValueError(f"env must be one that a snapshot restores exactly, got {env}: {problem}") from cause

    def take(self) -> Snapshot:
        """Save the current state.

        Raises:
            ValueError: if a part of it can't be saved, naming the part.
        """
        saver = _Saver(self._spare_data, self._models)
        saver.save(self.env)
        self._models = saver.models
        return Snapshot(self.env, saver)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a state of the same env.

        Raises:
            ValueError: if the snapshot is not of this env, or a copy in it can't be read.
        """
        if snapshot.env is not self.env:
            raise ValueError(f"snapshot must be of {self.env}, got one of {snapshot.env}")
        loader = _Loader(snapshot)
        try:  # read all copies before the env is changed
            layers = [(*layer, [loader.load() for _ in layer[2]]) for layer in snapshot.layers]
        except Exception as error:
            raise ValueError(f"env must be one whose state can be restored, got {self.env}: {error}") from error
        for env, same, names, is_whole, values in layers:
            attributes = vars(env)
            attributes.update(same)
            attributes.update(zip(names, values, strict=True))
            if is_whole and len(attributes) > len(same) + len(names):
                for name in attributes.keys() - same.keys() - set(names):
                    del attributes[name]
        for function, state in snapshot.states:
            function(state)

    def _compare_runs(self) -> str | None:
        """Return how a second run from a snapshot differed from the first, None if it did not."""
        self.env.reset()
        space = copy.deepcopy(self.env.action_space)
        space.seed(0)
        snapshots, actions, results = [], [], []
        for step in range(_CHECKED_STEPS):
            if step % (_CHECKED_STEPS // 2) == 0:
                snapshots.append((step, self.take()))
            actions.append(_valid_action(self.env, space))
            results.append(_step(self.env, actions[-1]))
        self.env.reset()
        for start, snapshot in reversed(snapshots):
            self.restore(snapshot)
            for step in range(start, _CHECKED_STEPS):
                again = _step(self.env, actions[step])
                for what, value in results[step].items():
                    if not bit_equal(value, again[what]):
                        after = f"{step - start + 1} steps after a restore"
                        return f"the {what} {after} was {value} the first time and {again[what]} the second"
        return None


def _valid_action(env: gym.Env, space: gym.Space) -> Any:
    if not (isinstance(space, gym.spaces.Discrete) and env.has_wrapper_attr("action_masks")):
        return space.sample()
    return space.sample(mask=np.asarray(env.get_wrapper_attr("action_masks")()).astype(np.int8))


def _step(env: gym.Env, action: Any) -> dict[str, Any]:
    """Step, and reset at an episode's end; the results are copies, which a later step can't change."""
    obs, reward, terminated, truncated, _ = env.step(copy.deepcopy(action))
    result = {"observation": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
    result = copy.deepcopy(result)
    if terminated or truncated:
        result["first observation of the next episode"] = copy.deepcopy(env.reset()[0])
    return result


def bit_equal(a: Any, b: Any) -> bool:
    """Tell whether two observations of any space are the same to the last bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(bit_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(bit_equal, a, b))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == object or y.dtype == object:
        return bool(np.array_equal(x, y))
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


class _Saver(pickle.Pickler):
    """Copies the attributes of an env and of every env inside it, and the state of objects that are kept by reference.

    One pickler serves all attributes, so that an object which two attributes share is still shared after a restore.
    """

    def __init__(self, spare_data: list[Any], models: list[_MujocoModel]) -> None:
        self.stream = io.BytesIO()
        super().__init__(self.stream, protocol=5)
        self.spare_data = spare_data
        self.models: list[_MujocoModel] = []
        self._known_models = models
        self.layers: list[tuple[gym.Env, dict[str, Any], list[str], bool]] = []
        self.kept: list[Any] = []
        self.states: list[_Restore] = []
        self._envs: list[gym.Env] = []
        self._met: set[int] = set()

    def save(self, env: gym.Env) -> None:
        self._keep(env)
        for layer in self._envs:  # grows in the loop, by the envs inside each layer
            kind: Any = type(layer)
            attributes, is_whole, constants = vars(layer), not _clones_itself(kind), _constants(kind)
            if not is_whole:
                attributes = {name: attributes[name] for name in _BESIDE_CLONE if name in attributes}
                self.states.append((layer.restore_state, layer.clone_state()))  # type: ignore[attr-defined]
            same, names = {}, []
            for name, value in attributes.items():
                try:
                    if type(value) in _ATOMS or name in constants or self._keep(value):
                        same[name] = value
                    else:
                        self.dump(value)
                        names.append(name)
                except Exception as error:
                    part = f"{type(layer).__name__}.{name}"
                    raise ValueError(f"env must be one whose state can be saved, got {env}: {part}: {error}") from error
            self.layers.append((layer, same, names, is_whole))

    def reducer_override(self, value: Any) -> Any:
        if value is _kept:
            return NotImplemented
        if not self._keep(value):
            _check_shareable(value)
            return NotImplemented
        self.kept.append(value)
        return _kept, (len(self.kept) - 1,)

    def _keep(self, value: Any) -> bool:
        """Tell whether a value is kept by reference; save its state the first time."""
        kind: Any = type(value)
        treat = _treatment(kind)
        if treat is None:
            return False
        if id(value) not in self._met:
            self._met.add(id(value))
            treat(self, value)
        return True

    # One method for each kind of object that is kept by reference; see _TREATMENTS.

    def leave(self, value: Any) -> None:
        pass

    def follow_env(self, env: gym.Env) -> None:
        self._envs.append(env)
        if not isinstance(env, gym.Wrapper) and env._np_random is None:
            # Gymnasium makes the generator at its first use: left to that, each restore would get another one.
            _ = env.np_random

    def save_generator(self, generator: np.random.Generator) -> None:
        self.save_bits(generator.bit_generator)

    def save_bits(self, bits: np.random.BitGenerator) -> None:
        self.states.append((functools.partial(setattr, bits, "state"), bits.state))

    def save_random_state(self, generator: np.random.RandomState) -> None:
        self.states.append((generator.set_state, generator.get_state()))

    def save_python_random(self, generator: random.Random) -> None:
        self.states.append((generator.setstate, generator.getstate()))

    def save_torch_generator(self, generator: torch.Generator) -> None:
        self.states.append((generator.set_state, generator.get_state()))

    def save_mujoco(self, data: Any) -> None:
        # The full data, not MuJoCo's minimal state: the quantities derived from that lag behind by part of a step.
        from mujoco import mj_copyData

        saved = _MujocoCopy(data, self.spare_data)
        self._keep(data.model)
        self.states.append((lambda state: mj_copyData(data, data.model, state.data), saved))

    def save_mujoco_model(self, model: Any) -> None:
        known = next((other for other in self._known_models if other.model is model), None)
        numbers = _MujocoModel(model) if known is None else known
        self.models.append(numbers)
        self.states.append((numbers.restore, numbers.save()))

    def save_ale(self, ale: Any) -> None:
        if ale.getFloat("repeat_action_probability") > 0:
            raise ValueError(
                "the ALE doesn't save the last action, which its sticky actions repeat: make the env with "
                "repeat_action_probability=0.0 and wrap it in gymnasium.wrappers.StickyAction"
            )
        self.states.append((ale.restoreState, ale.cloneState(include_rng=True)))

    def refuse_box2d(self, value: Any) -> None:
        raise ValueError("Box2D worlds can't be copied")


class _Loader(pickle.Unpickler):
    """Reads the copies, and puts the kept objects themselves in their places."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(io.BytesIO(snapshot.copies))
        self._kept = snapshot.kept

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (_kept.__module__, _kept.__name__):
            return self._kept.__getitem__
        return super().find_class(module, name)


def _kept(index: int) -> Any:
    """Stand for a kept object in the copies; :class:`_Loader` puts the object there."""
    raise AssertionError(f"kept object {index} outside its snapshot")


class _MujocoCopy:
    """A copy of MuJoCo's data. To make one takes longer than a step, so it is passed on when it is no longer used."""

    def __init__(self, data: Any, spare: list[Any]) -> None:
        from mujoco import MjData, mj_copyData

        index = next((i for i, other in enumerate(spare) if other.model is data.model), None)
        self.data = MjData(data.model) if index is None else spare.pop(index)
        self._spare = spare
        mj_copyData(self.data, data.model, data)

    def __del__(self) -> None:
        self._spare.append(self.data)


class _MujocoModel:
    """The numbers of a MuJoCo model, which are read and written in place."""

    def __init__(self, model: Any) -> None:
        self.model = model
        named = {name: getattr(model, name) for name in dir(model) if not name.startswith(_MUJOCO_FILES)}
        arrays = [value for value in named.values() if isinstance(value, np.ndarray) and value.flags.writeable]
        self._scalars: list[tuple[Any, str]] = []
        for part in (model.opt, model.stat):
            fields = {name: getattr(part, name) for name in dir(part) if not name.startswith("_")}
            arrays += [value for value in fields.values() if isinstance(value, np.ndarray)]
            self._scalars += [(part, name) for name, value in fields.items() if isinstance(value, int | float)]
        self._arrays = [array for array in arrays if array.size]  # views into the model's memory
        self._last: tuple[list[bytes], list[Any]] = ([], [])

    def save(self) -> tuple[list[bytes], list[Any]]:
        """Return all numbers; the same object as long as they have not changed."""
        now = self._now()
        if now != self._last:
            self._last = now
        return self._last

    def restore(self, saved: tuple[list[bytes], list[Any]]) -> None:
        """Write changed values back."""
        (contents, numbers), (old_contents, old_numbers) = self._now(), saved
        for array, content, old in zip(self._arrays, contents, old_contents, strict=True):
            if content != old:
                array[...] = np.frombuffer(old, array.dtype).reshape(array.shape)
        for (part, name), number, old in zip(self._scalars, numbers, old_numbers, strict=True):
            if number != old:
                setattr(part, name, old)

    def _now(self) -> tuple[list[bytes], list[Any]]:
        return [array.tobytes() for array in self._arrays], [getattr(part, name) for part, name in self._scalars]


def _check_shareable(value: Any) -> None:
    """Refuse an object that releases something when it goes."""
    kind = type(value)
    if isinstance(value, io.BytesIO | io.StringIO | types.BuiltinFunctionType):  # these release only memory
        return
    references = weakref.getweakrefs(value)
    releases = isinstance(value, weakref.finalize) or any(
        isinstance(getattr(reference, "__callback__", None), weakref.finalize) for reference in references
    )
    if releases or hasattr(kind, "__del__"):
        raise ValueError(
            f"a {kind.__qualname__} releases something when it goes ({'finalize' if releases else '__del__'}), which a "
            "copy would share; clone_state and restore_state methods of the env could save its state"
        )


_ATOMS = {bool, int, float, complex, str, bytes, type(None)}
_CONSTRUCTION = frozenset({"_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs", "metadata", "_metadata"})
_BESIDE_CLONE = ("_np_random", "_np_random_seed", "env")
_PYGAME_HANDLES = ("Surface", "Clock", "Font", "Window", "Sound")

_Treatment = Callable[[_Saver, Any], None]
_TREATMENTS: list[tuple[tuple[type, ...], _Treatment]] = [
    ((gym.Env,), _Saver.follow_env),
    ((gym.Space, EnvSpec, torch.nn.Module, Snapshots, Snapshot), _Saver.leave),
    ((types.ModuleType, types.FunctionType, type), _Saver.leave),
    ((np.random.Generator,), _Saver.save_generator),
    ((np.random.BitGenerator,), _Saver.save_bits),
    ((np.random.RandomState,), _Saver.save_random_state),
    ((random.Random,), _Saver.save_python_random),
    ((torch.Generator,), _Saver.save_torch_generator),
]

_MUJOCO: dict[str, _Treatment] = {"MjData": _Saver.save_mujoco, "MjModel": _Saver.save_mujoco_model}
# Prefixes of fields that are not compared: private ones, and large ones that come from files.
_MUJOCO_FILES = ("_", "mesh_", "skin_", "tex_")


@functools.lru_cache(maxsize=1024)
def _treatment(kind: type) -> _Treatment | None:
    """Return how to treat objects of a type that are kept by reference, None for a type whose objects are copied."""
    for kinds, treat in _TREATMENTS:
        if issubclass(kind, kinds):
            return treat
    packages = _packages(kind.__mro__)
    if "Box2D" in packages:
        return _Saver.refuse_box2d
    if "mujoco" in packages:
        return _MUJOCO.get(kind.__name__, _Saver.leave)
    if "ale_py" in packages:
        return _Saver.save_ale if kind.__name__ == "ALEInterface" else _Saver.leave
    is_handle = "pygame" in packages and kind.__name__ in _PYGAME_HANDLES
    return _Saver.leave if is_handle or kind.__name__.endswith(("Renderer", "Viewer")) else None


def _packages(kinds: Iterable[type]) -> set[str]:
    """Return the top-level packages of classes, by which libraries are recognised without importing them."""
    return {kind.__module__.partition(".")[0] for kind in kinds}


@functools.lru_cache(maxsize=1024)
def _constants(kind: type) -> frozenset[str]:
    """Return the attributes whose contents never change: constructor arguments, and the tables of toy text."""
    is_table = kind.__module__.startswith("gymnasium.envs.toy_text.")
    return _CONSTRUCTION | {"P", "initial_state_distrib"} if is_table else _CONSTRUCTION


@functools.lru_cache(maxsize=1024)
def _clones_itself(kind: type) -> bool:
    # ALE's own `clone_state` leaves the random generator out.
    offers = all(callable(getattr(kind, name, None)) for name in ("clone_state", "restore_state"))
    return offers and "ale_py" not in _packages(kind.__mro__)
