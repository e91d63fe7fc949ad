"""Nothing that jobs execute can be written by others: whatever the umask, and where it can, it is refused."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from small_study import SOR, environment, write_study

from jobs.core.trust import make_private, without_write, writers
from jobs.store.rundir import StudyDir
from launch.submit import trust
from launch.submit.limits import Refusal


def submit(study: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    """Run the first stage, as somebody whose files are everybody's."""
    return subprocess.run(
        [SOR, "submit", study, "--yes", "--only", "prepare", "--runs", runs], env=environment(),
        umask=0, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_a_study_is_private_whatever_the_umask_and_refused_once_it_is_not(tmp_path: Path) -> None:
    study, runs = write_study(tmp_path / "study"), tmp_path / "runs"
    first = submit(study, runs)
    assert first.returncode == 0, first.stdout + first.stderr
    made = [runs, *runs.rglob("*")]
    assert [
        path for path in made if stat.S_IMODE(path.lstat().st_mode) & 0o022 and not path.is_symlink()
    ] == []
    assert [path for path in made if path.suffix in (".pkl", ".pickle")] == []
    assert any(path.name == "elements.jsonl" for path in made)

    submissions = sorted((runs / "small" / "submissions").iterdir())
    (runs / "small" / "submissions").chmod(0o777)
    refused = submit(study, runs)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "everybody can write to it, and your jobs execute its contents" in refused.stderr
    assert sorted((runs / "small" / "submissions").iterdir()) == submissions

    advice = re.search(r"chmod -R go-w \S+", refused.stderr)
    assert advice
    subprocess.run(advice[0].split(), check=True)
    again = submit(study, runs)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do" in again.stdout


def test_who_may_not_read_a_study_may_not_enter_its_run_directory(tmp_path: Path) -> None:
    study, runs = write_study(tmp_path / "study"), tmp_path / "runs"
    study.chmod(0o600)
    assert submit(study, runs).returncode == 0
    assert stat.S_IMODE((runs / "small").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("modes", "expected"), [((0o644,), 0o755), ((0o640, 0o644), 0o750), ((0o640, 0o604), 0o700), ((), 0o755)]
)
def test_a_run_directory_is_as_open_as_what_is_copied_into_it(
    modes: tuple[int, ...], expected: int, tmp_path: Path
) -> None:
    files = [tmp_path / str(number) for number in range(len(modes))]
    for file, mode in zip(files, modes, strict=True):
        file.touch()
        file.chmod(mode)
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        trust.prepare(StudyDir(tmp_path / "runs"), files)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == expected


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    found = StudyDir(tmp_path / "runs" / "a study")
    for folder in ("code/0123456789ab", "submissions", "train"):
        make_private(found.path / folder)
    for file in (found.ledger, found.study, found.submitted):
        file.touch(0o644)
    return found


@pytest.mark.parametrize(
    "name", ["", "code", "code/0123456789ab", "submissions", "train", "ledger.jsonl", "submitted.json"]
)
def test_what_others_can_write_into_is_named(root: StudyDir, name: str) -> None:
    trust.check(root)
    path = root.path / name
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(Refusal, match=rf"^{re.escape(str(path))}: everybody .* chmod -R go-w '.*a study'"):
        trust.check(root)


def test_a_directory_of_another_user_is_refused(root: StudyDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member of a group that can write into `runs` has put a directory of his own in its place."""
    if os.getuid() == 0:
        os.chown(root.ledger, 54321, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(Refusal, match=r"belongs to another user, .*: give --runs a directory of your own"):
        trust.check(root)


def test_a_project_directory_shared_by_a_group_is_refused_until_its_run_directory_is_read_only(
    root: StudyDir,
) -> None:
    groups = [gid for gid in os.getgroups() if gid != os.getgid()]
    gid = 54322 if os.getuid() == 0 else groups[0] if groups else None
    if gid is None:
        return  # nobody to share with
    for path in (root.path, *root.path.rglob("*")):
        os.chown(path, -1, gid)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    with pytest.raises(Refusal, match=r"members of the group .* can write to it") as refused:
        trust.check(root)
    unshare, share = re.findall(r"chmod -R \S+ '[^']+'", str(refused.value))
    subprocess.run(f"{unshare} && {share}", shell=True, check=True)
    trust.check(root)
    assert root.path.stat().st_mode & 0o7777 == 0o2755


def test_what_jobs_do_not_execute_may_be_shared(root: StudyDir) -> None:
    (root.path / "our notes").mkdir()
    (root.path / "our notes").chmod(0o2777)
    trust.check(root)
    assert not StudyDir(root.path / "none").path.exists()
    trust.check(StudyDir(root.path / "none"))


def status(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


def test_who_can_write() -> None:
    me, root_user, somebody, everyones = os.getuid(), 0, 54321, 54322
    assert writers(status(0o40755, me, everyones)) is None
    assert writers(status(0o40755, root_user, everyones)) is None
    assert writers(status(0o42775, me, everyones)) == "members of the group 54322"
    assert writers(status(0o40757, me, everyones)) == "everybody"
    assert writers(status(0o40755, somebody, everyones)) == "its owner 54321"


def test_a_group_of_ones_own_is_nobody_else(tmp_path: Path) -> None:
    """Where each user has such a group, umask 002 is usual and harmless."""
    user = pwd.getpwuid(os.getuid())
    group = grp.getgrgid(user.pw_gid)
    private = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    assert (writers(status(0o40775, user.pw_uid, user.pw_gid)) is None) == private


def test_a_run_directory_that_everybody_can_replace_is_refused(root: StudyDir) -> None:
    parent = root.path.parent
    parent.chmod(0o777)
    with pytest.raises(Refusal, match=rf"{parent}: everybody can replace a study in it.*chmod o-w {parent}"):
        trust.check(root)
    assert trust.replaceable(root) is not None
    parent.chmod(0o1777)  # as /tmp
    trust.check(root)
    assert trust.replaceable(root) is None


@pytest.mark.optional
def test_default_lists_of_a_parent_hand_no_right_to_write_down(tmp_path: Path) -> None:
    """A project directory that gives its group all rights to whatever is made in it, by setfacl -d."""
    entry = struct.Struct("<HHI")
    everybody, owner, group, mask, other = 0xFFFFFFFF, 0x01, 0x04, 0x10, 0x20
    entries = (
        (owner, 7, everybody),
        (group, 7, everybody),
        (0x08, 7, 54322),
        (mask, 7, everybody),
        (other, 5, everybody),
    )
    acl = struct.pack("<I", 2) + b"".join(entry.pack(*each) for each in entries)
    kept = [(tag, rights) for tag, rights, _ in entry.iter_unpack(without_write(acl)[4:])]
    assert kept == [(owner, 7), (group, 5), (0x08, 5), (mask, 5), (other, 5)]
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no access control lists on this file system: {error}")
    make_private(tmp_path / "runs" / "study")
    (tmp_path / "runs" / "study" / "code").mkdir()
    for path in ("runs/study", "runs/study/code"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o755
