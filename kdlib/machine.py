"""What of a machine may decide a run's last bits, or explains its times."""

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "lightning", "numpy", "scikit-learn", "kdlib")
# Variables by which libraries leave some of the CPU's instructions unused, which changes last bits.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


def machine() -> dict:
    """cpu (name), flags (its instruction sets), cores, memory (GiB), python, and the packages' versions.

    limits: of LIMITS those that are set, where any is.
    """
    limits = {name: value for name in LIMITS if (value := os.environ.get(name))}
    facts = dict(line.split(":", 1) for line in _lines("/proc/cpuinfo") if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in facts.items()}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "flags": sorted(flag for flag in cpu.get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))),
        "cores": os.cpu_count(),
        "memory": round(pages / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name).partition("+")[0] for name in PACKAGES},
        **({"limits": limits} if limits else {}),
    }


def difference(before: dict) -> str:
    """What of `before`, an earlier `machine()`, is other here and can change bytes; empty where nothing is."""
    now = machine()
    names = dict.fromkeys([*now, "limits"])
    return ", ".join(f"{name} {before.get(name)} there, {now.get(name)} here" for name in names
                     if name not in ("cores", "memory", "cpu", "kdlib") and before.get(name) != now.get(name))


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    return bool({"amx_bf16", "avx512_bf16"} & set(machine()["flags"]))


def bf16_pays() -> bool:
    """Whether bfloat16 is faster than float32 here: by AMX it is; AVX-512's bf16 alone is .6 to 1.0 times as fast."""
    return "amx_bf16" in machine()["flags"]


def hardware() -> str:
    """One line for a caption or an index."""
    here = machine()
    return f"{here['cpu']}, {here['cores']} cores, {here['memory']} GiB"


def cores() -> int:
    """Those that this process may use: by its affinity, and by its container's share of the time, rounded down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [line.split() for line in _lines("/sys/fs/cgroup/cpu.max")]
    shares += [[*quota, *period] for quota, period in zip(*(
        [line.split() for line in _lines(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us")] for name in ("quota", "period")),
        strict=True)]
    return max(1, min([allowed, *(int(quota) // int(period) for quota, period in shares if quota.isdigit())]))


def free_memory() -> int:
    """Bytes that are free on this machine, or in this container where it may have less."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    free += [int(most[0]) - int(used[0]) for most, used in (
        (_lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")),
        (_lines("/sys/fs/cgroup/memory/memory.limit_in_bytes"), _lines("/sys/fs/cgroup/memory/memory.usage_in_bytes")))
        if most and used and most[0].isdigit()]
    return min(free, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def peak_memory() -> int:
    """Bytes that this process has held at most.

    getrusage's figure, which Linux begins with what the parent had held, only where the kernel tells no better one.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own if platform.system() == "Darwin" else own * 1024


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
