"""How the one file starts: with a content of two modules, which is made, copied and unpacked in a moment."""

from __future__ import annotations

import fcntl
import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import build
from scripts.one_file import unpack
from tests.one_file.conftest import PROGRAM, Make

ME = os.geteuid()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(
    file: Path, *arguments: str, cache: Path, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "SWARMLET_CACHE_DIR": str(cache), "SWARMLET_PYTHON": sys.executable}
    return subprocess.run(
        [*prefix, str(file), *arguments],
        env={key: value for key, value in {**base, **environment}.items() if value},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def contents(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


def test_the_file_unpacks_once_and_then_runs_from_there(make: Make, cache: Path) -> None:
    file = make()
    first = run(file, "status", "--json", cache=cache)
    [digest] = contents(cache)
    unpacked = cache / digest
    told = f"{unpacked}/swarmlet/__main__.py {file} status --json\n"
    assert (first.returncode, first.stdout, first.stderr) == (0, told, "")
    made = unpacked.stat().st_ino

    again = run(file, "status", "--json", cache=cache)

    assert (again.stdout, unpacked.stat().st_ino) == (told, made)


def test_it_runs_by_a_link_and_by_python_and_keeps_the_name_it_was_called_by(
    make: Make, cache: Path, tmp_path: Path
) -> None:
    """The unit of systemd names it: a link to the newest version has to stay one."""
    link = tmp_path / "swl"
    link.symlink_to(make())
    assert run(link, cache=cache).stdout.split()[1] == str(link)
    assert run(link, "x", cache=cache, prefix=(sys.executable,)).stdout.split()[1:] == [str(link), "x"]


def test_neither_python_variables_nor_other_packages_reach_it(
    make: Make, cache: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted" / "swarmlet"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text("raise SystemExit('planted')")
    for prefix in ((), (sys.executable,)):
        done = run(make(), cache=cache, prefix=prefix, PYTHONPATH=str(planted.parent))
        assert (done.returncode, done.stderr) == (0, "")


def test_another_python_is_told_in_a_sentence(
    make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [".cpython-399-vax-linux-gnu.so"])
    file = make()
    done = run(file, "status", cache=cache)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"swarmlet: this file was built for {build.built_for()}; {sys.executable} is Python "
    )
    assert done.stderr.count("\n") == 1
    assert not cache.exists()


def test_a_machine_without_python_is_told_in_a_sentence(
    make: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "python_name", lambda: "python3.99")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "wc").symlink_to(shutil.which("wc") or "")
    done = run(make(), cache=cache, PATH=str(programs), SWARMLET_PYTHON="")
    assert (done.returncode, done.stderr) == (
        1,
        "swarmlet: no python3.99 here, which this file needs: install it, or name it in SWARMLET_PYTHON\n",
    )


def test_a_machine_with_an_older_c_library_is_told_in_a_sentence(make: Make, cache: Path) -> None:
    done = run(make(glibc="99.1"), cache=cache)
    assert done.returncode == 1
    assert done.stderr.startswith("swarmlet: this file needs glibc 99.1 or newer, and this machine has ")


def test_half_a_copy_is_told_in_a_sentence(make: Make, cache: Path) -> None:
    file = make()
    size = file.stat().st_size
    os.truncate(file, size - 100)
    done = run(file, cache=cache)
    assert (done.returncode, done.stderr) == (
        1,
        f"swarmlet: {file} is damaged (it is not {size} bytes long): copy it again\n",
    )


def test_a_changed_byte_is_told_in_a_sentence_and_leaves_nothing(make: Make, cache: Path) -> None:
    file = make()
    data = bytearray(file.read_bytes())
    data[data.index(b"\xfd7zXZ") + 40] ^= 1
    file.write_bytes(data)
    done = run(file, cache=cache)
    assert done.returncode == 1
    assert done.stderr.startswith(f"swarmlet: {file} is damaged (")
    assert done.stderr.count("\n") == 1
    assert contents(cache) == []


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(make(), cache=tmp_path / "file" / "cache")
    assert (done.returncode, done.stderr) == (
        1,
        f"swarmlet: {tmp_path}/file/cache/{digest_of(make())} cannot be used: Not a directory\n",
    )


def digest_of(file: Path) -> str:
    text = file.read_bytes()
    at = text.index(b"'digest': '") + len(b"'digest': '")
    return text[at : at + unpack.DIGEST_LENGTH].decode()


@pytest.mark.parametrize("which", ["", "DIGEST"], ids=["all contents", "this content"])
def test_code_that_others_may_have_written_is_not_run(make: Make, cache: Path, which: str) -> None:
    file = make()
    run(file, cache=cache)
    place = cache / which.replace("DIGEST", digest_of(file))
    place.chmod(0o775)
    done = run(file, cache=cache)
    assert (done.returncode, done.stderr) == (
        1,
        f"swarmlet: {place} may be written by others (mode 775): code in there is not run; remove it\n",
    )


@pytest.mark.skipif(ME != 0, reason="only root can give a directory away")
def test_code_in_somebody_elses_directory_is_not_run(make: Make, cache: Path) -> None:
    file = make()
    run(file, cache=cache)
    os.chown(cache / digest_of(file), 65534, 65534)
    done = run(file, cache=cache)
    assert done.returncode == 1
    assert "belongs to user 65534, not to root or user 0: code in there is not run; remove it" in done.stderr


def test_a_place_that_others_may_rename_is_not_used(make: Make, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    done = run(make(), cache=open_to_all / "cache")
    assert done.returncode == 1
    assert f"others may rename what is in {open_to_all}" in done.stderr
    # As /tmp is: everybody may write, nobody may rename what is another's.
    open_to_all.chmod(0o1777)
    assert run(make(), cache=open_to_all / "cache").returncode == 0


def test_a_link_in_the_place_of_the_content_is_not_followed(make: Make, cache: Path, tmp_path: Path) -> None:
    file = make()
    run(file, cache=cache)
    shutil.move(cache / digest_of(file), tmp_path / "elsewhere")
    (cache / digest_of(file)).symlink_to(tmp_path / "elsewhere")
    done = run(file, cache=cache)
    assert (done.returncode, "cannot be used" in done.stderr) == (1, True)


def test_an_interrupted_unpacking_is_done_anew(make: Make, cache: Path) -> None:
    file = make()
    half = cache / f"{unpack.NEW}{digest_of(file)}" / "swarmlet"
    half.mkdir(parents=True)
    (half / "__main__.py").write_text("half of")
    assert run(file, cache=cache).returncode == 0
    assert contents(cache) == [digest_of(file)]


def test_the_umask_of_the_first_user_does_not_matter(make: Make, cache: Path) -> None:
    """The terminal of a task's user is a script in there."""
    file = make()
    run(file, cache=cache, prefix=("sh", "-c", 'umask 077; exec "$0" "$@"'))
    content = cache / digest_of(file)
    # Byte code is in a real content, and is written by Python where it is missing.
    made = [path for path in content.rglob("*") if "__pycache__" not in path.parts]
    modes = {path.stat().st_mode & 0o777 for path in (content, *made)}
    assert modes == {0o755, 0o644}


def test_the_last_content_stays_and_older_ones_go_unless_they_run(make: Make, cache: Path) -> None:
    versions = [make(f"v{number}", program=f"{PROGRAM}# {number}") for number in range(5)]
    digests = [digest_of(file) for file in versions]
    assert run(versions[0], cache=cache).returncode == 0
    held = os.open(cache / digests[0], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    for file in versions[1:4]:
        assert run(file, cache=cache).returncode == 0
    assert contents(cache) == sorted([digests[0], digests[2], digests[3]])
    os.close(held)
    assert run(versions[4], cache=cache).returncode == 0
    assert contents(cache) == sorted(digests[3:])


def test_a_running_program_holds_its_content(make: Make, cache: Path) -> None:
    waiting = "import sys\ndef main():\n    print('runs', flush=True)\n    sys.stdin.read()\n    return 0\n"
    first = make("first", program=waiting)
    with subprocess.Popen(
        [first],
        env={"SWARMLET_CACHE_DIR": str(cache), "SWARMLET_PYTHON": sys.executable, "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        for number in range(3):
            run(make(f"v{number}", program=f"{PROGRAM}# {number}"), cache=cache)
        assert digest_of(first) in contents(cache)


def test_two_that_start_at_once_unpack_one_content(make: Make, cache: Path) -> None:
    file = make()
    environment = {
        "SWARMLET_CACHE_DIR": str(cache),
        "SWARMLET_PYTHON": sys.executable,
        "PATH": os.environ["PATH"],
    }
    both = [subprocess.Popen([file], env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert contents(cache) == [digest_of(file)]


def test_root_has_one_place_and_other_users_look_there_first() -> None:
    assert unpack.places(0, {"XDG_CACHE_HOME": "/home/you/.cache"}) == ["/var/cache/swarmlet"]
    assert unpack.places(7, {"XDG_CACHE_HOME": "/c"}) == ["/var/cache/swarmlet", "/c/swarmlet"]
    assert unpack.places(7, {"SWARMLET_CACHE_DIR": "/mine"}) == ["/mine"]
    [_, own] = unpack.places(7, {"XDG_CACHE_HOME": "relative"})
    assert own == str(Path("~/.cache/swarmlet").expanduser())


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(unpack, "SHARED", str(tmp_path / "shared"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    return tmp_path / "shared"


def test_what_root_has_unpacked_is_used_by_others_unless_it_cannot_be_trusted(
    make: Make, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make()
    facts = {"digest": digest_of(file), "glibc": "2.17"}
    environment = {"XDG_CACHE_HOME": str(tmp_path / "own")}
    if ME == 0:
        # Any number: what root has made belongs to root.
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    unpack.unpack(str(file), str(shared), facts, ME)
    assert unpack.find(str(file), facts, environment) == str(shared / facts["digest"])
    shared.chmod(0o777)
    assert unpack.find(str(file), facts, environment) == str(tmp_path / "own" / "swarmlet" / facts["digest"])
