"""Which images this agent brought to its engine, when they were last used, and which of them may go. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from swarmlet.wire import Codec, Record

HOUR_NS = 3_600 * 10**9
#: Images remembered; the longest unused are forgotten first (and then stay for ever).
IMAGES_MAX = 10_000
VERSION = 1


class KeptImage(Record):
    """An image that came with a task of ours. Wall times."""

    id: str
    #: As tasks name it.
    names: tuple[str, ...]
    #: The engine's names when it came; one more is somebody else's.
    tags: tuple[str, ...]
    used_at_ns: int


class Ledger(Record):
    """All of them; kept on disk."""

    version: int = VERSION
    images: tuple[KeptImage, ...] = ()

    def with_image(self, image: KeptImage) -> Ledger:
        """One more, or the same under one more name."""
        others = [each for each in self.images if each.id != image.id]
        for known in self.images:
            if known.id == image.id:
                names, tags = dict.fromkeys(known.names + image.names), dict.fromkeys(known.tags + image.tags)
                image = msgspec.structs.replace(image, names=tuple(names), tags=tuple(tags))
        # A name means one image: the newest.
        others = [
            msgspec.structs.replace(each, names=tuple(name for name in each.names if name not in image.names))
            for each in others
        ]
        kept = sorted([*others, image], key=lambda each: (each.used_at_ns, each.id))[-IMAGES_MAX:]
        return Ledger(images=tuple(kept))

    def without(self, image: str) -> Ledger:
        """It is gone, or not ours any more."""
        return Ledger(images=tuple(each for each in self.images if each.id != image))

    def with_use(self, used: Iterable[str], now_ns: int) -> Ledger:
        """These ids are used now."""
        found = frozenset(used)
        return Ledger(
            images=tuple(
                msgspec.structs.replace(each, used_at_ns=now_ns) if each.id in found else each
                for each in self.images
            )
        )

    def image_called(self, name: str) -> str | None:
        """The id of the image that a task names so."""
        return next((each.id for each in self.images if name in each.names), None)

    def unused(self, now_ns: int, hours: float, in_use: Iterable[str]) -> tuple[KeptImage, ...]:
        """Those that nobody has used for so long, the longest unused first."""
        used = frozenset(in_use)
        found = [
            each
            for each in self.images
            if each.id not in used and now_ns - each.used_at_ns >= hours * HOUR_NS
        ]
        return tuple(sorted(found, key=lambda each: (each.used_at_ns, each.id)))


ledger_codec: Codec[Ledger] = Codec(Ledger)
