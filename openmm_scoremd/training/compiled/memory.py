"""Memory that training steps free and want again."""

from __future__ import annotations

import ctypes
import logging
import platform

logger = logging.getLogger(__name__)

#: Numbers of parameters in glibc's <malloc.h>, and values: blocks up to 32 MiB, the most it allows,
#: come from one heap, of which up to 1 GiB is kept when freed.
_MALLOC_PARAMETERS = {-3: 2**25, -1: 2**30, -8: 1}


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next step.

    A step allocates the same buffers of some MB as the one before. The C library of Linux returns
    such blocks to the system when they are freed, and the system clears every page again when it is
    used: up to a quarter of the time of a step. Elsewhere nothing is changed.

    This holds for the whole process and cannot be undone, so only commands call it, whose process
    is theirs. A program of yours that trains may call it, too.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in _MALLOC_PARAMETERS.items():
        if library.mallopt(parameter, value) == 0:
            logger.debug("the C library refused mallopt(%d, %d)", parameter, value)
