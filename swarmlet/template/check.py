"""What is wrong with a template that nobody has rendered yet: for the check of a job before it runs."""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.errors import InvalidInput
from swarmlet.template.render import parse


def problems(text: str, left: str, right: str, may_read: Callable[[str], bool]) -> list[str]:
    """Sentences with line and column in the template; none where it parses, its functions exist, and the variables
    that it names are for the task (`may_read`).
    """
    try:
        template = parse(text, left=left, right=right)
    except InvalidInput as error:
        return [str(error)]
    return [
        str(
            template.source.problem(
                start,
                f"variable {path[:128]} is not for this task; expected nomad/jobs, nomad/jobs/JOB or what is below that",
            )
        )
        for path, start in template.variables().items()
        if not may_read(path)
    ]
