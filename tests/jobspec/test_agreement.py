"""Differential: which texts are HCL, judged by the parser that Nomad uses."""

import pygohcl
import pytest

from swarmlet.jobspec.parser import parse_body
from swarmlet.jobspec.problem import Fault, Source

#: The judge evaluates too, and knows neither our variables nor functions: these words are not about syntax.
EVALUATION = ("Variables not allowed", "Unknown variable", "Function calls", "Call to unknown", "nsupported")

TEXTS = (
    "a = [\n  for x in [1] : x\n]\n",
    "a = {\n b =\n 1\n}\n",
    "a = {b=1,c=2}\n",
    "a = {b=1\nc=2}\n",
    "a = [{\n b = 1\n c = 2\n}]\n",
    "a = (\n1\n+\n2\n)\n",
    "a = true ? 1 : 2",
    'b "x" y {\n}\n',
    "b {}\nc {}\n",
    "b { a = 1 }\n",
    "b { a = 1\n}\n",
    "b {\n a = 1 }\n",
    'a = "x" "y"\n',
    "a = 1.5.2\n",
    "a = <<A\nx\nA\nb = 2\n",
    "a = [<<A\nx\nA\n, 2]\n",
    "a = [<<A\nx\nA\n]\n",
    'a = "%{ if true ~} x %{ else ~} y %{ endif ~}"\n',
    'a = { "b": 1 }\n',
    "a = { (b) = 1 }\n",
    "a = -1\n",
    "a = !true\n",
    "a = - 1\n",
    "a = 1 # c\n",
    "/* c */ a = 1 /* d\n */\n",
    "a = [1,\n2,\n]\n",
    "a = {\n}\n",
    "a = {\n\n b = 1,\n\n c = 2,\n}\n",
    "a-b = 1\n",
    "é = 1\n",
    "a = 08\n",
    "a = 1e5\n",
    "a = .5\n",
    "a = 5.\n",
    'a = "\\x"\n',
    'a = "$"\n',
    'a = "$$"\n',
    'a = "%"\n',
    'a = "${1}$"\n',
    'a = "$${"\n',
    'b "a${1}" {\n}\n',
    "a = x.0\n",
    "a = [1][0]\n",
    "a = {\n for = 1\n}\n",
    "a = { null = 1 }\n",
    'a = {a=1}["a"]\n',
    "a = [[1],[2]][*][0]\n",
    "a\n= 1\n",
    "b\n{\n}\n",
    "a =\n1\n",
    "a = 1;\n",
    "a = 1\r\nb = 2\r\n",
    'a = """x"""\n',
    "a = 0x10\n",
    "a = 1\xa0\n",
    "a = <<-A\n  x\n  A\n",
    "a = <<A B\nA\n",
    "a = [for x in [1]: x if true]\n",
    "a = {for k,v in {} : k => v}\n",
    "a={for k,v in {} : k => v...}\n",
    "a = max(1,2,)\n",
    "a = max([1]...)\n",
    'a = "a\tb"\n',
    "a = _x\n",
    "_a = 1\n",
    "a = {\n  b = 1 c = 2\n}\n",
    "b {\n c {\n } }\n",
    "b { c {} }\n",
    "a = 1 b = 2\n",
    "a = [1 2]\n",
    "a = true?1:2\n",
    "a = 1 == 1 == true\n",
    "a = !!true\n",
    "a = --1\n",
    'a = "${"\n"}"\n',
    'a = {"${"x"}y" = 1}\n',
)


def is_hcl_for_us(text: str) -> bool:
    try:
        parse_body(Source("test", text))
    except Fault:
        return False
    return True


def is_hcl_for_nomad(text: str) -> bool:
    try:
        pygohcl.loads(text)
    except pygohcl.HCLInternalError:
        # It parsed, and then could not show a null.
        return True
    except pygohcl.HCLParseError as error:
        return any(word in str(error) for word in EVALUATION)
    return True


@pytest.mark.parametrize("text", TEXTS)
def test_we_agree_on_what_is_hcl(text: str) -> None:
    assert is_hcl_for_us(text) == is_hcl_for_nomad(text)
