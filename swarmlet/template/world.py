"""The functions that look something up: variables, services, the environment, the time."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from swarmlet.jobspec.value import BadValue
from swarmlet.template.functions import ANY, Function
from swarmlet.template.lookup import Fields, Items, Lookups, Waiting
from swarmlet.template.value import integer_of, text_of

#: Layouts of Go's time package in terms of strftime, the longest first.
_LAYOUT = (
    ("2006", "%Y"), ("January", "%B"), ("Jan", "%b"), ("Monday", "%A"), ("Mon", "%a"), ("01", "%m"), ("02", "%d"),
    ("15", "%H"), ("03", "%I"), ("04", "%M"), ("05", "%S"), ("PM", "%p"), ("MST", "UTC"), ("Z07:00", "Z"),
    ("-0700", "+0000"), ("-07:00", "+00:00"),
)  # fmt: skip
#: Values shorter than this are no secrets, and stand in every message by chance.
VALUE_CHARACTERS_MIN = 4
#: Nomad's functions that do not exist here, and why.
REFUSED = {
    "file": "a template does not read the machine's files; put the text into data",
    "writeToFile": "a template writes its own destination only",
    "plugin": "a template runs no programs",
    "executeTemplate": "use template",
    "parseYAML": "use JSON: parseJSON",
    "toYAML": "use JSON, which is YAML: toJSON",
    "toTOML": "use toJSON",
    "sockaddr": "use env: NOMAD_IP_label",
    "datacenters": "there is no Consul; use env: NOMAD_DC",
    "node": "there is no Consul",
    "nodes": "there is no Consul",
    "connect": "there is no service mesh",
    "caRoots": "there is no service mesh",
    "caLeaf": "there is no service mesh",
    "pkiCert": "there is no certificate authority for tasks yet",
    "scratch": "use variables: $name := value",
    "safeLs": "use nomadVarList",
    "safeTree": "use nomadVarList",
}


class World:
    """The functions over one allocation's `Lookups`."""

    def __init__(self, lookups: Lookups) -> None:
        """Looks up when a function is called, not before."""
        self._lookups = lookups
        #: Values of variables that were handed out: no message may repeat them.
        self._values: dict[str, None] = {}
        self.functions: dict[str, Function] = {
            "env": Function(self._env, 1),
            "envOrDefault": Function(self._env_or, 2),
            "mustEnv": Function(self._must_env, 1),
            "key": Function(self._key, 1),
            "keyOrDefault": Function(self._key_or, 2),
            "keyExists": Function(lambda place: self._value(place) is not None, 1),
            "ls": Function(self._pairs, 1),
            "tree": Function(self._tree, 1),
            "secret": Function(self._secret, 1, ANY),
            "secrets": Function(self._secrets, 1),
            "nomadVar": Function(self._variable, 1),
            "nomadVarExists": Function(lambda path: self._found(path) is not None, 1),
            "nomadVarList": Function(self._list, 0, 1),
            "nomadVarListSafe": Function(self._list, 0, 1),
            "nomadService": Function(self._service, 1, 3),
            "nomadServices": Function(lambda: [Fields(item) for item in self._lookups.service_names()], 0),
            "service": Function(self._consul_service, 1, 2),
            "services": Function(lambda: [Fields(item) for item in self._lookups.service_names()], 0),
            "timestamp": Function(self._timestamp, 0, 1),
        }

    def redacted(self, message: str) -> str:
        """`message` without any value that was handed out: a template may have made a name of one."""
        for value in self._values:
            message = message.replace(value, "(hidden)")
        return message

    # The environment.

    def _env(self, name: Any) -> str:
        return self._lookups.environment(text_of(name)) or ""

    def _env_or(self, name: Any, default: Any) -> str:
        found = self._lookups.environment(text_of(name))
        return text_of(default) if found is None else found

    def _must_env(self, name: Any) -> str:
        found = self._lookups.environment(text_of(name))
        if found is None:
            raise BadValue(f"the environment has no {text_of(name)[:80]}")
        return found

    # Variables.

    def _found(self, place: Any) -> Items | None:
        path, at, namespace = text_of(place).partition("@")
        if at:
            raise BadValue(f"a variable of another namespace ({namespace[:40]}) cannot be read from here")
        items = self._lookups.variable(path)
        if items is not None:
            self._values |= dict.fromkeys(
                value for value in items.values() if len(value) >= VALUE_CHARACTERS_MIN
            )
        return (
            None if items is None else Items(path, self._lookups.environment("NOMAD_NAMESPACE") or "", items)
        )

    def _variable(self, place: Any) -> Items:
        found = self._found(place)
        if found is None:
            raise Waiting(f"variable {text_of(place)}")
        return found

    def _list(self, prefix: Any = "") -> list[Any]:
        namespace = self._lookups.environment("NOMAD_NAMESPACE") or ""
        return [
            Fields({"Path": path, "Namespace": namespace})
            for path in self._lookups.variable_paths(text_of(prefix))
        ]

    def _value(self, place: Any) -> str | None:
        """The item that "path/of/variable/item" names."""
        path, slash, item = text_of(place).rpartition("/")
        if not slash:
            raise BadValue("expected the path of a variable and one of its items: path/item")
        found = self._found(path)
        return None if found is None else found.get(item)

    def _key(self, place: Any) -> str:
        value = self._value(place)
        if value is None:
            raise Waiting(f"item {text_of(place)} of a variable")
        return value

    def _key_or(self, place: Any, default: Any) -> str:
        value = self._value(place)
        return text_of(default) if value is None else value

    def _pairs(self, place: Any) -> list[Any]:
        found = self._found(text_of(place).rstrip("/"))
        return [] if found is None else [Fields({"Key": key, "Value": value}) for key, value in found.items()]

    def _tree(self, place: Any) -> list[Any]:
        root = text_of(place).rstrip("/")
        pairs = []
        for path in self._lookups.variable_paths(root):
            if path == root or path.startswith(root + "/"):
                inside = path[len(root) :].lstrip("/")
                for key, value in (self._found(path) or {}).items():
                    pairs.append(Fields({"Key": f"{inside}/{key}".lstrip("/"), "Value": value}))
        return pairs

    def _secret(self, place: Any, *options: Any) -> Any:
        if options:
            raise BadValue("secrets are variables here, which are read and not made by a template")
        items = self._variable(place)
        # Both forms of Vault's answers: versioned stores have one level more.
        return Fields(
            {"Data": {**items, "data": items}, "LeaseID": "", "LeaseDuration": 0, "Renewable": False}
        )

    def _secrets(self, prefix: Any) -> list[Any]:
        return list(self._lookups.variable_paths(text_of(prefix)))

    # Services.

    def _service(self, *arguments: Any) -> list[Any]:
        """`nomadService "name"`, or `nomadService count "seed" "name"`: so many, chosen alike for a seed."""
        name = text_of(arguments[-1])
        found = [Fields(item) for item in self._lookups.services(name)]
        if len(arguments) == 1:
            return found
        if len(arguments) != 3:
            raise BadValue('expected nomadService "name" or nomadService count "seed" "name"')
        seed = text_of(arguments[1])

        def rank(item: dict[str, Any]) -> bytes:
            return hashlib.blake2b(f"{seed}\x00{item.get('ID')}".encode(), digest_size=8).digest()

        return sorted(found, key=rank)[: max(0, integer_of(arguments[0]))]

    def _consul_service(self, place: Any, _filter: Any = "") -> list[Any]:
        """`service "tag.name"`."""
        tag, dot, name = text_of(place).rpartition(".")
        found = self._service(name)
        return [item for item in found if not dot or tag in item.get("Tags", ())]

    # Time.

    def _timestamp(self, layout: Any = "2006-01-02T15:04:05Z") -> str:
        now = self._lookups.now_seconds()
        written = text_of(layout)
        if written == "unix":
            return str(int(now))
        for go, strftime in _LAYOUT:
            written = written.replace(go, strftime)
        return datetime.fromtimestamp(now, UTC).strftime(written)


def known() -> frozenset[str]:
    """The names of these functions, to check a template before it is rendered."""
    return frozenset(World(_NOWHERE).functions)


class _Nowhere:
    """Lookups that are never asked."""

    def variable(self, path: str) -> dict[str, str] | None:
        return None

    def variable_paths(self, prefix: str) -> list[str]:
        return []

    def services(self, name: str) -> list[dict[str, Any]]:
        return []

    def service_names(self) -> list[dict[str, Any]]:
        return []

    def environment(self, name: str) -> str | None:
        return None

    def now_seconds(self) -> float:
        return 0.0


_NOWHERE = _Nowhere()
#: Functions whose value may be a secret: a file that shows it should not lie on a disk.
SECRET = frozenset({"key", "keyOrDefault", "ls", "tree", "secret", "nomadVar"})
