"""A driver's configuration as users write it: scalars in lists of strings become strings, as in Nomad's drivers."""

from __future__ import annotations

from typing import Any

from swarmlet.jobspec.value import to_text

#: Arguments of the docker, exec and raw_exec drivers that are lists of strings.
TEXT_LISTS = (
    "args",
    "cap_add",
    "cap_drop",
    "dns_options",
    "dns_search_domains",
    "dns_servers",
    "entrypoint",
    "extra_hosts",
    "group_add",
    "network_aliases",
    "ports",
    "security_opt",
    "volumes",
)


def with_texts(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with `args = ["-p", 80]` read as `["-p", "80"]`; anything else stays for the checks to judge."""
    return {
        key: [to_text(item) if isinstance(item, (str, int, float)) else item for item in value]
        if key in TEXT_LISTS and isinstance(value, list)
        else value
        for key, value in config.items()
    }
