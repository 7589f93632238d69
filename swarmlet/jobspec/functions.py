"""The function library: those of Nomad's job language that depend on their arguments alone.

Collections, numbers, encoding, hashes and addresses are here; strings and regular expressions in `function_text`.
Functions that read a file do so through a callable; those that mint something new on each run are refused, since
a job must be the same whenever its file is read.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import ipaddress
import json
import math
import posixpath
from collections.abc import Callable
from itertools import chain, islice, product
from urllib.parse import quote_plus

from swarmlet.jobspec.function_text import TEXT_FUNCTIONS
from swarmlet.jobspec.signature import Function
from swarmlet.jobspec.value import (
    ITEMS_MAX,
    BadValue,
    Value,
    as_set,
    bounded,
    equal,
    identity,
    sized,
    to_boolean,
    to_integer,
    to_list,
    to_map,
    to_number,
    to_text,
    unique,
    weight,
)

#: The text of a file that the job file names, relative to it. Raises OSError.
ReadFile = Callable[[str], str]

_IMPURE = "its result would differ each time the file is read; pass a value with -var"
REFUSED_FUNCTIONS = {
    "timestamp": _IMPURE,
    "uuidv4": _IMPURE,
    "uuidv5": "pass the id with -var",
    "bcrypt": _IMPURE,
    "rsadecrypt": "a secret has no place in a job file",
    "yamldecode": "write the data as JSON and use jsondecode()",
    "yamlencode": "use jsonencode(): JSON is YAML",
    "formatdate": "pass the date with -var",
    "timeadd": "pass the time with -var",
    "fileset": "name the files",
    "templatefile": "use a heredoc with ${…}",
    "pathexpand": "~ is another directory on every machine; write the whole path",
    "abspath": "write the whole path",
}


def file_functions(read_file: ReadFile | None) -> dict[str, Function]:
    """The functions that read files, through `read_file`; without it they say why not."""

    def read(path: Value) -> str:
        name = to_text(path)
        if read_file is None:
            raise BadValue("files cannot be read here; expected a job file that is read by the command line")
        try:
            return str(sized(read_file(name)))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise BadValue(f"cannot read {name[:200]}: {error}") from error

    def exists(path: Value) -> bool:
        if read_file is None:
            raise BadValue("files cannot be read here")
        try:
            read_file(to_text(path))
        except (OSError, ValueError):
            return False
        return True

    return {
        "file": Function(read, 1, 1),
        "fileexists": Function(exists, 1, 1),
        "filebase64": Function(lambda path: base64.b64encode(read(path).encode()).decode(), 1, 1),
    }


# Collections --------------------------------------------------------------------------------------------


def _length(value: Value) -> int:
    if isinstance(value, (list, dict, str)):
        return len(value)
    raise BadValue("expected a list, a map or a string")


def _element(values: Value, index: Value) -> Value:
    items = to_list(values)
    if not items:
        raise BadValue("the list is empty")
    return items[to_integer(index) % len(items)]


def _index(values: Value, key: Value) -> Value:
    if isinstance(values, dict):
        return _lookup(values, key)
    number = to_integer(key)
    items = to_list(values)
    if not 0 <= number < len(items):
        raise BadValue(f"index {number} is outside of this list of {len(items)} elements")
    return items[number]


def _lookup(values: Value, key: Value, *default: Value) -> Value:
    mapping = to_map(values)
    name = to_text(key)
    if name in mapping:
        return mapping[name]
    if default:
        return default[0]
    raise BadValue(f'there is no key "{name[:40]}" and no default')


def _coalesce(*values: Value) -> Value:
    for value in values:
        if value is not None and value != "":
            return value
    raise BadValue("all arguments are null or empty")


def _coalesce_list(*values: Value) -> Value:
    for value in values:
        if to_list(value):
            return value
    raise BadValue("all lists are empty")


def _flatten(values: Value) -> list[Value]:
    flat: list[Value] = []
    for item in to_list(values):
        flat.extend(_flatten(item) if isinstance(item, list) else [item])
        sized(flat)
    return flat


def _chunks(values: Value, size: Value) -> list[Value]:
    items, step = to_list(values), to_integer(size)
    if step < 1:
        raise BadValue("the size of a chunk is at least 1")
    return [items[at : at + step] for at in range(0, len(items), step)]


def _slice(values: Value, start: Value, end: Value) -> list[Value]:
    items, first, last = to_list(values), to_integer(start), to_integer(end)
    if not 0 <= first <= last <= len(items):
        raise BadValue(f"expected 0 ≤ start ≤ end ≤ {len(items)}")
    return items[first:last]


def _range(*limits: Value) -> list[Value]:
    numbers = [to_number(limit) for limit in limits]
    start, end = (0, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    step = numbers[2] if len(numbers) == 3 else (1 if end >= start else -1)
    if step == 0 or (end - start) * step < 0:
        raise BadValue("the step leads away from the end")
    count = math.ceil((end - start) / step)
    if count > ITEMS_MAX:
        raise BadValue(f"{count:_} elements exceed {ITEMS_MAX:_}")
    return [bounded(start + number * step) for number in range(count)]


def _zip(keys: Value, values: Value) -> dict[str, Value]:
    names, items = to_list(keys), to_list(values)
    if len(names) != len(items):
        raise BadValue(f"{len(names)} keys for {len(items)} values")
    return dict(zip(map(to_text, names), items, strict=True))


def _merge(*maps: Value) -> dict[str, Value]:
    merged: dict[str, Value] = {}
    for mapping in maps:
        merged.update(to_map(mapping) if mapping is not None else {})
    return merged


def _set_product(*sets: Value) -> list[Value]:
    lists = [to_list(values) for values in sets]
    if math.prod(map(len, lists)) > ITEMS_MAX:
        raise BadValue(f"more than {ITEMS_MAX:_} combinations")
    return [list(combination) for combination in product(*lists)]


def _set_intersection(first: Value, *others: Value) -> list[Value]:
    kept = to_list(first)
    for other in others:
        known = set(map(identity, to_list(other)))
        kept = [item for item in kept if identity(item) in known]
    return as_set(kept)


def _set_subtract(first: Value, second: Value) -> list[Value]:
    gone = set(map(identity, to_list(second)))
    return as_set([item for item in to_list(first) if identity(item) not in gone])


def _sort(values: Value) -> list[str]:
    return sorted(map(to_text, to_list(values)))


def _reverse(values: Value) -> Value:
    return to_list(values)[::-1]


def _to_set(values: Value) -> list[Value]:
    return as_set(to_list(values))


def _sum(values: Value) -> Value:
    return bounded(sum(map(to_number, to_list(values))))


# Numbers ------------------------------------------------------------------------------------------------


def _log(number: Value, base: Value) -> Value:
    try:
        return bounded(math.log(to_number(number), to_number(base)))
    except (ValueError, ZeroDivisionError) as error:
        raise BadValue("expected positive numbers, and a base other than 1") from error


def _pow(number: Value, power: Value) -> Value:
    try:
        result = float(to_number(number)) ** float(to_number(power))
    except (OverflowError, ZeroDivisionError) as error:
        raise BadValue("the result is out of range") from error
    if isinstance(result, complex):
        raise BadValue("the result is no real number")
    return bounded(result)


def _parse_int(text: Value, base: Value) -> Value:
    digits, radix = to_text(text), to_integer(base)
    if not 2 <= radix <= 36 or len(digits) > 128:
        raise BadValue("expected a base of 2 to 36 and at most 128 digits")
    try:
        return bounded(int(digits, radix))
    except ValueError as error:
        raise BadValue(f'"{digits[:40]}" is no number in base {radix}') from error


def _signum(number: Value) -> int:
    value = to_number(number)
    return (value > 0) - (value < 0)


# Encoding, hashes ---------------------------------------------------------------------------------------


def _base64_decode(text: Value) -> str:
    try:
        return base64.b64decode(to_text(text), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise BadValue("expected base64 of UTF-8 text") from error


def _json_decode(text: Value) -> Value:
    try:
        value = json.loads(to_text(text), parse_constant=_no_constant)
        weight(value)
        return _numbers_bounded(value)
    except (ValueError, RecursionError) as error:
        raise BadValue("expected JSON") from error


def _no_constant(name: str) -> Value:
    raise BadValue(f"{name} is no JSON")


def _numbers_bounded(value: Value) -> Value:
    if isinstance(value, list):
        return [_numbers_bounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers_bounded(item) for key, item in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bounded(value)
    return value


def _json_encode(value: Value) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _csv_decode(text: Value) -> list[Value]:
    try:
        rows = list(islice(csv.reader(io.StringIO(to_text(text)), strict=True), ITEMS_MAX + 1))
    except csv.Error as error:
        raise BadValue(f"expected CSV: {error}") from error
    sized(rows)
    header = rows[0] if rows else []
    if any(len(row) != len(header) for row in rows):
        raise BadValue("expected as many columns in every row as in the header")
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


def _hash(name: str) -> Function:
    return Function(
        lambda text: hashlib.new(name, to_text(text).encode(), usedforsecurity=False).hexdigest(), 1, 1
    )


# Addresses ----------------------------------------------------------------------------------------------

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(prefix: Value) -> _Network:
    try:
        return ipaddress.ip_network(to_text(prefix), strict=False)
    except ValueError as error:
        raise BadValue(f'"{to_text(prefix)[:40]}" is no network; expected one such as 10.0.0.0/8') from error


def _cidr_host(prefix: Value, number: Value) -> str:
    network, host = _network(prefix), to_integer(number)
    if not -network.num_addresses <= host < network.num_addresses:
        raise BadValue(f"{network} has no host {host}")
    return str(network[host])


def _cidr_subnet(prefix: Value, bits: Value, number: Value) -> str:
    network, extra, which = _network(prefix), to_integer(bits), to_integer(number)
    length = network.prefixlen + extra
    if extra < 0 or length > network.max_prefixlen or not 0 <= which < 2**extra:
        raise BadValue(f"{network} has no subnet {which} of {extra} more bits")
    address = int(network.network_address) + (which << (network.max_prefixlen - length))
    return f"{type(network.network_address)(address)}/{length}"


def _cidr_subnets(prefix: Value, *bits: Value) -> list[Value]:
    network = _network(prefix)
    at, end = int(network.network_address), int(network.broadcast_address)
    found: list[Value] = []
    for extra in map(to_integer, bits):
        length = network.prefixlen + extra
        if extra < 0 or length > network.max_prefixlen:
            raise BadValue(f"{network} has no subnets of {extra} more bits")
        size = 1 << (network.max_prefixlen - length)
        at = (at + size - 1) // size * size
        if at + size - 1 > end:
            raise BadValue(f"{network} has no room for these subnets")
        found.append(f"{type(network.network_address)(at)}/{length}")
        at += size
    return found


def _cidr_netmask(prefix: Value) -> str:
    return str(_network(prefix).netmask)


FUNCTIONS: dict[str, Function] = TEXT_FUNCTIONS | {
    "abs": Function(lambda number: abs(to_number(number)), 1, 1),
    "base64decode": Function(_base64_decode, 1, 1),
    "base64encode": Function(lambda text: base64.b64encode(to_text(text).encode()).decode(), 1, 1),
    "basename": Function(lambda path: posixpath.basename(to_text(path)), 1, 1),
    "ceil": Function(lambda number: math.ceil(to_number(number)), 1, 1),
    "chunklist": Function(_chunks, 2, 2),
    "cidrhost": Function(_cidr_host, 2, 2),
    "cidrnetmask": Function(_cidr_netmask, 1, 1),
    "cidrsubnet": Function(_cidr_subnet, 3, 3),
    "cidrsubnets": Function(_cidr_subnets, 1, 100),
    "coalesce": Function(_coalesce, 1, None),
    "coalescelist": Function(_coalesce_list, 1, None),
    "compact": Function(lambda values: [item for item in to_list(values) if item not in ("", None)], 1, 1),
    "concat": Function(lambda *lists: list(chain.from_iterable(map(to_list, lists))), 1, None),
    "contains": Function(lambda values, value: any(equal(item, value) for item in to_list(values)), 2, 2),
    "csvdecode": Function(_csv_decode, 1, 1),
    "dirname": Function(lambda path: posixpath.dirname(to_text(path)), 1, 1),
    "distinct": Function(lambda values: unique(to_list(values)), 1, 1),
    "element": Function(_element, 2, 2),
    "flatten": Function(_flatten, 1, 1),
    "floor": Function(lambda number: math.floor(to_number(number)), 1, 1),
    "index": Function(_index, 2, 2),
    "jsondecode": Function(_json_decode, 1, 1),
    "jsonencode": Function(_json_encode, 1, 1),
    "keys": Function(lambda mapping: sorted(to_map(mapping)), 1, 1),
    "length": Function(_length, 1, 1),
    "log": Function(_log, 2, 2),
    "lookup": Function(_lookup, 2, 3),
    "max": Function(lambda *numbers: max(map(to_number, numbers)), 1, None),
    "md5": _hash("md5"),
    "merge": Function(_merge, 1, None),
    "min": Function(lambda *numbers: min(map(to_number, numbers)), 1, None),
    "parseint": Function(_parse_int, 2, 2),
    "pow": Function(_pow, 2, 2),
    "range": Function(_range, 1, 3),
    "reverse": Function(_reverse, 1, 1),
    "setintersection": Function(_set_intersection, 1, None),
    "setproduct": Function(_set_product, 1, None),
    "setsubtract": Function(_set_subtract, 2, 2),
    "setunion": Function(lambda *sets: as_set(list(chain.from_iterable(map(to_list, sets)))), 1, None),
    "sha1": _hash("sha1"),
    "sha256": _hash("sha256"),
    "sha512": _hash("sha512"),
    "signum": Function(_signum, 1, 1),
    "slice": Function(_slice, 3, 3),
    "sort": Function(_sort, 1, 1),
    "sum": Function(_sum, 1, 1),
    "tobool": Function(to_boolean, 1, 1),
    "tolist": Function(to_list, 1, 1),
    "tomap": Function(to_map, 1, 1),
    "tonumber": Function(to_number, 1, 1),
    "toset": Function(_to_set, 1, 1),
    "tostring": Function(to_text, 1, 1),
    "urlencode": Function(lambda text: quote_plus(to_text(text)), 1, 1),
    "values": Function(lambda mapping: [to_map(mapping)[key] for key in sorted(to_map(mapping))], 1, 1),
    "zipmap": Function(_zip, 2, 2),
}

__all__ = ["FUNCTIONS", "REFUSED_FUNCTIONS", "Function", "ReadFile", "file_functions"]
