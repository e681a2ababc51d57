"""Langevin steps with the public JAX code's network (github.com/noegroup/ScoreMD), from a checkout.

The network is imported; the integrator around it is written here, in float32 and as one compiled
loop, as that code has it. What it needs is what :mod:`training_jax` needs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_jax import make_model

from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig

NAME = "public JAX code"

FORCE_TIME = 1e-5
#: Time step, friction and thermal velocity in units in which the speed does not depend on them.
TIMESTEP, FRICTION = 1e-4, 1.0


def same_network_exists(network: GraphTransformerConfig) -> bool:
    """Say whether the public code has this network."""
    published = GraphTransformerConfig()
    own = (network.heads, network.head_dim, network.noise_floor)
    return own == (published.heads, published.head_dim, published.noise_floor)


def simulation_stepper(
    checkout: Path, network: GraphTransformerConfig, n_beads: int, replicas: int
) -> Callable[[int], None]:
    """Return a function that makes steps of ``replicas`` copies, all of a call in one loop."""
    jax = importlib.import_module("jax")
    model = make_model(network, checkout)
    key = jax.random.PRNGKey(0)
    x = 0.1 * jax.random.normal(key, (replicas, 3 * n_beads))
    t = jax.numpy.full((replicas, 1), FORCE_TIME)
    parameters = model.init(key, x[:1], None, t[:1], True)
    damping = math.exp(-FRICTION * TIMESTEP)

    def step(_: Any, state: Any) -> Any:
        x, v, key = state
        key, used = jax.random.split(key)
        v = v + TIMESTEP * model.apply(parameters, x, None, t, True)
        x = x + 0.5 * TIMESTEP * v
        noise = jax.random.normal(used, v.shape)
        v = damping * v + math.sqrt(1.0 - damping**2) * noise
        return x + 0.5 * TIMESTEP * v, v, key

    @jax.jit
    def loop(n_steps: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, n_steps, step, state)

    state = [(x, jax.numpy.zeros_like(x), key)]

    def run(n_steps: int) -> None:
        state[0] = jax.block_until_ready(loop(n_steps, state[0]))

    return run
