"""What users hold in their hands: one exported model, ready to simulate and to sample."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import openmm
import openmm.app as app
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openmm_scoremd.artifact.contract import ModelModule
from openmm_scoremd.artifact.loaded import LoadedModel
from openmm_scoremd.artifact.metadata import ModelMetadata, read_archive
from openmm_scoremd.artifact.noise_levels import Adjustable, NoiseLevelEnergy
from openmm_scoremd.artifact.torchscript import checked_device
from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.sampler import Progress
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.create import create_force
from openmm_scoremd.forces.molecules import declared_molecules
from openmm_scoremd.forces.options import Backend, CudaGraphs
from openmm_scoremd.sampling.langevin import Trajectory, TrajectorySettings, draw_trajectory
from openmm_scoremd.sampling.reverse_diffusion import Solver, draw_frames
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import FloatOrQuantity, frames_in_nanometers, thermal_energy, to_kelvin

__all__ = ["Backend", "CudaGraphs", "ScoreModelFile", "frames_in_nanometers"]

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]


class ScoreModelFile:
    """An exported model, verified: energies, forces, Systems and independent frames.

    The file is checked in this order: checksums and metadata, the hash if one is given, and only
    then its network is loaded and must reproduce the energies and forces stored in it.

    .. warning::
       A ``.safetensors`` file is data, evaluated by the network families that are installed. A
       ``.pt`` file is a TorchScript archive, which is executable code: load only files whose origin
       you trust, or give the published hash; with another one, nothing of the file is executed.
       Nothing is ever downloaded.

    Parameters
    ----------
    path : path-like
        The exported file, ``.safetensors`` (not one of weights) or ``.pt``.
    sha256 : str, optional
        Expected SHA-256 of the file.
    device : str
        "cpu" or "cuda": where :meth:`sample`, :meth:`potential_energy` and :meth:`forces` compute.
        Simulations run where OpenMM runs.

    Attributes
    ----------
    loaded : LoadedModel
        The file in memory: neither moved nor deleted, it still makes Systems and forces. It is
        pickled with the model, so processes that are spawned need no file.
    path : Path
        Where the file was, absolute.
    sha256 : str
        Its hash.
    metadata : ModelMetadata
        Everything the file says about itself.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, of a newer schema, not the expected one, or fails its
        self-test.
    InvalidInputError
        If the device does not exist.

    Examples
    --------
    >>> path = "torchscript_models/alanine_dipeptide_invariant.pt"
    >>> model = ScoreModelFile(path)  # doctest: +SKIP
    >>> system = model.create_system()  # doctest: +SKIP
    >>> frames = model.sample(10, seed=1)  # doctest: +SKIP
    """

    def __init__(
        self, path: str | os.PathLike[str], *, sha256: str | None = None, device: str = "cpu"
    ) -> None:
        # A model of its own, although there may be one in memory: nobody has called it yet.
        self._keep(LoadedModel(read_archive(path, sha256=sha256)), device)

    def _keep(self, loaded: LoadedModel, device: str) -> None:
        self.loaded = loaded
        self.path, self.sha256 = loaded.archive.path, loaded.archive.sha256
        self.metadata: ModelMetadata = loaded.archive.metadata
        self._device = checked_device(device)
        self._module: ModelModule = loaded.module(self._device)

    def __reduce__(self) -> tuple[object, tuple[LoadedModel, str]]:
        return _with_model, (self.loaded, str(self._device))

    def uncalled(self) -> ScoreModelFile:
        """Return the same model as if this process had not called it, from memory, without a test.

        TorchScript watches its first calls and rounds otherwise from then on. What the result
        computes first depends on nothing that was computed before, to the last bit. It is there
        also where the file is not any more.
        """
        return _with_model(self.loaded.uncalled(), str(self._device))

    @property
    def bead_topology(self) -> BeadTopology:
        """Beads of one replica."""
        return self.metadata.topology

    @property
    def topology(self) -> app.Topology:
        """OpenMM topology of one replica."""
        return self.replica_topology(1)

    @property
    def n_beads(self) -> int:
        """Number of beads of one replica."""
        return self.metadata.n_beads

    @property
    def masses(self) -> FloatArray:
        """Bead masses, shape (N,), dalton."""
        return np.array(self.metadata.topology.masses)

    @property
    def temperature(self) -> float:
        """Temperature in K that the potential belongs to."""
        return self.metadata.temperature

    @property
    def score_fn(self) -> ScoreFunction:
        """The score ``(x (B, N, D), t (B,)) -> (B, N, D)`` in standardised coordinates."""
        module = self._module

        def score(x: Tensor, t: Tensor) -> Tensor:
            # A conservative score is a gradient, also where the caller has switched them off.
            with torch.enable_grad():  # type: ignore[no-untyped-call]
                value: Tensor = module.score(x.detach(), t.detach())
            return value.detach()

        return score

    @property
    def noise_levels(self) -> NoiseLevelEnergy:
        """Potential energy at other diffusion times than that of the force.

        Raises
        ------
        InvalidInputError
            If the file holds no network with an energy.
        """
        return NoiseLevelEnergy(self._module, self.metadata.schedule, self.metadata.t_min)

    def replica_topology(self, replicas: int) -> app.Topology:
        """Return the OpenMM topology of ``replicas`` copies, one after another.

        Raises
        ------
        InvalidInputError
            If ``replicas`` is not positive.
        """
        return self.metadata.topology.to_openmm(replicas=replicas)

    def create_system(
        self,
        *,
        replicas: int = 1,
        backend: Backend = "auto",
        device: str | None = None,
        adjustable: Adjustable = "nothing",
    ) -> openmm.System:
        """Return a System of non-interacting copies of the molecule.

        There is no CMMotionRemover: it would act on all replicas together. For 2-D models z is
        there but feels no force: it diffuses freely and is to be ignored.

        A second force, ``Molecules``, has no strength: its bonds tell OpenMM which beads belong
        together. Reporters otherwise wrap every bead by itself into the box as soon as a force with
        periodic boundaries is added. Its group is 31: an integrator may leave it out.

        Parameters
        ----------
        replicas : int
            Copies in the System.
        backend : {"auto", "torchforce", "pythonforce", "kernel"}
            Who evaluates the model.
        device : str, optional
            PythonForce only: where the model runs, "cpu" also beside a GPU.
        adjustable : {"nothing", "scale", "scale-and-time"}
            Context parameters; see :func:`openmm_scoremd.forces.create.create_force`.

        Returns
        -------
        openmm.System
            ``replicas * n_beads`` particles with the model's masses, its force, and which of them
            make a molecule.

        Raises
        ------
        InvalidInputError
            If ``replicas`` is not positive or the backend unknown.
        MissingDependencyError
            If TorchForce is asked for and cannot be used.
        """
        if replicas < 1:
            raise InvalidInputError(f"replicas is {replicas}; it must be at least 1")
        system = openmm.System()
        for mass in self.metadata.topology.masses * replicas:
            system.addParticle(mass)
        force = self.create_force(
            backend=backend, device=device, system=system, adjustable=adjustable
        )
        system.addForce(force)
        system.addForce(declared_molecules(self.n_beads, replicas))
        return system

    def create_force(
        self,
        *,
        particles: Sequence[int] | None = None,
        system: openmm.System | None = None,
        backend: Backend = "auto",
        cuda_graphs: CudaGraphs = "auto",
        device: str | None = None,
        force_group: int = 0,
        adjustable: Adjustable = "nothing",
    ) -> openmm.Force:
        """Return the model's force for a System of your own.

        Parameters and errors are those of :func:`openmm_scoremd.forces.create.create_force`.
        """
        return create_force(
            self.loaded,
            particles=particles,
            system=system,
            backend=backend,
            cuda_graphs=cuda_graphs,
            device=device,
            force_group=force_group,
            adjustable=adjustable,
        )

    def potential_energy(self, positions: ArrayLike, *, t: float | None = None) -> FloatArray:
        """Return the potential energy of frames.

        Parameters
        ----------
        positions : array or Quantity, shape (N, 3) or (F, N, 3), nm
            One frame, or several.
        t : float, optional
            Another diffusion time than that of the force: the potential of data blurred by its
            noise, up to a constant that depends on ``t``; see
            :mod:`openmm_scoremd.artifact.noise_levels`.

        Returns
        -------
        ndarray, shape () or (F,), kJ/mol
            Energy of every frame.

        Raises
        ------
        InvalidInputError
            If the shape does not fit, a coordinate is not finite, or no network has an energy at
            ``t``.
        """
        frames, leading = self._frames(positions)
        if t is None:
            return self.loaded.evaluate(frames, self._device)[0].reshape(leading)
        on_device = torch.from_numpy(frames).to(self._device)
        found = self.noise_levels.energies_of_frames(on_device, t)
        return np.asarray(found.cpu().numpy()).reshape(leading)

    def forces(self, positions: ArrayLike) -> FloatArray:
        """Return the forces on the beads.

        Parameters
        ----------
        positions : array or Quantity, shape (N, 3) or (F, N, 3), nm
            One frame, or several.

        Returns
        -------
        ndarray, shape of ``positions``, kJ/mol/nm
            Negative gradient of the potential energy.

        Raises
        ------
        InvalidInputError
            If the shape does not fit or a coordinate is not finite.
        """
        frames, leading = self._frames(positions)
        _, forces = self.loaded.evaluate(frames, self._device)
        return forces.reshape(*leading, self.n_beads, 3)

    def sample(
        self,
        n: int,
        *,
        seed: int,
        solver: Solver = "dpm-solver",
        n_steps: int | None = None,
        batch_size: int = 1000,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Draw independent frames by reverse diffusion.

        Parameters, result and errors are those of
        :func:`openmm_scoremd.sampling.reverse_diffusion.draw_frames`, but for

        Parameters
        ----------
        seed : int
            Seed of the noise. The same seed, ``n``, ``batch_size`` and device give the same frames.
        """
        return draw_frames(
            self.score_fn,
            self.metadata,
            n,
            generator=torch.Generator(self._device).manual_seed(seed),
            solver=solver,
            n_steps=n_steps,
            batch_size=batch_size,
            progress=progress,
        )

    def sample_trajectory(
        self,
        n_frames: int,
        *,
        start: ArrayLike | int,
        seed: int,
        settings: TrajectorySettings | None = None,
        progress: Progress | None = None,
    ) -> Trajectory:
        """Move frames by overdamped Langevin dynamics at a fixed diffusion time.

        Parameters and errors are those of
        :func:`openmm_scoremd.sampling.langevin.draw_trajectory`.
        """
        random = torch.Generator(self._device).manual_seed(seed)
        frames = int(start) if isinstance(start, (int, np.integer)) else self._frames(start)[0]
        chain = (self.score_fn, self.metadata, frames, n_frames)
        return draw_trajectory(*chain, generator=random, settings=settings, progress=progress)

    def check_temperature(self, temperature: FloatOrQuantity) -> float:
        """Return a temperature in K, with a warning in the log if it is not the model's.

        Raises
        ------
        InvalidInputError
            If it is not positive.
        """
        thermal_energy(temperature)
        kelvin = to_kelvin(temperature)
        if abs(kelvin - self.temperature) > 0.01:
            logger.warning(
                "the simulation has %g K, the model %g K: a coarse-grained potential is a free "
                "energy of its own temperature, and at another one its distribution is neither "
                "that of the training data nor that of the molecule", kelvin, self.temperature,
            )  # fmt: skip
        return kelvin

    def _frames(self, positions: ArrayLike) -> tuple[FloatArray, tuple[int, ...]]:
        frames = frames_in_nanometers(positions, self.n_beads)
        return frames.reshape(-1, self.n_beads, 3), frames.shape[:-2]


def _with_model(loaded: LoadedModel, device: str) -> ScoreModelFile:
    model = ScoreModelFile.__new__(ScoreModelFile)
    model._keep(loaded, device)
    return model
