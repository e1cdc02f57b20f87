"""Opening files whose names were given by others."""

from __future__ import annotations

import errno
import io
import os
import stat

__all__ = ["open_regular"]


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> io.FileIO:
    """A regular file, opened to be read without a buffer.

    Raises:
        OSError: it cannot be opened, is larger than ``limit`` bytes, or is a folder, socket, pipe or device, which
            might never answer or never end.
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, more than {limit:,}", os.fspath(path))
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
