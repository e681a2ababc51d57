"""Training steps of the public JAX code (github.com/noegroup/ScoreMD), from a user's checkout.

Its networks and its Fokker-Planck residual are imported; batches, optimiser and the loop around
them are written here as that code has them: float32, everything in one jitted loop. Needs jax,
flax, optax and einops, which this package does not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig

#: Losses that the public code has.
LOSSES = ("denoising", "weak")

N_FRAMES = 4096
ALPHA, PROBE_SIGMA = 5e-4, 1e-4


def check(checkout: Path) -> None:
    """Stop with a clear message if the code or what it needs is not there."""
    if not (checkout / "src" / "scoremd" / "models").is_dir():
        raise SystemExit(
            f"{checkout} holds no src/scoremd/models; --jax takes a checkout of "
            "github.com/noegroup/ScoreMD"
        )
    names = ("jax", "flax", "optax", "einops")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"--jax needs {', '.join(missing)}, not installed here; pip install them")


def modules(checkout: Path) -> tuple[Any, Any, Any, Any]:
    """Return the public code's modules of networks, residual and schedule."""
    source = str(checkout / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    # Imported for a type only, and with it packages that read molecules.
    if "scoremd.data.dataset" not in sys.modules:
        datasets = types.ModuleType("scoremd.data.dataset")
        datasets.Dataset = object  # type: ignore[attr-defined]
        sys.modules["scoremd.data.dataset"] = datasets
    names = ("models.graph_transformer", "models.mlp", "diffusion.fp", "diffusion.classic.sde")
    transformer, mlp, residual, schedule = (
        importlib.import_module(f"scoremd.{name}") for name in names
    )
    return transformer, mlp, residual, schedule


def make_model(network: GraphTransformerConfig | MLPConfig, checkout: Path) -> Any:
    """Return the public code's network of the same shape."""
    transformer, mlp, _, _ = modules(checkout)
    times = (0.0, 1.0, True, True)
    if isinstance(network, MLPConfig):
        activation = importlib.import_module("jax").nn.swish
        return mlp.PotentialScoreModel(*times, list(network.hidden_dims), activation)
    return transformer.GraphTransformer(
        *times,
        hidden_nf=network.hidden_dim,
        feature_embedding_dim=network.feature_dim,
        max_z=[],
        n_layers=network.layers,
        potential=True,
    )


def make_loss(
    model: Any, checkout: Path, *, n_coordinates: int, batch_size: int, loss: str
) -> Callable[[Any, Any, Any], Any]:
    """Return the loss of (parameters, data, random key), on a batch of the data."""
    jax = importlib.import_module("jax")
    _, _, residual, schedule = modules(checkout)
    vp = schedule.VP()

    def function(parameters: Any, data: Any, key: Any) -> Any:
        def evaluate(method: Any) -> Callable[..., Any]:
            return lambda x, features, t: model.apply(
                parameters, x, features, t, True, method=method
            )

        keys = jax.random.split(key, 4)
        x0 = data[jax.random.randint(keys[0], (batch_size,), 0, N_FRAMES)]
        t = jax.random.uniform(keys[1], (batch_size, 1), minval=1e-5, maxval=1.0)
        noise = jax.random.normal(keys[2], x0.shape)
        mean, std = vp.marginal_prob(x0, t)
        x = mean + std * noise
        if loss == "denoising":
            score = evaluate(None)(x, None, t)
            return ((noise + std * score) ** 2).mean()
        _, squared, score = residual.residual_fp_vp_error(
            keys[3],
            vp,
            evaluate(None),
            evaluate(model.__class__.log_q),
            evaluate(model.__class__.log_q_and_score),
            x,
            None,
            t,
            vector=False,
            scalar=True,
            sigma=PROBE_SIGMA,
            partial_t_approx=True,
            single_gamma=True,
        )
        regulariser = squared.mean() / n_coordinates**2
        return ((noise + std * score) ** 2).mean() + ALPHA * regulariser

    return function


def stepper(
    checkout: Path,
    network: GraphTransformerConfig | MLPConfig,
    n_beads: int,
    n_dims: int,
    batch_size: int,
    loss: str,
) -> Callable[[int], None]:
    """Return a function that does training steps, all of one call in one compiled loop."""
    jax, optax = importlib.import_module("jax"), importlib.import_module("optax")
    n_coordinates = n_beads * n_dims
    model = make_model(network, checkout)
    key = jax.random.PRNGKey(0)
    data = jax.random.normal(key, (N_FRAMES, n_coordinates))
    parameters = model.init(key, data[:2], None, jax.numpy.full((2, 1), 0.5), True)
    optimizer = optax.adamw(1e-3)
    value_and_gradient = jax.value_and_grad(
        make_loss(model, checkout, n_coordinates=n_coordinates, batch_size=batch_size, loss=loss)
    )

    def step(_: Any, state: Any) -> Any:
        parameters, moments, key = state
        key, used = jax.random.split(key)
        _, gradient = value_and_gradient(parameters, data, used)
        updates, moments = optimizer.update(gradient, moments, parameters)
        return optax.apply_updates(parameters, updates), moments, key

    @jax.jit
    def loop(n_steps: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, n_steps, step, state)

    state = [(parameters, optimizer.init(parameters), key)]

    def run(n_steps: int) -> None:
        state[0] = jax.block_until_ready(loop(n_steps, state[0]))

    return run
