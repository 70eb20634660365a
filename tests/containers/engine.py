"""A Docker engine for the tests: one that is there already, or else one of our own, of which nothing stays."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from faas.local.image import BASE

OWN_BASE = "local/debian-python:bookworm"
PACKAGES = ("docker.io", "debootstrap", "iptables", "iproute2")
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class NoDocker(Exception):
    """Why there is no engine here."""


class Engine:
    """environment: for `docker`, by which it finds the engine; base: an image with Python and its venv.

    Installs Debian packages where Docker is not there, which is why KDLIB_CONTAINERS=1 must say that this is wanted.
    Raises NoDocker.
    """

    def __init__(self, folder: Path):
        self.folder, self.daemon, self.environment, self.base = folder, None, {}, BASE
        if os.environ.get("KDLIB_CONTAINERS") != "1":
            raise NoDocker("it may install and start Docker; `make test-containers` says so, and does")
        if self._works():
            return
        if os.getuid():
            raise NoDocker("no Docker engine answers, and to start one takes root")
        self._install()
        self._start()
        try:
            self._make_base()
        except BaseException:
            self.stop()
            raise

    def docker(self, *arguments, check=True, **options) -> subprocess.CompletedProcess:
        """Run `docker`."""
        done = subprocess.run(["docker", *map(str, arguments)], env=os.environ | self.environment, capture_output=True,
                              text=True, **options)
        if check and done.returncode:
            raise RuntimeError(f"docker {arguments[0]}: {done.stderr or done.stdout}")
        return done

    def stop(self) -> None:
        """End an engine of our own; its images, its network and its firewall rules go with it."""
        if not self.daemon:
            return
        self.daemon.terminate()
        self.daemon.wait(60)
        for table, rules in self.rules.items():
            subprocess.run(["iptables-restore", "-T", table], input=rules, text=True, check=True)
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        FORWARD.write_text(self.forward)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(str(self.folder)):
                subprocess.run(["umount", line.split()[1]], capture_output=True)
        shutil.rmtree(self.folder)

    def _works(self):
        return shutil.which("docker") and self.docker("info", check=False, timeout=60).returncode == 0

    def _install(self):
        if all(shutil.which(program) for program in ("dockerd", "debootstrap", "iptables", "ip")):
            return
        for arguments in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
            try:
                done = subprocess.run(["apt-get", "-q", *arguments], capture_output=True, text=True,
                                      env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
            except FileNotFoundError as error:
                raise NoDocker("no Docker engine answers, and there is no apt-get to install one") from error
            if done.returncode:
                raise NoDocker(f"apt-get {arguments[0]} failed: {(done.stderr or done.stdout).splitlines()[-1]}")

    def _start(self):
        self.rules = {table: subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True).stdout
                      for table in ("filter", "nat")}
        self.forward = FORWARD.read_text()
        # Debian's client knows BuildKit; another one may come first in PATH.
        socket = f"/run/kdlib-docker-{os.getpid()}.sock"  # a socket's path may not be as long as the folder's
        self.environment = {"DOCKER_HOST": f"unix://{socket}", "PATH": f"/usr/bin:{os.environ['PATH']}"}
        with (self.folder / "dockerd.log").open("w") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--pidfile",
                 self.folder / "pid", "--host", self.environment["DOCKER_HOST"], "--storage-driver", "overlay2"],
                stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._works():
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NoDocker(f"dockerd does not start: {log.name} said why")
            time.sleep(0.2)

    def _make_base(self):
        """There may be no registry: a base image of Debian's own packages."""
        root = self.folder / "debian"
        made = subprocess.run(["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
                               "bookworm", root], capture_output=True, text=True)
        if made.returncode:
            raise NoDocker(f"debootstrap failed: {(made.stdout + made.stderr).splitlines()[-1]}")
        shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            self.docker("import", "-", OWN_BASE, stdin=tar.stdout)
        shutil.rmtree(root)
        self.base = OWN_BASE
