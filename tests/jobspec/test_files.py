"""`template` and `artifact` in job files, and in Nomad's JSON."""

from __future__ import annotations

import pytest

from swarmlet.jobspec import job_from_json, job_to_json, parse_job
from swarmlet.jobspec.problem import InvalidJobFile
from swarmlet.jobspec.validation import Checks
from swarmlet.model.job import Artifact, ChangeMode, ChangeScript, Template
from swarmlet.template.check import problems

TEXT = """
job "web" {
  group "g" {
    task "t" {
      driver = "docker"
      config { image = "a" }
      artifact {
        source = "git::https://example.org/repo"
        destination = "local/repo"
        mode = "dir"
        options { ref = "main" }
        headers { X = "y" }
      }
      template {
        data = <<EOT
A={{ env "B" }}
${NOMAD_TASK_DIR}
EOT
        destination = "secrets/a.env"
        env = true
        perms = "0400"
        splay = "1s"
        uid = 5
        change_mode = "noop"
        error_on_missing_key = true
      }
      template {
        source = "local/x.tpl"
        destination = "local/x"
        change_mode = "script"
        change_script {
          command = "/bin/reload"
          args = ["-f"]
          timeout = "9s"
          fail_on_error = true
        }
        left_delimiter = "[["
        right_delimiter = "]]"
      }
    }
  }
}
"""


def test_a_job_file_with_templates_and_artifacts() -> None:
    parsed = parse_job(TEXT)
    task = parsed.job.groups[0].tasks[0]
    assert task.artifacts == (
        Artifact(
            source="git::https://example.org/repo",
            destination="local/repo",
            mode="dir",
            options={"ref": "main"},
            headers={"X": "y"},
        ),
    )
    assert task.templates == (
        Template(
            destination="secrets/a.env",
            data='A={{ env "B" }}\n${NOMAD_TASK_DIR}\n',
            change_mode=ChangeMode.NOOP,
            splay_ns=10**9,
            perms="0400",
            uid=5,
            is_env=True,
            is_error_on_missing_key=True,
        ),
        Template(
            destination="local/x",
            source="local/x.tpl",
            change_mode=ChangeMode.SCRIPT,
            change_script=ChangeScript(
                command="/bin/reload", args=("-f",), timeout_ns=9 * 10**9, is_fail_on_error=True
            ),
            left_delimiter="[[",
            right_delimiter="]]",
        ),
    )
    assert job_from_json(job_to_json(parsed.job)).groups == parsed.job.groups


def test_a_secret_on_the_disk_is_warned_of() -> None:
    template = """job "w" {{ group "g" {{ task "t" {{
      driver = "docker"
      config {{ image = "a" }}
      template {{
        data = "{{{{ key `nomad/jobs/w/p` }}}}"
        destination = "{where}"
      }} }} }} }}"""
    for where, is_warned in (("local/x", True), ("secrets/x", False), ("$${NOMAD_SECRETS_DIR}/x", False)):
        text = (
            template.format(where=where)
            .replace('job "w" { group "g" { task "t" {', 'job "w" {\ngroup "g" {\ntask "t" {')
            .replace("} } } }", "}\n}\n}\n}")
        )
        found = [warning for warning in parse_job(text).warnings if "disk" in warning.message]
        assert bool(found) is is_warned, where


def test_a_mistake_in_a_template_is_told_at_its_place() -> None:
    checks = Checks(driver=lambda driver, config: [], constraint=lambda item: None, template=problems)
    with pytest.raises(InvalidJobFile) as raised:
        parse_job(TEXT.replace("{{ env", "{{ envv"), checks=checks)
    assert [str(problem) for problem in raised.value.details] == [
        "job file:15:16: template:1:6: function envv is unknown; did you mean env?"
    ]


def test_a_variable_of_another_job_is_told_at_its_place() -> None:
    checks = Checks(driver=lambda driver, config: [], constraint=lambda item: None, template=problems)
    for path, is_wrong in (("nomad/jobs/web/x", False), ("nomad/jobs/other", True), ("app/db", True)):
        text = TEXT.replace("{{ env `B` }}", "").replace(
            'A={{ env "B" }}', f"A={{{{ with nomadVar `{path}` }}}}{{{{ end }}}}"
        )
        if is_wrong:
            with pytest.raises(InvalidJobFile, match=f"template:1:20: variable {path} is not for this task"):
                parse_job(text, checks=checks)
        else:
            parse_job(text, checks=checks)
