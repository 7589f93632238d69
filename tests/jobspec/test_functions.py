"""Functions: their values, their errors."""

import base64
import contextlib
import hashlib
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.jobspec.evaluate import Evaluator
from swarmlet.jobspec.functions import FUNCTIONS, ReadFile
from swarmlet.jobspec.parser import parse_expression
from swarmlet.jobspec.problem import Fault, Source


def value_of(text: str, read_file: ReadFile | None = None, /, **scope: Any) -> Any:
    source = Source("test", text)
    return Evaluator(read_file).evaluate(source, parse_expression(source), scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(-5) + ceil(1.2) + floor(1.8) + signum(-3)", 7),
        ('basename("/a/b.txt")', "b.txt"),
        ('chomp("a\\n\\n")', "a"),
        ("chunklist([1, 2, 3], 2)", [[1, 2], [3]]),
        ('cidrhost("10.12.127.0/20", 16)', "10.12.112.16"),
        ('cidrhost("10.12.127.0/20", -1)', "10.12.127.255"),
        ('cidrnetmask("172.16.0.0/12")', "255.240.0.0"),
        ('cidrsubnet("172.16.0.0/12", 4, 2)', "172.18.0.0/16"),
        ('cidrsubnet("fd00:fd12:3456:7890::/56", 16, 162)', "fd00:fd12:3456:7800:a200::/72"),
        (
            'cidrsubnets("10.1.0.0/16", 4, 4, 8, 4)',
            ["10.1.0.0/20", "10.1.16.0/20", "10.1.32.0/24", "10.1.48.0/20"],
        ),
        ('coalesce("", null, "b")', "b"),
        ("coalescelist([], [1])", [1]),
        ('compact(["a", "", null])', ["a"]),
        ("concat([1], [2, 3])", [1, 2, 3]),
        ('contains(["a"], "a")', True),
        ('csvdecode("a,b\\n1,2\\n")', [{"a": "1", "b": "2"}]),
        ("distinct([1, 2, 1])", [1, 2]),
        ("element([1, 2, 3], 4)", 2),
        ("flatten([[1, [2]], 3])", [1, 2, 3]),
        (
            'format("%s-%03d-%q-%.1f-%x-%t-%v%%", "a", 7, "b", 1.25, 255, true, [1])',
            'a-007-"b"-1.2-ff-true-[1]%',
        ),
        ('formatlist("%s!", ["a", "b"])', ["a!", "b!"]),
        ('indent(2, "a\\nb")', "a\n  b"),
        ('join(",", ["a", "b"])', "a,b"),
        ("keys({b = 1, a = 2})", ["a", "b"]),
        ('length("héé") + length([1]) + length({a = 1})', 5),
        ("log(8, 2)", 3),
        ('lookup({a = 1}, "b", 2)', 2),
        ("merge({a = 1}, {a = 2, b = 3})", {"a": 2, "b": 3}),
        ('parseint("ff", 16)', 255),
        ("pow(2, 10)", 1024),
        ("range(3)", [0, 1, 2]),
        ("range(5, 1, -2)", [5, 3]),
        ('regex("([a-z]+)([0-9]+)", "abc12")', ["abc", "12"]),
        ('regexall("[0-9]", "a1b2")', ["1", "2"]),
        ('regex_replace("a1b2", "([0-9])", "<$1>")', "a<1>b<2>"),
        ('replace("a.b", ".", "-")', "a-b"),
        ("reverse([1, 2])", [2, 1]),
        ("setintersection([1, 2], [2, 3])", [2]),
        ("setproduct([1, 2], [3])", [[1, 3], [2, 3]]),
        ("setsubtract([1, 2], [2])", [1]),
        ("setunion([2, 1], [2])", [1, 2]),
        ("slice([1, 2, 3], 1, 3)", [2, 3]),
        ('sort(["b", "a"])', ["a", "b"]),
        ('split(",", "a,b")', ["a", "b"]),
        ('strrev("abc")', "cba"),
        ('substr("hello", -3, 2)', "ll"),
        ('title("hello world")', "Hello World"),
        ('trim("xax", "x")', "a"),
        ('trimprefix("ab", "a") == trimsuffix("bc", "c")', True),
        ('urlencode("a b&c")', "a+b%26c"),
        ("values({b = 1, a = 2})", [2, 1]),
        ('zipmap(["a"], [1])', {"a": 1}),
    ],
)
def test_function_has_its_value(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp()", "would differ each time"),
        ("nonesuch()", "there is no function"),
        ('regex("x", "y")', "does not match"),
        ('regex("(?=x)", "y")', "lookarounds"),
        ('jsondecode("{")', "expected JSON"),
        ("element([], 0)", "empty"),
        ('cidrhost("x", 1)', "is no network"),
        ('file("x")', "cannot be read here"),
        ("upper()", "got 0; expected 1 argument"),
    ],
)
def test_function_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Fault, match=message.replace("(", r"\(")):
        value_of(text)


def test_files_are_read_through_what_is_passed_in() -> None:
    assert value_of('file("a.txt")', {"a.txt": "hello"}.__getitem__) == "hello"


def test_a_missing_file_is_an_error_with_its_name() -> None:
    def read(name: str) -> str:
        raise FileNotFoundError(name)

    with pytest.raises(Fault, match=r"cannot read a\.txt"):
        value_of('file("a.txt")', read)
    assert value_of('fileexists("a.txt")', read) is False


@given(st.text(max_size=50))
def test_hashes_and_base64_agree_with_python(text: str) -> None:
    assert value_of("sha256(text)", text=text) == hashlib.sha256(text.encode()).hexdigest()
    assert value_of("base64encode(text)", text=text) == base64.b64encode(text.encode()).decode()
    assert value_of("base64decode(base64encode(text))", text=text) == text


@given(st.integers(0, 2**32 - 1), st.integers(0, 24), st.integers(0, 8), st.integers(0, 255))
def test_subnets_agree_with_python(address: int, length: int, bits: int, number: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    number %= 2**bits
    got = ipaddress.ip_network(value_of("cidrsubnet(p, b, n)", p=str(network), b=bits, n=number))
    assert isinstance(network, ipaddress.IPv4Network)
    assert isinstance(got, ipaddress.IPv4Network)
    assert got.subnet_of(network)
    assert got.prefixlen == length + bits


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(_VALUES, max_size=4))
def test_no_function_fails_with_anything_but_a_fault(name: str, arguments: list[Any]) -> None:
    with contextlib.suppress(Fault):
        value_of(f"{name}(arguments...)", arguments=arguments)
