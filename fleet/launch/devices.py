"""What this machine has for a run: GPUs and cores, found without Paddle.

The GPU part has not yet been run on a GPU.
"""

from __future__ import annotations

import os


def visible_gpus() -> list[str]:
    """Return the GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them; [] without any."""
    present = _gpus_present()
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None or not present:
        return present
    chosen: list[str] = []
    for name in said.split(","):
        if not name.strip() or name.strip().startswith("-"):
            break  # CUDA ignores what follows the first invalid entry
        chosen.append(name.strip())
    return chosen


def _gpus_present() -> list[str]:
    files = [name[len("nvidia") :] for name in os.listdir("/dev") if name.startswith("nvidia")]
    numbers = sorted((n for n in files if n.isdigit()), key=int)
    if numbers or not os.path.exists("/dev/dxg"):
        return numbers
    import subprocess  # WSL has no device file per GPU

    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def needs_mkl_told() -> bool:
    """Return whether this is an AMD processor with AVX2, which MKL does not use there by itself."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(8192).partition("\n\n")[0]  # the first core's lines
    except OSError:
        return False
    return "AuthenticAMD" in first and " avx2 " in first


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, cut by the CPU quota of its cgroups."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota else cores


def _cgroup_quota() -> float | None:
    """Return the smallest quota (in cores) on the way from this process's cgroup to the root; version 2, else 1."""
    quotas: list[float] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = "/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/cpu"
        parts = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(parts) + 1):
            folder = os.path.join(mount, *parts[:depth])
            if controllers:
                limit, period = _read(folder + "/cpu.cfs_quota_us"), _read(folder + "/cpu.cfs_period_us")
            else:
                limit, _, period = _read(folder + "/cpu.max").strip().partition(" ")
            if limit.strip().isdigit() and period.strip().isdigit() and int(period):
                quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
