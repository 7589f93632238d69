"""Copies an object's slots as fast as written out by hand: the state is copied once per command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def copier(names: Iterable[str]) -> Callable[[Any, Any], None]:
    """A function `copy(target, source)` that sets each of these attributes of `target` to that of `source`.

    Written out, as `dataclasses` writes its methods: a loop over `setattr` takes four times as long.
    """
    lines = [f"    target.{name} = source.{name}" for name in names]
    scope: dict[str, Any] = {}
    exec("\n".join(["def copy(target, source):", *lines]), scope)  # noqa: S102 (attribute names of this package's classes)
    copy: Callable[[Any, Any], None] = scope["copy"]
    return copy
