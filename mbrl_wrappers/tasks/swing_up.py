"""The cart-pole swing-up of PETS as rigid-body equations, for numbers and for batches of tensors.

PETS (Chua et al., 2018, arXiv:1805.12114, section 6) swings up a pole that hangs from a cart on a rail,
simulated by MuJoCo. The equations here describe the same bodies: the cart is a capsule that lies along the rail, the
pole a capsule that turns about its upper end, both with a density of 1000 kg/m^3; the friction of the hinge and the
rail is proportional to the velocity.

    (M + m) x'' - m l cos(theta) theta'' = F - b x' - m l sin(theta) theta'^2
    -m l cos(theta) x'' + J theta''      = -c theta' - m g l sin(theta)

``theta`` is 0 where the pole hangs and turns its tip towards negative x, ``l`` is the distance of the
pole's centre of mass from the hinge, ``J`` its moment of inertia about the hinge.

Deviations: the pole of the original is tilted by 0.001 m at its tip, this one is straight. The rail of
the original ends in MuJoCo's soft limits, this one in stops without a rebound: the cart loses its velocity at
once, and the pole keeps its angular momentum about the hinge.

All functions take floats, or tensors of one shape; ``functions`` is the module with sine and cosine, ``math`` or
``torch``.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import TypeVar

import numpy as np
from gymnasium import spaces
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

# Position [m], angle [rad] and their rates of change [m/s, rad/s]; also used for the rates of change of a state.
State = tuple[Number, Number, Number, Number]

MAX_ACTION = 3.0
RAIL_END = 2.5
POLE_LENGTH = 0.6
START_STD = 0.1
TIMESTEP, NUM_TIMESTEPS = 0.02, 2

_DENSITY = 1000.0
_GRAVITY = 9.81
_FORCE = 100.0  # N for an action of 1
_SLIDER_DAMPING, _HINGE_DAMPING = 1.0, 1.0


def _capsule(radius: float, length: float) -> tuple[float, float]:
    """Return the mass of a capsule and its moment of inertia about a line across its centre.

    Args:
        radius: of the cylinder and of the half balls at its ends.
        length: of the cylinder.
    """
    cylinder = _DENSITY * math.pi * radius**2 * length
    ball = _DENSITY * math.pi * radius**3 * 4 / 3
    of_cylinder = cylinder * (length**2 / 12 + radius**2 / 4)
    of_ball = ball * (radius**2 * 2 / 5 + length**2 / 4 + radius * length * 3 / 8)
    return cylinder + ball, of_cylinder + of_ball


_CART_MASS = _capsule(radius=0.1, length=0.2)[0]
_POLE_MASS, _POLE_INERTIA = _capsule(radius=0.049, length=POLE_LENGTH)

_TOTAL_MASS = _CART_MASS + _POLE_MASS  # M + m
_SWING = _POLE_MASS * POLE_LENGTH / 2  # m l
_HINGE_INERTIA = _POLE_INERTIA + _SWING * POLE_LENGTH / 2  # J


def swing_up_spaces() -> tuple[spaces.Box, spaces.Box]:
    """Return new spaces of the task: observations ``[x, cos, sin, x', theta']`` and actions ``[a]``."""
    high = np.array([RAIL_END, 1, 1, np.inf, np.inf], np.float32)
    return spaces.Box(-high, high, dtype=np.float32), spaces.Box(-MAX_ACTION, MAX_ACTION, (1,), np.float32)


def swing_up_step(state: State[Number], action: Number, functions: ModuleType) -> State[Number]:
    """Take one step of the environment: two of the classical Runge-Kutta method (RK4).

    Args:
        state: position [m], angle [rad], velocity [m/s], angular velocity [rad/s].
        action: in [-3, 3], already clipped.
        functions: ``math`` or ``torch``.

    Returns:
        The state 0.04 s later.
    """
    force = _FORCE * action
    for _ in range(NUM_TIMESTEPS):
        state = _stopped(_runge_kutta(state, force, functions), functions)
    return state


def swing_up_reward(position: Number, cos: Number, sin: Number, action: Number, functions: ModuleType) -> Number:
    """Reward a state: near 1 where the tip is at ``(0, 0.6)``, upright over the middle of the rail.

    Args:
        position: of the cart after the step, in m.
        cos: of the angle after the step.
        sin: of the angle after the step.
        action: of the step, not clipped.
        functions: ``math`` or ``torch``.
    """
    tip_x, tip_z = position - POLE_LENGTH * sin, -POLE_LENGTH * cos
    squared_distance = tip_x**2 + (tip_z - POLE_LENGTH) ** 2
    return functions.exp(-squared_distance / POLE_LENGTH**2) - 0.01 * action**2


def _runge_kutta(state: State[Number], force: Number, functions: ModuleType) -> State[Number]:
    position, _, velocity, _ = state
    acceleration = _rates(state, force, True, functions)[2]
    # A cart that rests at a stop and is pushed against it is held for this timestep.
    free = (abs(position) < RAIL_END) | (velocity != 0) | (position * acceleration <= 0)
    first = _rates(state, force, free, functions)
    second = _rates(_moved(state, first, TIMESTEP / 2), force, free, functions)
    third = _rates(_moved(state, second, TIMESTEP / 2), force, free, functions)
    fourth = _rates(_moved(state, third, TIMESTEP), force, free, functions)
    for rates, share in ((first, 1 / 6), (second, 1 / 3), (third, 1 / 3), (fourth, 1 / 6)):
        state = _moved(state, rates, share * TIMESTEP)
    return state


def _rates(state: State[Number], force: Number, free: bool | Tensor, functions: ModuleType) -> State[Number]:
    """Return the rates of change of a state; a cart that is not free does not accelerate."""
    _, angle, velocity, angle_velocity = state
    sin, coupling = functions.sin(angle), _SWING * functions.cos(angle)
    push = force - _SLIDER_DAMPING * velocity - _SWING * sin * angle_velocity**2
    torque = -_HINGE_DAMPING * angle_velocity - _GRAVITY * _SWING * sin
    determinant = _TOTAL_MASS * _HINGE_INERTIA - coupling**2
    acceleration = free * ((_HINGE_INERTIA * push + coupling * torque) / determinant)
    return velocity, angle_velocity, acceleration, (torque + coupling * acceleration) / _HINGE_INERTIA


def _moved(state: State[Number], rates: State[Number], time: float) -> State[Number]:
    position, angle, velocity, angle_velocity = state
    return (
        position + time * rates[0],
        angle + time * rates[1],
        velocity + time * rates[2],
        angle_velocity + time * rates[3],
    )


def _stopped(state: State[Number], functions: ModuleType) -> State[Number]:
    """Keep the cart on its rail; the impact at a stop acts on the pole through the hinge."""
    position, angle, velocity, angle_velocity = state
    excess = (position > RAIL_END) * (position - RAIL_END) + (position < -RAIL_END) * (position + RAIL_END)
    lost = (excess * velocity > 0) * velocity
    kick = _SWING * functions.cos(angle) * lost / _HINGE_INERTIA
    return position - excess, angle, velocity - lost, angle_velocity - kick
