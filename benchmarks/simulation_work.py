"""Floating-point work of one energy and its forces."""

from __future__ import annotations

from openmm_scoremd.models.graph_transformer.folded import choose_form
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig


def matrix_shapes(n_beads: int, config: GraphTransformerConfig) -> list[tuple[int, int]]:
    """Constant matrices (inputs, outputs) that every bead's vector meets in the folded network."""
    width, heads, head = config.hidden_dim, config.heads, config.head_dim
    feed_forward = [(width, 4 * width), (4 * width, width)]
    # Of the last one's second map only what decoder and gate see of it is needed.
    last = [(width, 4 * width), (4 * width, 3)]
    first = [(heads * (n_beads + 3) + 3, width)]
    if choose_form(n_beads, hidden_dim=width, head_dim=head) == "absorbed":
        inner = heads * (width + 3)
        later = [(width, inner), (inner + 3, width)]
    else:
        inner = heads * (head + 3)
        later = [(width, inner + 2 * heads * head), (inner + 3, width)]
    return first + (feed_forward + later) * (config.layers - 1) + last


def flop_per_evaluation(n_beads: int, config: GraphTransformerConfig) -> int:
    """Floating-point operations of one energy and its forces, for one replica.

    Products of matrices only, two operations per multiply-add. A constant matrix is met twice,
    forward and backward; a product of two varying factors (attention) three times. Soft-max, norms,
    gates and activations are left out: they are below a tenth. The file does no more; the kernel
    does the last linear map in full, which is not counted for it.
    """
    constant = 2 * sum(rows * columns for rows, columns in matrix_shapes(n_beads, config))
    # Per pair of beads and head: logits and mixed displacements of the first layer, whose queries
    # are constant; then queries with keys, and attention with values.
    first = (2 + 3) * 3
    head = config.head_dim
    absorbed = choose_form(n_beads, hidden_dim=config.hidden_dim, head_dim=head) == "absorbed"
    later = 3 * 2 * ((config.hidden_dim if absorbed else head) + 3)
    pairs = n_beads * config.heads * (first + later * (config.layers - 1))
    return 2 * n_beads * (constant + pairs)
