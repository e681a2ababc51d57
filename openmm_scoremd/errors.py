"""Exceptions raised by the package.

Every error a user can cause derives from :class:`ScoreMDError`, so that scripts can catch one type.
Messages say what was given, what is allowed and what to do.
"""


class ScoreMDError(Exception):
    """Base class of all errors raised on purpose by this package."""


class InvalidInputError(ScoreMDError, ValueError):
    """An argument or an array is not what the function needs."""


class ConfigurationError(ScoreMDError, ValueError):
    """A configuration file or command-line option is unknown or out of range."""


class DatasetError(ScoreMDError, ValueError):
    """A trajectory, topology or dataset file cannot be used."""


class ModelFileError(ScoreMDError, ValueError):
    """Weights or an exported model are damaged, of another version, or fail their self-test."""


class CheckpointError(ScoreMDError, ValueError):
    """A training or simulation checkpoint cannot be resumed."""


class NumericalError(ScoreMDError, ArithmeticError):
    """A computation produced NaN or infinity."""


class MissingDependencyError(ScoreMDError, ImportError):
    """An optional package is needed for what was asked."""


class InconsistentError(ScoreMDError):
    """Sets of samples contradict each other, and the caller asked that they must not."""


class UndecidedError(InconsistentError):
    """Sets of samples do not contradict each other, and could hardly have."""


class CampaignError(ScoreMDError, RuntimeError):
    """Jobs of a campaign failed."""
