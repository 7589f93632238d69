"""Templates: the language of Go's text/template, the functions of job files, places in messages, no values in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import InvalidInput
from swarmlet.template import Waiting, environment_of, parse
from swarmlet.template.parser import KEYWORDS
from swarmlet.template.render import KNOWN
from tests.template.world import FakeLookups

SECRET = "swordfish-7391"
WORLD = FakeLookups(
    variables={
        "nomad/jobs/shop": {
            "password": SECRET,
            "user": "bob",
            "n": "3",
            "json": '{"a": [1, 2], "b": {"c": 1.5}}',
        },
        "nomad/jobs/shop/web": {"tls/key": "k"},
    },
    env={"NOMAD_PORT_http": "8080", "LIST": "a,b,c", "EMPTY": "", "NOMAD_NAMESPACE": "default"},
    instances={
        "db": [
            {"Name": "db", "Address": "10.0.0.1", "Port": 5432, "ID": "i1", "Tags": ["primary"]},
            {"Name": "db", "Address": "10.0.0.2", "Port": 5433, "ID": "i2", "Tags": ["replica", "slow"]},
        ]
    },
)


def render(text: str, *, is_strict: bool = False) -> str:
    return parse(text).render(WORLD, is_strict=is_strict)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain { } text", "plain { } text"),
        ("a {{ `b` }} c", "a b c"),
        ("a \n {{- 1 -}} \n b", "a1b"),
        ("a {{- /* gone */ -}} b", "ab"),
        ("{{/* gone */}}x", "x"),
        ('{{ "q\\"\\n\\u00e4\\x41" }}', 'q"\näA'),
        ("{{ 'a' }} {{ 0x10 }} {{ -3 }} {{ 1.5 }} {{ 1e3 }} {{ true }} {{ nil | print }}", "97 16 -3 1.5 1000 true <nil>"),
        ('{{ "a}}b" }}', "a}}b"),
        ("{{ . }}", "<no value>"),
        # Variables and scopes.
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        # Branches.
        ('{{ if 0 }}a{{ else if "" }}b{{ else }}c{{ end }}', "c"),
        ('{{ with "x" }}{{ . }}{{ else }}none{{ end }}{{ with "" }}a{{ else }}b{{ end }}', "xb"),
        ('{{ with $x := "y" }}{{ $x }}{{ . }}{{ end }}', "yy"),
        # Loops.
        ('{{ range split "," (env "LIST") }}[{{ . }}]{{ else }}none{{ end }}', "[a][b][c]"),
        ('{{ range $i, $e := split "," "x,y" }}{{ $i }}{{ $e }}{{ $ }}{{ end }}', "0x<no value>1y<no value>"),
        ("{{ range loop 0 }}a{{ else }}none{{ end }}", "none"),
        ("{{ range loop 5 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}", "02"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        # Templates by name.
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" 3 }}{{ block "b" 4 }}({{ . }}){{ end }}', "<3>(4)"),
        # Calls and pipelines.
        ('{{ "a" | printf "%s-%s" "b" }}', "b-a"),
        ('{{ (parseJSON (key "nomad/jobs/shop/json")).b.c }}', "1.5"),
        ('{{ index (key "nomad/jobs/shop/json" | parseJSON) "a" 1 }}', "2"),
        ("{{ and 1 0 2 }}{{ or 0 nil 3 }}{{ not 1 }}", "03false"),
        ('{{ or true (mustEnv "NONE") }}', "true"),
        ("{{ eq 1 2 1 }}{{ ne 1 2 }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1 2 }}{{ ge 2 2 }}", "truetruetruetruefalsetrue"),
        ('{{ len "äb" }} {{ len (loop 3) }} {{ slice "hello" 1 3 }}', "3 3 el"),
        ('{{ printf "%05d|%-4s|%q|%t|%.2f|%x|%v|%%" 42 "a" "q" true 1.005 255 (loop 2) }}', '00042|a   |"q"|true|1.00|ff|[0 1]|%'),
        ('{{ print 1 2 "a" 3 }}{{ println "x" 1 }}', "1 2a3x 1\n"),
        # Texts.
        ('{{ "aBc" | toLower }}{{ "aBc" | toUpper }}{{ "a b" | toTitle }}', "abcABCA B"),
        ('{{ " x " | trimSpace }}{{ "xxaxx" | trim "x" }}{{ "pre-a" | trimPrefix "pre-" }}{{ "a.io" | trimSuffix ".io" }}', "xaaa"),
        ('{{ split "," "a,b" | join "-" }}{{ "a.b" | replaceAll "." "_" }}', "a-ba_b"),
        ('{{ "v12" | regexReplaceAll "v([0-9])" "<$1>" }}{{ "abc" | regexMatch "^a.c$" }}', "<1>2true"),
        ('{{ "a\\nb" | indent 2 }}', "  a\n  b"),
        # Lists.
        ('{{ loop 2 4 | contains 3 }}{{ in (split "," "a,b") "b" }}{{ "x" | contains "a" }}', "truetruefalse"),
        # Encodings.
        ('{{ "hi" | base64Encode }}{{ "aGk=" | base64Decode }}{{ "aGk" | base64URLDecode }}', "aGk=hihi"),
        ('{{ parseJSON "{\\"b\\": 1, \\"a\\": \\"<\\"}" | toJSON }}', '{"a":"\\u003c","b":1}'),
        ('{{ parseBool "true" }}{{ parseInt "7" | add 1 }}{{ parseFloat "1.5" }}', "true81.5"),
        ('{{ sha256Hex "a" }}', "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        # Numbers.
        ("{{ 5 | subtract 2 }}{{ 10 | divide 4 }}{{ 10 | modulo 4 }}{{ 2 | multiply 3 }}{{ 1 | maximum 2 }}", "32262"),
        # The environment and the time.
        ('{{ env "NOMAD_PORT_http" }}{{ env "NONE" }}{{ envOrDefault "NONE" "d" }}', "8080d"),
        ('{{ timestamp }} {{ timestamp "2006-01-02" }} {{ timestamp "unix" }}', "2023-11-14T22:13:20Z 2023-11-14 1700000000"),
        # Variables.
        ('{{ with nomadVar "nomad/jobs/shop" }}{{ .user }}:{{ .password }}{{ end }}', f"bob:{SECRET}"),
        ('{{ range nomadVar "nomad/jobs/shop" }}{{ .Key }} {{ end }}', "json n password user "),
        ('{{ range $k, $v := nomadVar "nomad/jobs/shop" }}{{ $k }}={{ $v.Value | len }};{{ end }}', "json=30;n=1;password=14;user=3;"),
        ('{{ (nomadVar "nomad/jobs/shop").Keys | join "," }}', "json,n,password,user"),
        ('{{ range (nomadVar "nomad/jobs/shop/web").Tuples }}{{ .K }}={{ .V }}{{ end }}', "tls/key=k"),
        ('{{ index (nomadVar "nomad/jobs/shop/web") "tls/key" }}', "k"),
        ('{{ if nomadVarExists "none" }}a{{ else }}b{{ end }}', "b"),
        ('{{ range nomadVarList "nomad/jobs" }}{{ .Path }} {{ end }}', "nomad/jobs/shop nomad/jobs/shop/web "),
        ("{{ range nomadVarList }}{{ . | len }}{{ end }}", "22"),
        ('{{ key "nomad/jobs/shop/user" }}{{ keyOrDefault "nomad/jobs/shop/none" "d" }}{{ keyExists "nomad/jobs/x/y" }}', "bobdfalse"),
        ('{{ range ls "nomad/jobs/shop" }}{{ .Key }},{{ end }}', "json,n,password,user,"),
        ('{{ range tree "nomad/jobs/shop" }}{{ .Key }},{{ end }}', "json,n,password,user,web/tls/key,"),
        ('{{ with secret "nomad/jobs/shop" }}{{ .Data.user }}{{ .Data.data.user }}{{ end }}', "bobbob"),
        ('{{ (nomadVar "nomad/jobs/shop").none }}', "<no value>"),
        # Services.
        ('{{ range nomadService "db" }}{{ .Address }}:{{ .Port }} {{ end }}', "10.0.0.1:5432 10.0.0.2:5433 "),
        ('{{ range service "replica.db" }}{{ .Port }}{{ end }}', "5433"),
        ('{{ range nomadService 1 "seed" "db" }}{{ .Name }}{{ end }}', "db"),
        ("{{ range nomadServices }}{{ .Name }}{{ end }}", "db"),
        ('{{ range $tag, $all := nomadService "db" | byTag }}{{ $tag }}{{ len $all }} {{ end }}', "primary1 replica1 slow1 "),
        ('{{ (index (nomadService "db") 0).Tags | toJSON }}', '["primary"]'),
    ],
)  # fmt: skip
def test_templates_give(text: str, result: str) -> None:
    assert render(text) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n {{ if }}", "template:2:8: a value is missing"),
        ("{{ if 1 }}", "template:1:1: the block is not closed; expected {{ end }}"),
        ("x{{ end }}", "template:1:2: {{ end }} without a block that it belongs to"),
        ("{{ 1", "template:1:1: the action is not closed; expected }}"),
        ('{{ "a }}', "template:1:4: the string is not closed"),
        ("{{ $x }}", "template:1:4: $x is not declared"),
        ("{{ break }}", "template:1:1: {{ break }} outside of a range"),
        ("{{ nomadvar `x` }}", "template:1:4: function nomadvar is unknown; did you mean nomadVar?"),
        ('{{ file "/etc/shadow" }}', "template:1:4: function file does not exist here: a template does not read"),
        ('{{ template "t" }}', 'template:1:1: template "t" is not defined'),
        ("{{ 1 2 }}", "template:1:6: a value takes no arguments"),
        ("{{ 1 | 2 }}", "template:1:8: expected a function after |"),
        ("{{ toLower }}", "template:1:4: toLower has 0 arguments"),
        ("{{ (1 }}", "template:1:7: expected )"),
        ("{{ `a``b` }}", "template:1:7: expected a space between operands"),
        ("{{ ? }}", "template:1:4: '?' does not belong here"),
        ("{{/* a }}", "template:1:1: the comment is not closed"),
        ("{{ range 1.5 }}{{ end }}", "template:1:1: range over a number"),
        ("{{ $a, $b := 1 }}", "template:1:4: no variable can be declared here"),
        ('{{ nomadVar "a@other" }}', "template:1:4: nomadVar: a variable of another namespace"),
        ("{{ 1 | divide 0 }}", "template:1:8: divide: a division by zero"),
        ('{{ regexMatch "(a+)+b" "aaaa" }}', "template:1:4: regexMatch:"),
        ("{{ range loop 9999 }}{{ range loop 9999 }}{{ end }}{{ end }}", "the template takes more than 100_000 steps"),
        ('{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}', "more than 50 templates in each other"),
        ("{{ if 1 }}" * 60, "more than 50 blocks"),
        ("{{ " + "(" * 60 + " }}", "more than 50 blocks or parentheses"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        render(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        '{{ key "nomad/jobs/shop/password" | parseInt }}',
        '{{ key "nomad/jobs/shop/password" | parseJSON }}',
        '{{ key "nomad/jobs/shop/password" | parseBool }}',
        '{{ key "nomad/jobs/shop/password" | base64Decode }}',
        '{{ key "nomad/jobs/shop/password" | loop }}',
        '{{ key "nomad/jobs/shop/password" | index 3 }}',
        '{{ key "nomad/jobs/shop/password" | printf "%d" }}',
        '{{ lt 3 (key "nomad/jobs/shop/password") }}',
        '{{ range key "nomad/jobs/shop/password" }}{{ end }}',
        '{{ (key "nomad/jobs/shop/password").x }}',
        '{{ regexMatch (key "nomad/jobs/shop/password" | printf "(%s") "a" }}',
        '{{ (nomadVar "nomad/jobs/shop").password.none }}',
        '{{ mustEnv (key "nomad/jobs/shop/password") }}',
        '{{ nomadVar (key "nomad/jobs/shop/password" | printf "x@%s") }}',
    ],
)
def test_no_message_quotes_a_value(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        render(text)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{{ nomadVar "nomad/jobs/none" }}', "variable nomad/jobs/none"),
        ('{{ key "nomad/jobs/shop/none" }}', "item nomad/jobs/shop/none of a variable"),
        ('{{ with secret "x" }}{{ end }}', "variable x"),
    ],
)
def test_what_is_not_there_yet_is_waited_for(text: str, what: str) -> None:
    with pytest.raises(Waiting) as raised:
        render(text)
    assert raised.value.what == what


def test_a_missing_key_is_an_error_where_that_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="template:1:32: there is no none"):
        render('{{ (nomadVar "nomad/jobs/shop") }}'.replace(") }}", ").none }}"), is_strict=True)


def test_other_delimiters() -> None:
    template = parse('{{ stays }} [[ env "EMPTY" -]]  x', left="[[", right="]]")
    assert template.render(WORLD) == "{{ stays }} x"


def test_a_template_says_whether_it_shows_secrets() -> None:
    assert parse('{{ key "a/b" }}').may_show_secrets
    assert not parse('{{ env "a" }}{{ nomadVarExists "x" }}').may_show_secrets


def test_environment_files() -> None:
    text = '# c\n\nA=1\nexport B = two words \nC="a\\nb\\""\nD=\'x\\n\'\nE=\n'
    assert environment_of(text) == {"A": "1", "B": "two words", "C": 'a\nb"', "D": "x\\n", "E": ""}
    with pytest.raises(InvalidInput) as raised:
        environment_of(f"A=1\n{SECRET}\n")
    assert "line 2" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_environment_files_have_jsons_escapes_and_comments() -> None:
    text = 'A="a\\u0026b" # c\nB=x#y # z\nC="\\q"\nD=a b\nE="x" rest'
    assert environment_of(text) == {"A": "a&b", "B": "x#y", "C": "\\q", "D": "a b", "E": "x"}


def test_a_template_tells_which_variables_it_names() -> None:
    text = """{{ define "x" }}{{ secret "s" }}{{ end }}
{{ if nomadVarExists "e" }}{{ range (nomadVar "a/b").Keys }}{{ key "k/p/item" | toLower }}{{ end }}{{ end }}
{{ nomadVar (env "X") }}{{ with $x := ls "l/" }}{{ template "x" (tree "t") }}{{ end }}"""
    assert sorted(parse(text).variables()) == ["a/b", "e", "k/p", "l", "s", "t"]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{{ "" | sprig_default "d" }}{{ sprig_ternary "y" "n" true }}{{ sprig_coalesce "" "c" }}', "dyc"),
        ('{{ "abcdef" | sprig_trunc 3 }}{{ sprig_list 1 2 | sprig_join "-" }}{{ sprig_quote "a" 1 }}', 'abc1-2"a" "1"'),
        ('{{ $l := sprig_list }}{{ $l = sprig_append $l "x" }}{{ sprig_first $l }}{{ sprig_dict "a" 1 | toJSON }}', 'x{"a":1}'),
        ('{{ sprig_add 1 2 3 }}{{ sprig_sub 5 2 }}{{ sprig_div 9 2 }}{{ sprig_int "7x" }}{{ sprig_sortAlpha (sprig_list "b" "a") }}', "6340[a b]"),
        ('{{ (nomadVar "nomad/jobs/shop").Parent.Items.user | sprig_upper }}', "BOB"),
    ],
)  # fmt: skip
def test_sprigs_functions(text: str, result: str) -> None:
    assert render(text) == result


@given(st.text(st.sampled_from("{}- .$|()=:,\"`'/*\\abn01\n"), max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidInput, Waiting):
        parse("{{ " + text).render(WORLD)


WORDS = [*sorted(KNOWN), *sorted(KEYWORDS), ".", "$", "|", "(", ")", '"nomad/jobs/shop"', "1", "-1", "1.5", "nil",
         "true", ".Key", '"a"', "{{", "}}", "$x", ":=", "(loop 3)", '(nomadVar "nomad/jobs/shop")']  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_no_words_break_the_evaluator(words: list[str]) -> None:
    said = ""
    try:
        parse("{{ " + " ".join(words) + " }}").render(WORLD)
    except (InvalidInput, Waiting) as error:
        said = str(error)
    assert SECRET not in said
