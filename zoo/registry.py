"""What the zoo knows by name. A name found in a file is looked up here, never imported.

Add your own agent with :func:`register_agent` and a recipe file, and a function or class that agents take as an
argument, such as an activation or a schedule, with :func:`register`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import sb3_contrib
import stable_baselines3 as sb3
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat import rmsprop_tf_like
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers.agents import (
    I2A,
    M2AC,
    MAAC,
    MACURA,
    MVE,
    PETS,
    POPLIN,
    RS,
    SACSVG,
    STEVE,
    SVG,
    TDMPC2,
    AlphaZero,
    CompiledSAC,
    CompiledTD3,
    CompiledTQC,
    Dreamer,
    Dyna,
    ExIt,
    PlaNet,
    RealData,
    WorldModels,
    networks,
)
from mbrl_wrappers.agents.model_based_agent import ModelBasedAgent
from mbrl_wrappers.imagination import Strategy
from mbrl_wrappers.models import (
    MDNRNN,
    RSSM,
    CopyDynamics,
    EnsembleDynamics,
    FrameDynamics,
    ImplicitModel,
    SokobanDynamics,
    WorldModel,
)


@dataclass(frozen=True)
class AgentRecord:
    """The zoo's record of an algorithm that ``mbrl-zoo train`` knows by name.

    Attributes:
        kind: a strategy for the imagined data of an SB3 agent, or an agent's class. Several names may share a class
            and differ in their recipes.
        paper: authors and year.
        title: a one-line summary.
    """

    kind: type[Strategy] | type[BaseAlgorithm]
    paper: str = ""
    title: str = ""

    @property
    def serves_others(self) -> bool:
        """Whether it is a strategy that makes an SB3 agent model-based, not a complete agent."""
        return issubclass(self.kind, Strategy)

    @property
    def strategy(self) -> type[Strategy] | None:
        """The strategy that gives the agent its model, with arguments from the recipe; None for an agent that plans."""
        if issubclass(self.kind, Strategy):
            return self.kind
        return self.kind.default_strategy if issubclass(self.kind, ModelBasedAgent) else None

    @property
    def control(self) -> str | None:
        """SB3's name of the same agent without the model; None for strategies, and for agents that need a model."""
        return self.kind.model_free if issubclass(self.kind, ModelBasedAgent) else None

    @property
    def not_shared(self) -> frozenset[str]:
        """Arguments of the agent that the control must not take over."""
        return self.kind.not_shared if issubclass(self.kind, ModelBasedAgent) else frozenset()


# Keys are the names that `mbrl-zoo train` takes.
AGENTS: dict[str, AgentRecord] = {
    "alphazero": AgentRecord(AlphaZero, "Silver et al. 2018", "learns a game from searches in games against itself"),
    "dhmbpo": AgentRecord(
        MAAC, "Kubo et al. 2025", "SAC whose actor and critic learn from short rollouts on imagined states"
    ),
    "dreamer": AgentRecord(
        Dreamer, "Hafner et al. 2020, 2023", "actor and critic learn in the dream of a latent model, of pixels too"
    ),
    "exit": AgentRecord(ExIt, "Anthony et al. 2017", "a network imitates the search that it makes better"),
    "i2a": AgentRecord(
        I2A, "Weber et al. 2017", "A2C or PPO that looks at rollouts of a model, whatever these are worth"
    ),
    "m2ac": AgentRecord(M2AC, "Pan et al. 2020", "MBPO with the imagined rows that the model is surest of"),
    "maac": AgentRecord(MAAC, "Clavera et al. 2020", "SAC whose actor climbs the gradient of imagined returns"),
    "macura": AgentRecord(MACURA, "Frauenknecht et al. 2024", "MBPO whose rollouts end where the model is too unsure"),
    "mad_td": AgentRecord(Dyna, "Voelcker et al. 2025", "many updates, kept steady by a twentieth of imagined rows"),
    "mbpo": AgentRecord(Dyna, "Janner et al. 2019", "any off-policy agent, trained on imagined rows (Dyna)"),
    "mve": AgentRecord(MVE, "Feinberg et al. 2018", "critics' targets look some imagined steps ahead"),
    "pets": AgentRecord(PETS, "Chua et al. 2018", "plans in an ensemble by the cross-entropy method"),
    "planet": AgentRecord(PlaNet, "Hafner et al. 2019", "plans in the states of a latent model, of pixels too"),
    "poplin": AgentRecord(POPLIN, "Wang and Ba 2019", "plans from a policy, and learns it from its plans"),
    "rs": AgentRecord(RS, "Wang et al. 2019", "plans in one network by random shooting"),
    "sac_svg": AgentRecord(SACSVG, "Amos et al. 2021", "MAAC on real states alone"),
    "steve": AgentRecord(STEVE, "Buckman et al. 2018", "MVE whose horizons are weighted by how sure the ensembles are"),
    "svg": AgentRecord(SVG, "Heess et al. 2015", "the policy climbs the value's gradient along real trajectories"),
    "tdmpc2": AgentRecord(
        TDMPC2, "Hansen et al. 2024", "plans in a latent model, with a critic behind the plan's horizon"
    ),
    "world_models": AgentRecord(
        WorldModels, "Ha and Schmidhuber 2018", "a linear controller evolves in the dreams of a model, of pixels too"
    ),
}


def agent_table() -> str:
    """Return the table of agents of the site; ``mbrl-zoo list --agents --markdown`` prints it."""
    lines = ["| `mbrl-zoo train` | paper | |", "|---|---|---|"]
    lines += [f"| `{name}` | {record.paper} | {record.title} |" for name, record in AGENTS.items() if record.title]
    return "\n".join(lines)


ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    kind.__name__: kind
    for kind in (
        sb3.A2C,
        sb3.DDPG,
        sb3.DQN,
        sb3.PPO,
        sb3.SAC,
        sb3.TD3,
        sb3_contrib.ARS,
        sb3_contrib.CrossQ,
        sb3_contrib.MaskablePPO,
        sb3_contrib.QRDQN,
        sb3_contrib.RecurrentPPO,
        sb3_contrib.TQC,
        sb3_contrib.TRPO,
        CompiledSAC,
        CompiledTD3,
        CompiledTQC,
        AlphaZero,
        Dreamer,
        ExIt,
        I2A,
        MAAC,
        PETS,
        POPLIN,
        PlaNet,
        RS,
        SACSVG,
        SVG,
        TDMPC2,
        WorldModels,
    )
}

# Recipes name SB3's agents; these faster ones are used in their place.
COMPILED: dict[str, type[BaseAlgorithm]] = {"SAC": CompiledSAC, "TD3": CompiledTD3, "TQC": CompiledTQC}

STRATEGIES: dict[str, type[Strategy]] = {kind.__name__: kind for kind in (Dyna, M2AC, MACURA, MVE, RealData, STEVE)}

# Keys are the `kind` in recipes and saved agents.
DYNAMICS: dict[str, type[WorldModel]] = {
    kind.__name__: kind
    for kind in (CopyDynamics, EnsembleDynamics, FrameDynamics, ImplicitModel, MDNRNN, RSSM, SokobanDynamics)
}

OBJECTS: dict[str, Any] = {
    **{
        name: getattr(torch.nn, name)
        for name in ("ELU", "GELU", "Identity", "LeakyReLU", "Mish", "ReLU", "SiLU", "Tanh")
    },
    **{name: getattr(networks, name) for name in networks.__all__},
    **{name: getattr(torch.optim, name) for name in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD")},
    "RMSpropTFLike": rmsprop_tf_like.RMSpropTFLike,
    **{
        kind.__name__: kind
        for kind in (
            buffers.DictReplayBuffer,
            buffers.DictRolloutBuffer,
            buffers.NStepReplayBuffer,
            buffers.ReplayBuffer,
            buffers.RolloutBuffer,
            HerReplayBuffer,
            MaskableDictRolloutBuffer,
            MaskableRolloutBuffer,
            torch_layers.CombinedExtractor,
            torch_layers.FlattenExtractor,
            torch_layers.NatureCNN,
        )
    },
}


def register_agent(name: str, kind: type[Strategy] | type[BaseAlgorithm]) -> None:
    """Register an agent for recipes, ``mbrl-zoo train`` and saved agents.

    The constructor's arguments must be literals or registered objects, and be kept as attributes of the same names. An
    argument ``dynamics`` is the agent's model, which is built from the recipe's ``dynamics`` and saved with the agent.

    Args:
        name: the name for users, such as ``"m2ac"``; its recipes are in ``zoo/recipes/NAME.yml``.
        kind: the class of a :class:`~mbrl_wrappers.imagination.Strategy`, or of an SB3 agent.

    Raises:
        ValueError: if ``kind`` is neither, or the name is taken.
    """
    if not (isinstance(kind, type) and issubclass(kind, Strategy | BaseAlgorithm)):
        raise ValueError(f"kind must be a Strategy or an SB3 agent, got {kind!r}")
    if issubclass(kind, Strategy):
        _add(STRATEGIES, kind.__name__, kind, "strategy")
    else:
        _add(ALGORITHMS, kind.__name__, kind, "algorithm")
    if name in AGENTS and AGENTS[name].kind is kind:
        return
    _add(AGENTS, name, AgentRecord(kind), "agent")


def register_dynamics(kind: type[WorldModel]) -> None:
    """Register a class of models by its name, for recipes (``dynamics: {kind: NAME}``) and saved agents.

    Args:
        kind: a class with ``for_env``, ``description`` and ``from_description``, see
            :class:`~mbrl_wrappers.models.WorldModel`; ``for_env(env, *, seed, device, **arguments)`` builds a model.

    Raises:
        ValueError: if the class lacks one of these methods, or the name is taken.
    """
    if not (isinstance(kind, type) and issubclass(kind, WorldModel)):
        raise ValueError(f"kind must be a WorldModel, got {kind!r}")
    for method in ("for_env", "description", "from_description"):
        if inspect.getattr_static(kind, method, None) is inspect.getattr_static(WorldModel, method, None):
            raise ValueError(f"kind must have a method {method} of its own, got {kind.__name__} without it")
    _add(DYNAMICS, kind.__name__, kind, "dynamics")


def register(name: str, value: Any) -> None:
    """Register a class or function that agents take as an argument: an extractor, a schedule, a policy.

    Raises:
        ValueError: if the name is taken.
    """
    _add(OBJECTS, name, value, "object")


def registered_classes(base: type) -> dict[str, type]:
    """Return the registered arguments of agents that are classes of a kind, such as policies, by their names."""
    return {name: value for name, value in OBJECTS.items() if isinstance(value, type) and issubclass(value, base)}


def name_of(value: Any, names: Mapping[str, Any]) -> str | None:
    """Return the name of this very object in a registry, None if it is not there."""
    return next((name for name, known in names.items() if known is value), None)


def argument_names(kind: type) -> list[str]:
    """Return the names of a constructor's arguments, including those that it passes on to its base class."""
    return list(argument_types(kind))


def argument_types(kind: type) -> dict[str, Any]:
    """Return the annotated type of each of :func:`argument_names`, ``Any`` where there is no readable annotation."""
    types: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"]
        types |= {p.name: _type_of(p, base.__module__) for p in named if p.name not in types}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return types


def argument_defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of those of :func:`argument_names` that have one."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
    return {name: value for name, value in found.items() if name in argument_types(kind)}


def _type_of(parameter: inspect.Parameter, module: str) -> Any:
    """Return a parameter's evaluated annotation; Any if it needs an import that only type checkers make."""

    def holder() -> None: ...

    if parameter.annotation is parameter.empty:
        return Any
    holder.__annotations__ = {"it": parameter.annotation}
    try:
        return get_type_hints(holder, vars(sys.modules[module]))["it"]
    except (NameError, TypeError):
        return Any


def _add(names: dict[str, Any], name: str, value: Any, what: str) -> None:
    if names.get(name, value) is not value:
        raise ValueError(f"name must be free, but {name!r} is the {what} {names[name]!r} already")
    names[name] = value
