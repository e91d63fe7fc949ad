"""Another Slurm than the machine's, to test with: `python -m cluster.versions sid COMMAND ...`.

Runs a command with the Slurm of a release of Debian first on PATH. Its packages and all that they need, libc
too, are unpacked into a folder of the cache, which needs no root, and its programs are told to load all from
there. They are then ordinary programs of this machine, and so are the jobs that they start: no chroot, no
container, nothing to clean up. Only munge and MariaDB are the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import packages

CACHE = Path.home() / ".cache" / "scale-or-reason"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Unavailable(RuntimeError):
    """This Slurm cannot be had here; the message says why."""


def provide(release: str) -> Path:
    """The folder with the programs of a release's Slurm, downloaded if it is not in the cache.

    Raises:
        Unavailable: the download failed, or this is no Debian.
    """
    home = CACHE / f"slurm-{release}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            work = Path(temporary)
            _download(release, work)
            _arrange(work, home)
            (work / "home").rename(home)  # complete, or not there
    return home / "bin"


def _download(release: str, work: Path) -> None:
    """Unpack the packages: those of Slurm into `slurm`, what they need into `needed`."""
    for folder in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "etc/apt/sources.list").write_text(
        f"deb [signed-by={KEYS}] {_mirror()} {release} main\n", encoding="utf-8"
    )
    # With a directory of its own and nothing installed, apt downloads all that is needed and touches no more.
    (work / "status").touch()
    apt = ["apt-get", "-qq", "-o", f"Dir={work}", "-o", f"Dir::State::status={work}/status"]
    lenient, strict = "Acquire::Check-Valid-Until=false", "APT::Update::Error-Mode=any"  # a mirror may lag
    _run(*apt, "-o", lenient, "-o", strict, "update")
    slurm = [name for name in packages.PACKAGES if name.startswith("slurm")]
    _run(*apt, "--yes", "--download-only", "--no-install-recommends", "install", "patchelf", *slurm)
    for package in (work / "var/cache/apt/archives").glob("*.deb"):
        _run("dpkg-deb", "-x", package, work / ("slurm" if package.name.startswith("slurm") else "needed"))


def _arrange(work: Path, home: Path) -> None:
    """Collect programs, plugins and libraries in `work/home`, which is `home` to them already."""
    bin, lib, plugins = (work / "home" / name for name in ("bin", "lib", "plugins"))
    shutil.move(next(work.glob("needed/usr/lib/*-linux-*")), lib)
    shutil.move(next(work.glob("slurm/usr/lib/*-linux-*/slurm-wlm")), plugins)
    bin.mkdir()
    for program in work.glob("slurm/usr/*bin/*"):
        program.rename(bin / program.name.removesuffix("-wlm"))
    loader = next(lib.glob("ld-linux*"))
    patch = (loader, "--library-path", lib, work / "needed/usr/bin/patchelf")
    libraries = ("--force-rpath", "--set-rpath", f"{home}/plugins:{home}/lib")
    _run(*patch, *libraries, "--set-interpreter", f"{home}/lib/{loader.name}", *bin.iterdir())
    _run(*patch, *libraries, *plugins.glob("*.so"))


def _mirror() -> str:
    """Where this machine gets its own packages."""
    found = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    for address in found:
        if address.rstrip("/").endswith("/debian"):
            return address
    raise Unavailable("the newer versions of Slurm are made from Debian's packages, and this is no Debian")


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise Unavailable(f"'{Path(command[0]).name}' failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    release, *command = sys.argv[1:]
    try:
        programs = provide(release)
    except (Unavailable, FileNotFoundError) as error:
        sys.exit(f"no Slurm of Debian {release}: {error}")
    print(f"with {_run(programs / 'slurmd', '-V').strip()}", file=sys.stderr, flush=True)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.execvp(command[0], command)  # so that signals reach it


if __name__ == "__main__":
    main()
