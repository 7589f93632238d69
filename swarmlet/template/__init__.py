"""Templates of files and environments, in the language of Go's text/template as Nomad's job files use it.

`parse` turns text into a `Template`; `Template.render` evaluates it against `Lookups`. Everything here is pure: what a
template may see comes in through `Lookups`, and no message ever quotes a value that came from there.
"""

from __future__ import annotations

from swarmlet.template.lookup import Item, Items, Lookups, Waiting
from swarmlet.template.render import Template, environment_of, parse

__all__ = ["Item", "Items", "Lookups", "Template", "Waiting", "environment_of", "parse"]
