"""Recipes: what to train with, as plain YAML literals."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, read_bytes

SECTIONS = ("agent", "strategy", "model_based", "dynamics", "normalize")
# The other keys of a recipe, with the option of `mbrl-zoo train` that changes each.
OPTIONS = {"algo": "--algo", "steps": "-n", "num_envs": "--num-envs", "deterministic": "--deterministic"}

DEFAULT_DYNAMICS = "EnsembleDynamics"  # the kind of a recipe's model, if it names none

_EXAMPLES = {"params": "strategy.real_ratio=0.1", "env_kwargs": "g=9.81"}

# SB3's and sb3-contrib's agents, which people may write in place of ours.
_ON_POLICY = ("a2c", "ars", "maskableppo", "ppo", "recurrentppo", "trpo")
_OFF_POLICY = {name.lower(): name for name in ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "DQN", "QRDQN")}

# Arguments that mean the same to every off-policy agent, so that they stay when another algorithm is chosen.
SHARED_ARGUMENTS = (
    "learning_starts",
    "gradient_steps",
    "train_freq",
    "learning_rate",
    "batch_size",
    "gamma",
    "policy_kwargs",
)


class _Literals(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: ``1e-3`` is a number, and ``yes`` and ``12:30`` are strings.

    PyYAML follows YAML 1.1, where ``00143`` is octal, 99. Here it is refused. Beyond YAML 1.2, digits may be
    grouped as in Python, ``10_000``.
    """

    # Starts empty, without the YAML 1.1 resolvers of SafeLoader.
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value, base=0)
        except ValueError:
            problem = f"a whole number must not begin with 0, got {node.value!r}"
            raise yaml.constructor.ConstructorError(problem=problem) from None


# The core schema (YAML 1.2.2, section 10.3.2). The first match counts: whole numbers come before floats.
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+(_[0-9]+)*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Literals.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first)
_Literals.add_constructor("tag:yaml.org,2002:int", _Literals.construct_whole_number)


def read_literals(text: str) -> Any:
    """Read YAML literals; nothing in the text can run code.

    Raises:
        yaml.YAMLError: for text that is not YAML, has a Python tag, or a whole number that begins with 0.
    """
    return yaml.load(text, Loader=_Literals)  # safe: _Literals is a SafeLoader


class _Writer(yaml.SafeDumper):
    """Writes what :class:`_Literals` reads: the string ``1e-3``, no number to YAML 1.1, in quotes."""

    yaml_implicit_resolvers = _Literals.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out each time."""
        return True


def write_literal(value: Any) -> str:
    """Return a value as the text of which :func:`read_literals` makes it again, in one line where it has none."""
    text = yaml.dump(
        value, Dumper=_Writer, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


@dataclass(frozen=True)
class Recipe:
    """Settings of one agent on one environment.

    Attributes:
        algo: SB3's name of the model-free agent, such as ``"SAC"``.
        steps: env steps to train for.
        agent, strategy, model_based, dynamics: keyword arguments of the four constructors.
        normalize: keyword arguments of SB3's VecNormalize around the training env; empty for no VecNormalize.
        num_envs: envs to train in at once. Steps are those of all envs together, except in SB3's ``train_freq`` and
            ``n_steps``, which count the steps of each env.
        deterministic: whether evaluations, and the zoo by default, play the policy's modes; samples otherwise.
    """

    algo: str
    steps: int
    agent: dict[str, Any]
    strategy: dict[str, Any]
    model_based: dict[str, Any]
    dynamics: dict[str, Any]
    normalize: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 1
    deterministic: bool = True


def load_recipe(
    agent: str,
    env_id: str,
    *,
    file: str | Path | None = None,
    algo: str | None = None,
    discrete_actions: bool = False,
) -> Recipe:
    """Read the recipe of an agent for an environment, on top of the agent's defaults.

    Args:
        agent: such as ``"mbpo"``.
        env_id: an env without an entry gets the defaults; ``"package:id"`` uses the entry of ``id`` if it has none.
        file: a file of recipes to use in place of the library's, in the same form.
        algo: SB3's name of the model-free agent; default: the entry's. For another one than the entry's, only the
            arguments in ``SHARED_ARGUMENTS`` are kept.
        discrete_actions: whether the env's actions are Discrete, which decides ``algo`` if the entry names none.

    Raises:
        ValueError: for an agent without recipes, or an unknown key (the nearest valid one is named).
    """
    entries = _shipped(agent) if file is None else _read_file(Path(file))
    try:
        return recipe_from(entries, env_id, algo=algo, discrete_actions=discrete_actions)
    except ValueError as error:
        raise ValueError(f"recipe {f'{agent}.yml' if file is None else file}: {error}") from error


def has_entry(agent: str, env_id: str) -> bool:
    """Tell whether the library's recipes of an agent have settings for an env, and not the defaults alone.

    Raises:
        ValueError: for an agent without recipes.
    """
    entries = _shipped(agent)
    return env_id in entries or env_id.rpartition(":")[2] in entries


def _shipped(agent: str) -> Mapping[str, Any]:
    file = importlib.resources.files("mbrl_wrappers.zoo") / "recipes" / f"{agent}.yml"
    if not agent.isidentifier() or not file.is_file():
        raise ValueError(f"agent must be one of {available_agents()}, got {agent!r}{hint_about(agent)}")
    return read_literals(file.read_text(encoding="utf-8"))


def _read_file(file: Path) -> Mapping[str, Any]:
    try:
        entries = read_literals(read_bytes(file, MAX_JSON_BYTES, links=True).decode())
    except (UnicodeError, ZooError, yaml.YAMLError) as error:
        raise ValueError(f"recipe must be a file of YAML literals, got {file}: {error}") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("default"), dict):
        raise ValueError(f"recipe {file} must have an entry 'default' that names algo and steps, got {entries!r}")
    for key in ("algo", "steps"):
        if key not in entries["default"]:
            raise ValueError(f"recipe {file}: default must name {key}, got {sorted(entries['default'])}")
    return entries


def recipe_from(
    entries: Mapping[str, Any], env_id: str, *, algo: str | None = None, discrete_actions: bool = False
) -> Recipe:
    """Merge the entries of a recipe file for one environment; see :func:`load_recipe`.

    Args:
        entries: ``default``, ``discrete_algo``, ``algorithms`` and one entry per env id, as in the library's files.
        env_id: as for :func:`load_recipe`.
        algo: as for :func:`load_recipe`.
        discrete_actions: as for :func:`load_recipe`.

    Raises:
        ValueError: naming the key that is unknown or has an invalid value.
    """
    if algo is not None and not isinstance(algo, str):
        raise ValueError(f"algo must be a name, got {algo!r}")
    _check_entries(entries)
    registered = env_id.rpartition(":")[2]
    default, own = entries["default"], entries.get(env_id, entries.get(registered, {}))
    usual_algo = entries.get("discrete_algo", default["algo"]) if discrete_actions else default["algo"]
    own_algo = own.get("algo", usual_algo)
    algo = algo or own_algo
    arguments = {
        **_arguments_for(algo, default["algo"], default.get("agent", {})),
        **entries.get("algorithms", {}).get(algo, {}),
        **_arguments_for(algo, own_algo, own.get("agent", {})),
    }
    sections = {name: {**default.get(name, {}), **own.get(name, {})} for name in SECTIONS}
    return Recipe(
        algo=algo,
        steps=own.get("steps", default["steps"]),
        num_envs=own.get("num_envs", default.get("num_envs", 1)),
        deterministic=own.get("deterministic", default.get("deterministic", True)),
        **{**sections, "agent": arguments},
    )


def recipe_yaml(recipe: Recipe, steps: int) -> str:
    """Return a file of recipes with this one as its default, for ``--recipe FILE``."""
    sections = {name: getattr(recipe, name) for name in SECTIONS if getattr(recipe, name)}
    rare: dict[str, Any] = {} if recipe.num_envs == 1 else {"num_envs": recipe.num_envs}
    if not recipe.deterministic:
        rare["deterministic"] = False
    default = {"algo": recipe.algo, "steps": steps, **rare, **sections}
    return yaml.dump({"default": default}, Dumper=_Writer, sort_keys=False)


def available_agents() -> list[str]:
    """Return the agents that have recipes."""
    folder = importlib.resources.files("mbrl_wrappers.zoo") / "recipes"
    return sorted(file.name.removesuffix(".yml") for file in folder.iterdir() if file.name.endswith(".yml"))


def override(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """Change single arguments of a recipe.

    Args:
        recipe: the recipe, which is not changed.
        params: values by ``"section.argument"``, such as ``{"strategy.real_ratio": 0.1}``. With another
            ``"dynamics.kind"`` than the recipe's, its arguments of the model are dropped: they are the other kind's.

    Raises:
        ValueError: for a name of another form, or an unknown section.
    """
    sections: dict[str, Any] = {name: dict(getattr(recipe, name)) for name in SECTIONS}
    own_kind = recipe.dynamics.get("kind", DEFAULT_DYNAMICS)
    if params.get("dynamics.kind", own_kind) != own_kind:
        sections["dynamics"] = {}
    for key, value in params.items():
        check_text("each name of params", key)
        section, dot, name = key.partition(".")
        if not dot or not name:
            raise ValueError(f"params must have names like 'strategy.real_ratio', got {key!r}")
        check_name(section, SECTIONS, f"params {key!r}: the section")
        sections[section][name] = value
    return dataclasses.replace(recipe, **sections)


def parse_params(assignments: Iterable[str], what: str = "params") -> dict[str, Any]:
    """Read ``name=value`` strings, the values as YAML literals.

    Args:
        assignments: the strings.
        what: ``"params"`` or ``"env_kwargs"``, for the error.

    Raises:
        ValueError: for a string without ``=``, a value that is not YAML, or a whole number that begins with 0.
    """
    params = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"{what} must be like {_EXAMPLES[what]!r}, got {assignment!r}")
        try:
            params[name] = read_literals(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{what} must have YAML literals as values, got {assignment!r}: {error}") from error
    return params


def check_name(name: str, valid: Iterable[str], what: str) -> None:
    """Refuse an unknown name, and name the nearest valid one.

    Raises:
        ValueError: if ``name`` is not in ``valid``.
    """
    valid = sorted(valid)
    if name not in valid:
        if not isinstance(name, str):
            raise ValueError(f"{what} must be one of {valid}, got {name!r}")
        nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)[0]
        raise ValueError(f"{what} must be one of {valid}, got {name!r}; did you mean {nearest!r}?")


def hint_about(name: str) -> str:
    """Return what to write in place of a name of SB3's agents, or of a similar one of ours; it begins with a colon."""
    if name.lower() in _ON_POLICY:
        return (
            f": {name} learns inside a model. Train one by `mbrl-zoo train mbpo`, and then "
            f"`{name.upper()}('MlpPolicy', ImaginedVecEnv(zoo.load_dynamics(FOLDER), num_envs=64)).learn(100_000)`"
        )
    if name.lower() in _OFF_POLICY:
        return f": mbpo makes it model-based. Write `mbrl-zoo train mbpo --algo {_OFF_POLICY[name.lower()]}`"
    nearest = difflib.get_close_matches(name, available_agents(), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _arguments_for(algo: str, written_for: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if algo == written_for:
        return arguments
    return {name: value for name, value in arguments.items() if name in SHARED_ARGUMENTS}


def check_text(what: str, value: Any) -> None:
    """Refuse anything but a string.

    Raises:
        ValueError: naming the value.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, got {value!r}")


def _check_entries(entries: Mapping[str, Any]) -> None:
    """Refuse invalid values in any entry of a recipe file."""
    for name, entry in entries.items():
        check_text("each recipe key", name)
        if name == "discrete_algo":
            check_text(name, entry)
        elif name == "algorithms":
            _check_mapping(name, entry, "of arguments by algorithm")
            for algo, arguments in entry.items():
                _check_mapping(f"algorithms.{algo}", arguments)
        else:
            _check_entry(entry, name)


def _check_entry(entry: Any, name: str) -> None:
    _check_mapping(name, entry, "of algo, steps, num_envs, deterministic and sections of arguments")
    for key in entry:
        check_name(key, (*OPTIONS, *SECTIONS), f"recipe key of {name}")
    check_whole_number(f"steps of {name}", entry.get("steps", 1))
    check_whole_number(f"num_envs of {name}", entry.get("num_envs", 1))
    check_text(f"algo of {name}", entry.get("algo", ""))
    if not isinstance(entry.get("deterministic", True), bool):
        raise ValueError(f"deterministic of {name} must be true or false, got {entry['deterministic']!r}")
    for section in SECTIONS:
        _check_mapping(f"{section} of {name}", entry.get(section, {}))


def _check_mapping(what: str, value: Any, kind: str = "of arguments") -> None:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} must be a mapping {kind}, got {value!r}")
