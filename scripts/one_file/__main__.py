"""The first code of the one file, in any Python 3: a sentence where this Python cannot run what is inside.

Everything later may be written for the Python that it was built with; this must be read by older ones too.
"""

import sys
from importlib.machinery import EXTENSION_SUFFIXES

#: What scripts/build.py knows about the content.
FACTS = {}  # type: dict[str, str]


def main() -> int:
    """Refuse, or unpack and run."""
    # The ending of compiled modules names the Python, its minor version, the architecture and the C library.
    if FACTS["suffix"] not in EXTENSION_SUFFIXES:
        sys.stderr.write(
            "swarmlet: this file was built for " + FACTS["built_for"] + "; " + sys.executable + " is Python "
            + sys.version.split()[0] + " (" + EXTENSION_SUFFIXES[0] + "): install " + FACTS["python"]
            + ", name it in SWARMLET_PYTHON, or build the file on such a machine\n"
        )  # fmt: skip
        return 1
    import unpack  # type: ignore[import-not-found]

    code = unpack.start(FACTS)
    assert isinstance(code, int)
    return code


if __name__ == "__main__":
    sys.exit(main())
