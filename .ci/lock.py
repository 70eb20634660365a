"""`make lock`: requirements.lock and constraints.txt, of all that pyproject.toml asks for.

Versions that are locked stay; with UPGRADE=--upgrade every one is the newest. pip must know PyTorch's CPU index.
"""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, VERSIONS = ROOT / "requirements.lock", ROOT / "constraints.txt"
PYTHON, PLATFORM = "3.11.7", "x86_64-manylinux_2_28"
OF_CUDA = re.compile(r"nvidia-|cuda-|triton=")  # what PyTorch's CPU build does without
LOCK_SAYS = """\
# Every version exact, with the hashes of its files; PyTorch is its CPU build. Python 3.11, Linux on x86-64.
# Made by `make lock`. pip install --require-hashes --requirement requirements.lock
"""
VERSIONS_SAY = """\
# The versions of requirements.lock, made with it by `make lock`: for conda, PyTorch's CUDA build, and the image.
"""


def resolved(upgrade: list[str]) -> list[str]:
    """`NAME==VERSION \\` and its hashes, a text for each distribution; PyTorch as the index has it, with CUDA."""
    place = ROOT / ".tmp/lock/all.txt"
    place.write_text(VERSIONS.read_text())  # uv keeps the versions that it finds here
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [word for extra in extras if extra != "peers" for word in ("--extra", extra)]  # whose Ray is its own
    bare = ["--no-annotate", "--no-header", "--no-strip-extras"]  # pip 23 must see every extra that is asked for
    subprocess.run([Path(sys.executable).with_name("uv"), "pip", "compile", "pyproject.toml", *wanted, *bare,
                    "--generate-hashes", "--python-version", PYTHON, "--python-platform", PLATFORM,
                    "--quiet", "--output-file", place, *upgrade], cwd=ROOT, check=True)
    return re.split(r"\n(?=\S)", place.read_text().strip())


def of_the_cpu(torch: str) -> str:
    """PyTorch's entry with the hash of its CPU wheel alone: pip, given others too, may take the CUDA build."""
    _, version = torch.partition(" ")[0].split("==")
    place = ROOT / ".tmp/lock/wheels"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                    "--python-version", PYTHON, "--dest", place, f"torch=={version}+cpu"], check=True)
    (wheel,) = place.glob(f"torch-{version}+cpu-*_x86_64.whl")
    return f"torch=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def main() -> None:
    """See the module."""
    entries = [of_the_cpu(entry) if entry.startswith("torch==") else entry
               for entry in resolved(sys.argv[1:]) if not OF_CUDA.match(entry)]
    pins = [re.sub(r"\[.*\]", "", entry.partition(" \\")[0]) for entry in entries]
    LOCK.write_text(LOCK_SAYS + "\n".join(entries) + "\n")
    VERSIONS.write_text(VERSIONS_SAY + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main()
