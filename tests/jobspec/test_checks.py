"""`check` and `check_restart`, in the job language and in JSON."""

from __future__ import annotations

import pytest

from swarmlet.errors import InvalidJob
from swarmlet.jobspec import InvalidJobFile, parse_job
from swarmlet.jobspec.json_job import job_from_json
from swarmlet.jobspec.json_writing import job_to_json
from swarmlet.model.check import Check, CheckKind, CheckRestart
from swarmlet.model.job import SECOND_NS, Service

HTTP = 'type = "http"\ninterval = "5s"\ntimeout = "1s"\n'
GRPC = 'type = "grpc"\ninterval = "5s"\ntimeout = "1s"\n'
SCRIPT = 'type = "script"\ncommand = "/bin/true"\ninterval = "5s"\ntimeout = "1s"\n'


def job_with(*checks: str, service: str = 'port = "http"') -> str:
    blocks = "\n".join(f"check {{\n{check}\n}}" for check in checks)
    return (
        f'job "a" {{\ngroup "g" {{\nnetwork {{\nport "http" {{}}\n}}\nservice {{\n{service}\n{blocks}\n}}\n'
        'task "t" {\ndriver = "raw_exec"\nconfig {\ncommand = "x"\n}\n}\n}\n}\n'
    )


def services_of(text: str) -> tuple[Service, ...]:
    return parse_job(text, filename="test.hcl").job.groups[0].services


def test_a_check_takes_from_its_service_what_it_does_not_say() -> None:
    service = 'port = "http"\ntask = "t"\non_update = "ignore"\ncheck_restart {\nlimit = 3\ngrace = "7s"\n}'
    (found,) = services_of(job_with(HTTP + 'path = "/up"\nheader {\nHost = ["x", "y"]\n}', service=service))
    assert found.health_checks == (
        Check(
            name="a-g check 1",
            kind=CheckKind.HTTP,
            interval_ns=5 * SECOND_NS,
            timeout_ns=SECOND_NS,
            task="t",
            path="/up",
            headers={"Host": ("x", "y")},
            is_ignored_on_update=True,
            restart=CheckRestart(limit=3, grace_ns=7 * SECOND_NS),
        ),
    )


def test_checks_survive_the_way_through_json() -> None:
    text = job_with(
        HTTP + 'initial_status = "passing"\nmethod = "HEAD"', SCRIPT + 'task = "t"\nargs = ["-v"]'
    )
    job = parse_job(text).job
    assert job_from_json(job_to_json(job)).groups[0].services == job.groups[0].services


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ('type = "ttl"\ninterval = "5s"\ntimeout = "1s"', 'type "ttl" is not supported: it concerns Consul'),
        (GRPC + f'grpc_service = "{"a" * 513}"', "grpc_service has 513 characters; expected at most 512"),
        ('type = "tcp"\ntimeout = "1s"', "check has no interval"),
        ('type = "tcp"\ninterval = "5s"', "check has no timeout"),
        ('type = "tcp"\ninterval = "10ms"\ntimeout = "1s"', "interval of 0.01 s is out of range"),
        (HTTP + 'port = "nope"', 'port "nope" is no port of the group'),
        (HTTP + 'task = "nobody"', 'task "nobody" is no task of the group'),
        (HTTP + 'method = "GET /"', "is no HTTP method"),
        (HTTP + 'header {\nHost = ["a\\r\\nb"]\n}', "is no HTTP header"),
        (HTTP + "check_restart {\nlimit = -1\n}", "check_restart limit of -1 is out of range"),
        (SCRIPT, "a script check has no task"),
        ('type = "script"\ntask = "t"\ninterval = "5s"\ntimeout = "1s"', "a script check has no command"),
    ],
)
def test_what_cannot_be_checked_is_refused_with_the_reason(check: str, problem: str) -> None:
    with pytest.raises(InvalidJobFile) as raised:
        parse_job(job_with(check), filename="test.hcl")
    assert problem in str(raised.value)


def test_a_check_without_any_port_is_refused() -> None:
    with pytest.raises(InvalidJobFile) as raised:
        parse_job(job_with(HTTP, service='name = "web"'))
    assert "a http check has no port" in str(raised.value)


def test_a_ttl_check_in_json_is_refused_by_name() -> None:
    document = job_to_json(parse_job(job_with(HTTP)).job)
    document["TaskGroups"][0]["Services"][0]["Checks"][0]["Type"] = "ttl"
    with pytest.raises(InvalidJob) as raised:
        job_from_json(document)
    assert 'Type: "ttl" is not supported: it concerns Consul' in str(raised.value)


def test_a_grpc_check_says_whose_health_it_asks_for_and_whether_over_tls() -> None:
    text = job_with(
        GRPC
        + 'grpc_service = "shop.Orders"\ngrpc_use_tls = true\n'
        + 'tls_skip_verify = true\ntls_server_name = "shop"'
    )
    (found,) = services_of(text)
    assert found.health_checks == (
        Check(
            name="a-g check 1",
            kind=CheckKind.GRPC,
            interval_ns=5 * SECOND_NS,
            timeout_ns=SECOND_NS,
            grpc_service="shop.Orders",
            is_grpc_over_tls=True,
            is_tls_verified=False,
            tls_server_name="shop",
        ),
    )
    document = job_to_json(parse_job(text).job)
    (check,) = document["TaskGroups"][0]["Services"][0]["Checks"]
    assert (check["Type"], check["GRPCService"], check["GRPCUseTLS"]) == ("grpc", "shop.Orders", True)
    assert job_from_json(document).groups[0].services == (found,)


def test_what_concerns_another_type_of_check_is_ignored_with_a_warning() -> None:
    said = [
        str(warning)
        for check in (GRPC + 'path = "/up"', HTTP + "grpc_use_tls = true")
        for warning in parse_job(job_with(check)).warnings
    ]
    assert any("path is ignored: it concerns http checks" in each for each in said)
    assert any("grpc_use_tls is ignored: it concerns grpc checks" in each for each in said)
