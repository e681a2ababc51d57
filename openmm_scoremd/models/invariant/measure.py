"""Distances and torsions of beads, batch last: as vectors of numbers of one kind."""

import torch
from torch import Tensor, nn

from openmm_scoremd.models.invariant.choice import FeatureChoice

#: Up to so many beads differences are one product with a matrix, which also compiles best.
_DENSE_BEADS = 16


class Measurement(nn.Module):
    """Measures the features of one molecule.

    Parameters
    ----------
    n_beads : int
        Number of beads.
    choice : FeatureChoice
        What to measure.
    """

    pairs: Tensor
    starts: Tensor
    ends: Tensor
    matrix: Tensor
    windows: Tensor
    is_torsion: Tensor

    def __init__(self, n_beads: int, choice: FeatureChoice) -> None:
        super().__init__()
        self.n_beads = n_beads
        self.n_pairs, self.n_volumes = len(choice.pairs), len(choice.volumes)
        pairs = torch.tensor(choice.pairs)
        volumes = torch.tensor(choice.volumes, dtype=torch.int64).reshape(-1, 4)
        # Differences: of all pairs, then the first edges of all volumes, the second, the third.
        self._buffer("pairs", pairs)
        self._buffer("starts", torch.cat([pairs[:, 1], *volumes[:, :3].unbind(1)]))
        self._buffer("ends", torch.cat([pairs[:, 0], *volumes[:, 1:].unbind(1)]))
        identity = torch.eye(n_beads) if n_beads <= _DENSE_BEADS else torch.empty(0, 0)
        self.dense = n_beads <= _DENSE_BEADS
        matrix = identity[self.ends] - identity[self.starts] if self.dense else identity
        self._buffer("matrix", matrix)
        windows = torch.tensor(choice.windows).t().contiguous()
        self._buffer("windows", windows)
        self.n_windows = windows.shape[1]
        self._buffer("is_torsion", windows[:, 0] >= self.n_pairs)

    def _buffer(self, name: str, value: Tensor) -> None:
        # Made anew from the molecule, not stored with the weights.
        self.register_buffer(name, value, persistent=False)

    def differences(self, y: Tensor) -> Tensor:
        """Return differences (P + 3 Q, 3, B) of coordinates (N, 3, B)."""
        if self.dense:
            flat = torch.mm(self.matrix, y.reshape(self.n_beads, -1))
            return flat.view(-1, 3, y.shape[2])
        return y.index_select(0, self.ends) - y.index_select(0, self.starts)

    def of_coordinates(self, gradient: Tensor) -> Tensor:
        """Return the gradient (N, 3, B) that one of differences (P + 3 Q, 3, B) amounts to."""
        if self.dense:
            flat = torch.mm(self.matrix.t(), gradient.reshape(gradient.shape[0], -1))
            return flat.view(self.n_beads, 3, gradient.shape[2])
        zero = torch.zeros(
            self.n_beads, 3, gradient.shape[2], dtype=gradient.dtype, device=gradient.device
        )
        return zero.index_add(0, self.ends, gradient).index_add(0, self.starts, -gradient)

    def forward(self, y: Tensor, softening: Tensor) -> tuple[Tensor, Tensor]:
        """Return softened distances (P, B), and sines, then cosines, of torsions (2 Q, B).

        Parameters
        ----------
        y : Tensor, shape (N, 3, B)
            Coordinates.
        softening : Tensor, shape (B,)
            Added to squared distances, so that roots are smooth where beads meet.
        """
        difference = self.differences(y)
        square = (difference * difference).sum(dim=1) + softening
        distance = torch.sqrt(square[: self.n_pairs])
        root = torch.rsqrt(square[self.n_pairs :])
        unit = difference[self.n_pairs :] * root[:, None, :]
        n = self.n_volumes
        first, second, third = unit[:n], unit[n : 2 * n], unit[2 * n :]
        before, after = cross(first, second), cross(second, third)
        torsions = torch.cat([(before * third).sum(dim=1), (before * after).sum(dim=1)])
        return distance, torsions

    def in_windows(self, features: Tensor) -> Tensor:
        """Return features (P + 2 Q, B) as the network sees them, (F, windows, B)."""
        if self.n_windows == 1:
            return features[:, None, :]
        chosen = features.index_select(0, self.windows.flatten())
        return chosen.view(self.windows.shape[0], self.n_windows, features.shape[1])

    def out_of_windows(self, gradient: Tensor) -> Tensor:
        """Return the gradient (P + 2 Q, B) that one of :meth:`in_windows` amounts to."""
        if self.n_windows == 1:
            return gradient[:, 0]
        batch = gradient.shape[2]
        zero = torch.zeros(
            self.n_pairs + 2 * self.n_volumes, batch, dtype=gradient.dtype, device=gradient.device
        )
        return zero.index_add(0, self.windows.flatten(), gradient.reshape(-1, batch))


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Return the cross products of vectors (K, 3, B)."""
    a0, a1, a2 = a[:, 0], a[:, 1], a[:, 2]
    b0, b1, b2 = b[:, 0], b[:, 1], b[:, 2]
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], dim=1)
