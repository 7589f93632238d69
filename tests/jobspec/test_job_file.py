"""What blocks and attributes of a job file become."""

from pathlib import Path

import pytest

from swarmlet.jobspec import InvalidJobFile, Parsed, parse_job
from swarmlet.model.check import Check, CheckKind
from swarmlet.model.job import (
    MINUTE_NS,
    SECOND_NS,
    Constraint,
    DelayFunction,
    DisconnectStrategy,
    EphemeralDisk,
    Job,
    JobType,
    LogRotation,
    MigrateStrategy,
    ReschedulePolicy,
    RestartMode,
    RestartPolicy,
    Service,
    Task,
    TaskGroup,
    UpdateStrategy,
    VolumeMount,
    VolumeRequest,
)
from swarmlet.model.resources import Network, Port, TaskResources

EXAMPLES = Path(__file__).parents[2] / "examples"


def parse(text: str, **variables: str) -> Parsed:
    return parse_job(text, filename="test.hcl", variables=variables)


def group_of(inside: str, before: str = "") -> TaskGroup:
    text = f'job "a" {{\n{before}\ngroup "g" {{\n{inside}\ntask "t" {{\ndriver = "raw_exec"\nconfig {{\ncommand = "x"\n}}\n}}\n}}\n}}\n'
    return parse(text).job.groups[0]


def task_of(inside: str, group: str = "") -> Task:
    text = f'job "a" {{\ngroup "g" {{\n{group}\ntask "t" {{\n{inside}\n}}\n}}\n}}\n'
    return parse(text).job.groups[0].tasks[0]


DOCKER = 'driver = "docker"\nconfig {\nimage = "x"\n}\n'


def test_smallest_job_has_the_defaults_of_the_model() -> None:
    job = group_and_job(
        'job "a" {\n  task "t" {\n    driver = "raw_exec"\n    config { command = "x" }\n  }\n}\n'
    )
    assert job == Job(
        id=job.id,
        name="a",
        source=job.source,
        groups=(
            TaskGroup(
                name="t",
                tasks=(
                    Task(
                        name="t",
                        driver="raw_exec",
                        config={"command": "x"},
                        resources=TaskResources(is_default=True),
                    ),
                ),
                update=UpdateStrategy(),
                reschedule=ReschedulePolicy(),
            ),
        ),
    )


def group_and_job(text: str) -> Job:
    return parse(text).job


def test_attributes_of_a_job() -> None:
    job = group_and_job(
        'job "a" {\n  region = "global"\n  namespace = "n"\n  name = "b"\n  type = "batch"\n  priority = "70"\n'
        '  datacenters = ["dc1", "dc2"]\n  node_pool = "p"\n  meta {\n    k = 1\n  }\n'
        '  constraint {\n    attribute = "${attr.cpu.arch}"\n    value = "amd64"\n  }\n'
        '  constraint {\n    distinct_hosts = true\n  }\n  constraint {\n    attribute = attr.kernel.version\n    version = ">= 5"\n  }\n'
        f'  task "t" {{\n{DOCKER}  }}\n}}\n'
    )
    assert (job.id, job.name, job.namespace, job.type, job.priority) == ("a", "b", "n", JobType.BATCH, 70)
    assert (job.datacenters, job.node_pool, job.meta) == (("dc1", "dc2"), "p", {"k": "1"})
    assert job.constraints == (
        Constraint(left="${attr.cpu.arch}", right="amd64"),
        Constraint(operand="distinct_hosts", right="true"),
        Constraint(left="${attr.kernel.version}", right=">= 5", operand="version"),
    )
    assert job.groups[0].update is None


def test_network_ports_and_dns() -> None:
    group = group_of(
        'network {\nmode = "bridge"\nhostname = "h"\nport "http" {\nto = 80\n}\nport "admin" {\nstatic = 9000\n}\ndns {\nservers = ["1.1.1.1"]\n}\n}'
    )
    assert group.networks == (
        Network(
            mode="bridge",
            hostname="h",
            dns_servers=("1.1.1.1",),
            ports=(Port(label="http", to=80), Port(label="admin", static=9000)),
        ),
    )


def test_a_written_restart_delay_holds_before_every_attempt() -> None:
    group = group_of('restart {\nattempts = 2\ninterval = "30m"\ndelay = "15s"\nmode = "delay"\n}')
    assert group.restart == RestartPolicy(
        attempts=2,
        interval_ns=30 * MINUTE_NS,
        delay_ns=15 * SECOND_NS,
        delay_max_ns=15 * SECOND_NS,
        is_backoff=False,
        mode=RestartMode.DELAY,
    )


def test_a_task_inherits_what_its_restart_leaves_out_from_the_group() -> None:
    task = task_of(DOCKER + "restart {\nattempts = 9\n}", 'restart {\ndelay = "3s"\n}')
    assert task.restart is not None
    assert (task.restart.attempts, task.restart.delay_ns) == (9, 3 * SECOND_NS)


def test_a_group_overrides_single_attributes_of_the_jobs_update_reschedule_and_migrate() -> None:
    group = group_of(
        'update {\nmax_parallel = 3\n}\nreschedule {\ndelay_function = "constant"\n}\nmigrate {\nmax_parallel = 2\n}',
        'update {\nmax_parallel = 2\nmin_healthy_time = "1s"\n}\nreschedule {\ndelay = "7s"\n}\nmigrate {\nmin_healthy_time = "2s"\n}',
    )
    assert group.update == UpdateStrategy(max_parallel=3, min_healthy_ns=SECOND_NS)
    assert group.reschedule == ReschedulePolicy(delay_ns=7 * SECOND_NS, delay_function=DelayFunction.CONSTANT)
    assert group.migrate == MigrateStrategy(max_parallel=2, min_healthy_ns=2 * SECOND_NS)


def test_attempts_of_reschedule_count_unless_unlimited_is_written() -> None:
    policy = group_of('reschedule {\nattempts = 3\ninterval = "1h"\n}').reschedule
    assert policy is not None
    assert (policy.attempts, policy.is_unlimited) == (3, False)


def test_disks_volumes_and_disconnect() -> None:
    group = group_of(
        'ephemeral_disk {\nsize = 500\nsticky = true\n}\nvolume "data" {\ntype = "host"\nsource = "d"\nread_only = true\n}\n'
        'disconnect {\nreplace = false\nstop_on_client_after = "1m"\n}\nshutdown_delay = "2s"'
    )
    assert group.ephemeral_disk == EphemeralDisk(size=500, is_sticky=True)
    assert group.volumes == (VolumeRequest(name="data", source="d", is_read_only=True),)
    assert group.disconnect == DisconnectStrategy(replace=False, stop_on_client_after_ns=MINUTE_NS)
    assert group.shutdown_delay_ns == 2 * SECOND_NS


def test_each_allocation_may_have_its_own_volume() -> None:
    (volume,) = group_of('volume "data" {\ntype = "host"\nsource = "d"\nper_alloc = true\n}').volumes
    assert volume == VolumeRequest(name="data", source="d", is_per_alloc=True)
    assert [volume.source_at(index) for index in (0, 12)] == ["d[0]", "d[12]"]


def test_attributes_of_a_task() -> None:
    task = task_of(
        DOCKER
        + 'env = { A = 1, "b.c" = true }\nuser = "u"\nleader = true\nkill_timeout = 1000\nkill_signal = "SIGINT"\n'
        "logs {\nmax_files = 5\nmax_file_size = 20\n}\nresources {\ncpu = 200\nmemory = 64\nmemory_max = 128\n}\n"
        'volume_mount {\nvolume = "data"\ndestination = "/d"\n}\nmeta = { m = "x" }',
        'volume "data" {\ntype = "host"\nsource = "d"\n}',
    )
    assert task == Task(
        name="t",
        driver="docker",
        config={"image": "x"},
        env={"A": "1", "b.c": "true"},
        user="u",
        is_leader=True,
        kill_timeout_ns=1000,
        kill_signal="SIGINT",
        logs=LogRotation(max_files=5, max_file_mib=20),
        resources=TaskResources(cpu=200, memory=64, memory_max=128),
        volume_mounts=(VolumeMount(volume="data", destination="/d"),),
        meta={"m": "x"},
    )


def test_blocks_of_a_driver_configuration_become_lists_of_maps() -> None:
    task = task_of(
        'driver = "docker"\nconfig {\nimage = "x"\nmount {\ntype = "bind"\nsource = "${NOMAD_TASK_DIR}/a"\n}\nmount {\ntype = "tmpfs"\n}\nlogging {\ntype = "json-file"\nconfig {\nmax-size = "1m"\n}\n}\n}'
    )
    assert task.config == {
        "image": "x",
        "mount": [{"type": "bind", "source": "${NOMAD_TASK_DIR}/a"}, {"type": "tmpfs"}],
        "logging": [{"type": "json-file", "config": [{"max-size": "1m"}]}],
    }


def test_numbers_among_the_arguments_of_a_command_are_texts() -> None:
    task = task_of('driver = "raw_exec"\nconfig {\ncommand = "x"\nargs = ["-p", 80, true]\n}')
    assert task.config == {"command": "x", "args": ["-p", "80", "true"]}


CHECK = Check(name="a-g check 1", kind=CheckKind.TCP, interval_ns=5 * SECOND_NS, timeout_ns=SECOND_NS)


def test_a_service_is_stored_and_warned_about() -> None:
    parsed = parse(
        'job "a" {\n  group "g" {\n    network {\n      port "http" {}\n    }\n    service {\n      port = "http"\n      tags = ["x"]\n      check {\n        type = "tcp"\n        interval = "5s"\n        timeout = "1s"\n      }\n    }\n'
        f'    task "t" {{\n{DOCKER}    }}\n  }}\n}}\n'
    )
    assert parsed.job.groups[0].services == (
        Service(name="a-g", port_label="http", tags=("x",), health_checks=(CHECK,)),
    )
    assert [str(warning) for warning in parsed.warnings] == [
        "test.hcl:6:5: service is stored, but not announced: there is no service discovery yet"
    ]


def test_dynamic_blocks_are_expanded() -> None:
    group = group_of(
        'network {\ndynamic "port" {\nfor_each = {a = 80, b = 81}\niterator = p\nlabels = [p.key]\ncontent {\nto = p.value\n}\n}\n}'
    )
    assert group.networks[0].ports == (Port(label="a", to=80), Port(label="b", to=81))


def test_a_task_without_resources_knows_that_they_are_the_default() -> None:
    assert task_of(DOCKER).resources == TaskResources(is_default=True)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.hcl")), ids=lambda path: path.stem)
def test_examples_are_valid_and_without_warnings(path: Path) -> None:
    assert parse_job(path.read_text(), filename=path.name).warnings == ()


def test_differences_name_the_defaults_that_a_job_runs_on() -> None:
    text = (EXAMPLES / "hello.hcl").read_text()
    assert [line.split(":")[0] for line in parse_job(text).differences] == [
        "restart",
        "reschedule",
        "update",
        "logs",
    ]


# Variables and locals


VARIABLES = (
    'variable "n" {\n  type = number\n  default = 1\n}\nvariable "names" {\n  type = list(string)\n  default = ["x"]\n}\n'
    'locals {\n  twice = var.n * 2\n}\njob "a" {\n  meta = { n = local.twice, names = join("+", var.names) }\n'
    f'  task "t" {{\n{DOCKER}  }}\n}}\n'
)


def test_variables_by_default_environment_file_and_hand_the_later_wins() -> None:
    def n(files: list[tuple[str, str]], environment: dict[str, str], by_hand: dict[str, str]) -> str:
        parsed = parse_job(VARIABLES, variables=by_hand, variable_files=files, environment=environment)
        return parsed.job.meta["n"]

    environment = {"NOMAD_VAR_n": "2"}
    assert n([], {}, {}) == "2"
    assert n([], environment, {}) == "4"
    assert n([("a.vars", "n = 3"), ("b.vars", "n = 4")], environment, {}) == "8"
    assert n([("a.vars", "n = 3")], environment, {"n": "5"}) == "10"


def test_a_variable_that_is_no_string_is_parsed_and_converted() -> None:
    assert parse(VARIABLES, names='["p", 7]').job.meta["names"] == "p+7"


def test_a_value_of_the_wrong_type_names_where_it_came_from() -> None:
    with pytest.raises(InvalidJobFile) as caught:
        parse(VARIABLES, n='"x"')
    assert caught.value.problems == ['-var n:1:1: variable n: "x" is not a number']


def test_an_unknown_variable_by_hand_is_refused_and_in_a_file_warned_about() -> None:
    with pytest.raises(InvalidJobFile, match="the job has no variable nmaes; did you mean names"):
        parse(VARIABLES, nmaes="[]")
    parsed = parse_job(VARIABLES, variable_files=[("a.vars", "other = 1")])
    assert [str(warning) for warning in parsed.warnings] == ["a.vars:1:1: the job has no variable other"]
