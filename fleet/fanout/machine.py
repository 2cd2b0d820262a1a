"""What this machine gives: cores that this process may use, and GPUs."""

from __future__ import annotations

import os

from fleet.fanout.current import current


def usable_cpus() -> int:
    """Return the cores of the process's affinity and its cgroup's quota; inside a member: the member's cpus."""
    member = current()
    if member is not None:
        return max(1, int(member.cpus))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


def _quota(cores: int) -> int:
    """Return how many cores the cgroup's quota comes to (cgroup v2, as containers set it)."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, int(quota) // int(period))


def gpus() -> list[str]:
    """Return the names of the GPUs that members may be given, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    try:
        return [str(index) for index in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
