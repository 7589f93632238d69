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
#: What a collection should take at most. The next one comes sooner where it took longer: under load thousands of new
#: containers, each new to the processor's caches too, survive a tenth of a second.
AIM_SECONDS = 0.003
BUSY_SECONDS_MIN = 0.01
#: By so much a pause may exceed the one before it: load comes at once and in waves. From the least to the greatest in ten
#: seconds.
PAUSE_GROWTH = 1.1
#: New containers after which the interpreter looks at them by itself. It counts those that went against them, the old
#: ones as well: where state is replaced, many more may have come by then. So this is for what does not come from the loop.
#: Python's default, a collection every 700 objects, costs a leader under load a twentieth of its time.
YOUNG_OBJECTS = 5_000
#: Collections by the interpreter itself whose survivors are little enough to be looked at again.
SURVIVED_COLLECTIONS_MAX = 2
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
            begun = time.thread_time()
            # What was looked at once since it was last set aside is looked at again, unless it is much: then it is state.
            gc.collect(1 if pause == FREEZE_SECONDS and gc.get_count()[1] <= SURVIVED_COLLECTIONS_MAX else 0)
            gc.freeze()
            pause = _pause(pause, time.thread_time() - begun)
            if loop.time() >= full_at:
                full_at = loop.time() + FULL_SECONDS
                if sys.getallocatedblocks() <= FULL_BLOCKS_MAX and gc.get_freeze_count() <= FULL_OBJECTS_MAX:
                    gc.unfreeze()
                    gc.collect()
                    gc.freeze()
    finally:
        gc.set_threshold(*before)


def _pause(before: float, took: float) -> float:
    """Seconds until the next collection, after one that came `before` seconds after another and took `took`."""
    fitting = before * AIM_SECONDS / took if took > 0.0 else FREEZE_SECONDS
    return min(FREEZE_SECONDS, max(BUSY_SECONDS_MIN, min(PAUSE_GROWTH * before, fitting)))
