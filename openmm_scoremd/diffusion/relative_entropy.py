r"""How far a simulated distribution is from the data, from frames of both.

The density of a simulation is :math:`e^{-E}/Z`. With frames simulated with an energy
:math:`E_0`, the relative entropy from the data is, for every energy near it and up to a constant
(M. S. Shell, J. Chem. Phys. 129, 144108 (2008); reweighting as in S. Thaler, M. Stupp and J.
Zavadlav, J. Chem. Phys. 157, 244103 (2022)),

.. math:: S(E) = \langle E \rangle_\text{data} + \ln \langle e^{-(E - E_0)} \rangle_\text{simulated}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_entropy(
    energy_of_data: Tensor, energy_of_simulated: Tensor, energy_before: Tensor
) -> Tensor:
    """Return the relative entropy from the data, up to a constant.

    Parameters
    ----------
    energy_of_data : Tensor, shape (A,)
        Reduced energies of frames of the data.
    energy_of_simulated : Tensor, shape (B,)
        Reduced energies of simulated frames.
    energy_before : Tensor, shape (B,)
        Energies that these frames were simulated with.

    Returns
    -------
    Tensor, shape ()
        In units of kT. Adding a constant to the energy changes nothing.
    """
    change = energy_before - energy_of_simulated
    return energy_of_data.mean() + torch.logsumexp(change, 0) - math.log(len(change))


def effective_fraction(change: Tensor) -> Tensor:
    """Return what part of reweighted frames counts (Kish), from the logarithms of their weights.

    Parameters
    ----------
    change : Tensor, shape (B,)
        Energy before minus energy now.

    Returns
    -------
    Tensor, shape ()
        Between ``1 / B`` and 1.
    """
    log_size = 2.0 * torch.logsumexp(change, 0) - torch.logsumexp(2.0 * change, 0)
    return log_size.exp() / len(change)


def population_mismatch(change: Tensor, log_simulated: Tensor, log_data: Tensor) -> Tensor:
    r"""Return the mean squared error of the logarithms of populations of regions.

    Relative entropy hardly sees a rare state; here every region counts alike.

    Parameters
    ----------
    change : Tensor, shape (regions, frames)
        Energy before minus energy now, of simulated frames of every region.
    log_simulated : Tensor, shape (regions,)
        Logarithms of the populations in the simulation.
    log_data : Tensor, shape (regions,)
        Logarithms of the populations in the data.

    Returns
    -------
    Tensor, shape ()
        Mean over regions of the squared difference, in kT squared. Both sets of populations are
        normalised over the regions given.
    """
    now = log_simulated + torch.logsumexp(change, 1)
    difference = now - torch.logsumexp(now, 0) - (log_data - torch.logsumexp(log_data, 0))
    return difference.square().mean()
