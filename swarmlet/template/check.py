"""What is wrong with a template that nobody has rendered yet: for the check of a job before it runs."""

from __future__ import annotations

from swarmlet.errors import InvalidInput
from swarmlet.template.render import parse


def problems(text: str, left: str, right: str) -> list[str]:
    """Sentences with line and column in the template; none where it parses and its functions exist."""
    try:
        parse(text, left=left, right=right)
    except InvalidInput as error:
        return [str(error)]
    return []
