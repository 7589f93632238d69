"""Keeps garbage collections short, however large the state is.

A full collection visits every container of the process: with the state of a large cluster that is hundreds of
milliseconds in which no heartbeat leaves. What survived the young generations is nearly always state, so it is set
aside (`gc.freeze`) every second instead, and only young objects are visited. Reference counts free what is set aside as
ever; only cycles in it would stay, so now and then, while it is little, all of it is looked at after all.
"""

from __future__ import annotations

import asyncio
import gc

#: Young objects are looked at this often at least, and what survived is set aside.
FREEZE_SECONDS = 1.0
#: Everything is looked at this often, while that takes some ten milliseconds: cycles are few and small.
FULL_SECONDS = 600.0
FULL_OBJECTS_MAX = 200_000
#: Young collections before the interpreter would begin a full one by itself: never.
NEVER = 1_000_000_000


async def keep_collections_short() -> None:
    """Until cancelled; then the interpreter does as it did before."""
    before = gc.get_threshold()
    gc.set_threshold(before[0], before[1], NEVER)
    loop = asyncio.get_running_loop()
    full_at = loop.time() + FULL_SECONDS
    try:
        while True:
            await asyncio.sleep(FREEZE_SECONDS)
            gc.collect(1)
            gc.freeze()
            if loop.time() >= full_at:
                full_at = loop.time() + FULL_SECONDS
                if gc.get_freeze_count() <= FULL_OBJECTS_MAX:
                    gc.unfreeze()
                    gc.collect()
                    gc.freeze()
    finally:
        gc.set_threshold(*before)
