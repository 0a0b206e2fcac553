"""Has a virtual machine's host provide memory before a contender starts, so that none pays for pages which another got free.

A host may take back what its guest has not used for a few seconds (free page reporting). Who runs next has every page fetched
again: a second of TPC-H's five at scale factor 1, for whoever happens to come after the contender that uses the least memory.
"""

import mmap

from contenders import MEMORY_BYTES

# More than any contender uses at scale factor 1.
BYTES_AT_SCALE_1 = 2 << 30


def bytes_for(scale: float) -> int:
    """How much to provide for tables of `scale`."""
    return min(int(BYTES_AT_SCALE_1 * max(scale, 1.0)), MEMORY_BYTES)


def provide(count: int) -> None:
    """Writes to as many bytes of memory and gives them back to the system: a few seconds where the host has taken them."""
    with mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # Without it, half of the time goes by in faults of the guest's own.
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, count, mmap.PAGESIZE):
            memory[page] = 1
