"""Keeps garbage collections short, however large the state is.

A full collection visits every container of the process: with the state of a large cluster that is hundreds of
milliseconds in which no heartbeat leaves. What survived the young generations is nearly always state, so it is set
aside (`gc.freeze`) every second instead, or more often under load, and only young objects are visited. Reference counts free what is set aside as
ever; only cycles in it would stay, so now and then, while it is little, all of it is looked at after all.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

#: Young objects are looked at this often at least, and what survived is set aside.
FREEZE_SECONDS = 1.0
#: A collection that takes longer is followed by the next one sooner: the interpreter counts new containers less those
#: that went, so that where state is replaced it would look at many of them at once, for tens of milliseconds.
LONG_SECONDS = 0.001
BUSY_SECONDS = 0.1
#: New containers after which the interpreter looks at them by itself: one or two milliseconds, since each is new to the
#: processor's caches and names others that are. Records hold no cycles and are not even looked at, so what is collected
#: is little; Python's default, a collection every 700 objects, costs a leader under load a twentieth of its time.
YOUNG_OBJECTS = 2_000
#: What was looked at once since it was last set aside is looked at again, unless it is more than this: then it is state.
SURVIVED_OBJECTS_MAX = 2_000
#: Everything is looked at this often, while that takes some ten milliseconds: cycles are few and small.
FULL_SECONDS = 600.0
FULL_OBJECTS_MAX = 200_000
#: Allocated blocks beyond which not even counting the objects is short.
FULL_BLOCKS_MAX = 2_000_000
#: Collections of a generation before the interpreter would begin one of the next by itself: never.
NEVER = 1_000_000_000


async def keep_collections_short() -> None:
    """Until cancelled; then the interpreter does as it did before."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, NEVER, NEVER)
    loop = asyncio.get_running_loop()
    full_at = loop.time() + FULL_SECONDS
    pause = FREEZE_SECONDS
    try:
        while True:
            await asyncio.sleep(pause)
            survived = gc.get_count()[1] * YOUNG_OBJECTS
            begun = time.thread_time()
            gc.collect(1 if survived <= SURVIVED_OBJECTS_MAX else 0)
            pause = FREEZE_SECONDS if time.thread_time() - begun < LONG_SECONDS else BUSY_SECONDS
            gc.freeze()
            if loop.time() >= full_at:
                full_at = loop.time() + FULL_SECONDS
                if sys.getallocatedblocks() <= FULL_BLOCKS_MAX and gc.get_freeze_count() <= FULL_OBJECTS_MAX:
                    gc.unfreeze()
                    gc.collect()
                    gc.freeze()
    finally:
        gc.set_threshold(*before)
