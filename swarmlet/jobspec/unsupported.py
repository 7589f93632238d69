"""What Nomad's job language has and this version does not: by name, with the reason that the user is told."""

from __future__ import annotations

_VAULT = "there is no Vault integration"
_CONSUL = "there is no Consul integration"

JOB_REFUSED = {
    "multiregion": "there are no regions",
    "periodic": "periodic jobs do not exist yet; submit the job from a timer",
    "parameterized": "parameterized jobs do not exist yet; pass values with -var",
    "restart": "it belongs into a group or task",
    "vault": _VAULT,
    "consul": _CONSUL,
    "resources": "it belongs into a task",
    "network": "it belongs into a group",
    "service": "it belongs into a group or task",
}
JOB_IGNORED = {
    "ui": "there is no web interface that would show it",
}
GROUP_REFUSED = {
    "scaling": "scaling policies do not exist yet; set count",
    "consul": _CONSUL,
    "vault": _VAULT,
    "max_run_duration": "a bound on running time does not exist yet",
    "resources": "it belongs into a task",
    "max_client_disconnect": "use disconnect { lost_after }",
    "prevent_reschedule_on_lost": "use disconnect { replace = false }",
}
TASK_REFUSED = {
    "lifecycle": "all tasks of a group start together; hooks do not exist yet",
    "vault": _VAULT,
    "consul": _CONSUL,
    "scaling": "scaling policies do not exist yet",
    "secret": "use template { env = true } with nomadVar",
    "identity": "workload identities do not exist yet",
    "action": "actions do not exist yet",
    "schedule": "schedules of tasks do not exist yet",
    "csi_plugin": "CSI does not exist yet; use a host volume",
    "dispatch_payload": "parameterized jobs do not exist yet",
    "kind": "Connect does not exist",
    "network": "it belongs into the group",
}
RESOURCES_REFUSED = {
    "numa": "NUMA placement does not exist yet",
    "network": 'it moved to the group: network { port "http" { to = 80 } }',
}
RESOURCES_IGNORED = {
    "disk": "the group's ephemeral_disk { size } counts",
    "iops": "it never had a meaning",
    "secrets": "there is no size to set",
}
NETWORK_IGNORED = {"mbits": "bandwidth is not packed, as in Nomad since 0.12"}
NETWORK_REFUSED = {"cni": "CNI plugins are not supported"}
SERVICE_REFUSED = {
    "connect": "there is no service mesh",
    "sidecar_service": "there is no service mesh",
    "gateway": "there is no service mesh",
    "identity": "workload identities do not exist yet",
}
CONFIG_IGNORED = {
    "container_exists_attempts": "a container that is there already is taken over",
    "advertise_ipv6_address": "services are announced under their node's address",
}
DRIVERS = ("docker", "exec", "raw_exec")
DRIVERS_KNOWN_ELSEWHERE = ("exec2", "java", "qemu", "podman", "containerd-driver", "mock_driver")
