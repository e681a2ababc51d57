"""Where Systems in XML that were written before look for the functions of their PythonForces."""

from openmm_scoremd.forces.kernel_force import KernelComputation as CompiledComputation
from openmm_scoremd.forces.python_force import ModelComputation

__all__ = ["CompiledComputation", "ModelComputation"]
