"""The language: values of expressions, templates, names that stay for run time, bounds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.jobspec.evaluate import Evaluator
from swarmlet.jobspec.parser import parse_expression
from swarmlet.jobspec.problem import Fault, Source


def value_of(text: str, /, **scope: Any) -> Any:
    source = Source("test", text)
    return Evaluator().evaluate(source, parse_expression(source), scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 3 - 2", 5),
        ("-7 % 3", -1),
        ("7 / 2", 3.5),
        ("6 / 2", 3),
        ('"1" + 1', 2),
        ("1 < 2 && 2 >= 2 || false", True),
        ("!true == false", True),
        ('1 == "1"', False),
        ("true == 1", False),
        ("[1, 2] == [1, 2]", True),
        ("true ? 1 : 2", 1),
        ("false ? 1 : true ? 2 : 3", 2),
        ("-1.5e3", -1500),
        ("[1, 2,]", [1, 2]),
        ('{ a = 1, "b-c" : 2\n (upper("d")) = 3 }', {"a": 1, "b-c": 2, "D": 3}),
        ("[for v in [1, 2, 3] : v * 2 if v > 1]", [4, 6]),
        ("{for k, v in {a = 1, b = 2} : v => upper(k)}", {"1": "A", "2": "B"}),
        ('{for v in ["a", "b", "a"] : v => 1...}', {"a": [1, 1], "b": [1]}),
        ("[for i, v in [5, 6] : i]", [0, 1]),
        ("[{a = 1}, {a = 2}][*].a", [1, 2]),
        ("[{a = [1]}, {a = [2]}][*].a[0]", [1, 2]),
        ("[{a = 1}].*.a", [1]),
        ("null[*]", []),
        ("[[1, 2]].0.1", 2),
        ("{a = {b = 5}}.a.b", 5),
        ('{"a b" = 5}["a b"]', 5),
        ("max([1, 7, 3]...)", 7),
        ('try(nothing.x, {a = 1}.b, "z")', "z"),
        ("can({a = 1}.b)", False),
    ],
)
def test_expression_has_its_value(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"a\tb\"\u00e9\\"', 'a\tb"é\\'),
        ('"a${1 + 1}b"', "a2b"),
        ('"${1 + 1}"', 2),
        ('"$${a} %%{b} $5 100%"', "${a} %{b} $5 100%"),
        ('"%{ if true }yes%{ else }no%{ endif }"', "yes"),
        ('"%{ for v in [1, 2] }<${v}>%{ endfor }"', "<1><2>"),
        ('"a ${~ "b" ~} c"', "abc"),
        ('"${"x${"y"}"}"', "xy"),
        ("<<EOT\n  a\n  b ${1}\nEOT\n", "  a\n  b 1\n"),
        ("<<-EOT\n    a\n\n      b\n    EOT\n", "a\n\n  b\n"),
        ("<<EOT\nno \\n escape\nEOT", "no \\n escape\n"),
        ('"${true}-${1.5}"', "true-1.5"),
    ],
)
def test_template_has_its_text(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"${node.unique.name}"', "${node.unique.name}"),
        ("attr.kernel.name", "${attr.kernel.name}"),
        ('"${meta.rack}-${NOMAD_ALLOC_INDEX}"', "${meta.rack}-${NOMAD_ALLOC_INDEX}"),
        ("NOMAD_PORT_http", "${NOMAD_PORT_http}"),
        ('"${HOME}/x"', "${HOME}/x"),
        ('meta["a b"]', '${meta["a b"]}'),
        ('"${env["PATH"]}"', '${env["PATH"]}'),
        ('"${attr.platform.aws.ami-id}"', "${attr.platform.aws.ami-id}"),
        ('upper("${node.class}")', "${NODE.CLASS}"),
    ],
)
def test_names_that_only_a_node_knows_stay(text: str, expected: str) -> None:
    assert value_of(text) == expected


def test_unicode_names_are_names() -> None:
    assert value_of("größe + 1", größe=2) == 3


def test_a_for_variable_shadows_a_run_time_name() -> None:
    assert value_of("[for node in [1] : node]") == [1]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "1" + ")" * 500,
        "1" + "+1" * 2_000,
        "[" * 500,
        "-" * 5_000 + "1",
        "a" + ".b" * 5_000,
        '"${' * 300,
        "range(100000)",
        "range(0, 1e30)",
        pytest.param("[for a in range(60000) : [for b in range(60000) : b]]", marks=pytest.mark.slow),
        "9" * 400,
        "pow(10, 4000)",
        'format("%99999d", 1)',
        'regex("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")',
        'regex("(a|a)*$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")',
        'regex("a*a*a*a*a*a*b", join("", [for i in range(500) : "a"]))',
        'join("x", [for i in range(60000) : "%s"])' % ("y" * 100),
        "setproduct(range(1000), range(1000))",
    ],
)
def test_what_asks_for_too_much_is_refused(text: str) -> None:
    with pytest.raises(Fault):
        value_of(text)


@pytest.mark.slow
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8), st.data())
def test_sums_and_products_agree_with_python(numbers: list[int], data: st.DataObject) -> None:
    text = str(numbers[0])
    for number in numbers[1:]:
        text += f" {data.draw(st.sampled_from('+-*'))} ({number})"
    assert value_of(text) == eval(text)


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_json_round_trips(value: Any) -> None:
    assert value_of("jsondecode(jsonencode(value))", value=value) == value
