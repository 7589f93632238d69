"""`auth { variable = "…" }` of a docker task: the username and password that one of its variables holds."""

from __future__ import annotations

from typing import Any

from swarmlet.errors import DriverError, InvalidInput, Unavailable
from swarmlet.runtime.drivers.docker_keys import as_map
from swarmlet.runtime.template_source import Reader, TemplateSource

ITEMS = ("username", "password", "server_address")


def with_login(config: dict[str, Any], source: TemplateSource | None, reader: Reader) -> dict[str, Any]:
    """The configuration with the variable's items in the place of its name. Raises DriverError.

    What a task may read here is what its templates may read.
    """
    auth = as_map(config.get("auth"))
    path = str(auth.get("variable") or "")
    if not path:
        return config
    if source is None:
        raise DriverError("docker: auth: this agent reads no variables", temporary=False)
    try:
        items = source.lookups(reader, {}).variable(path)
    except Unavailable as error:
        raise DriverError(f"docker: auth: {error}") from error
    except InvalidInput as error:
        raise DriverError(f"docker: auth: {error}", temporary=False) from error
    if items is None:
        raise DriverError(f"docker: auth: there is no variable {path}; write it with swarmlet var put")
    if "username" not in items or "password" not in items:
        raise DriverError(f"docker: auth: variable {path} holds no username and password")
    found = {key: items[key] for key in ITEMS if key in items}
    return {**config, "auth": {**{key: auth[key] for key in auth if key != "variable"}, **found}}
