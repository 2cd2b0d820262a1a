"""The launcher's first words: what is about to run; and all of it, with ``--dry_run``."""

from __future__ import annotations

from fleet import __version__
from fleet.launch.report import shorten
from fleet.launch.spec import Job


def start(job: Job) -> str:
    """Return the line that a run begins with."""
    counts = [count(len(job.trainers), "trainer")] + ([count(len(job.servers), "server")] if job.servers else [])
    tuned = ", ".join(job.tuning) or "off"
    if job.not_tuned:
        tuned += f" (not on this machine: {', '.join(job.not_tuned)})"
    return (
        f"fleet {__version__}  run {job.run_id}  {', '.join(counts)}  {job.device}  {thread_text(job)} each  "
        f"logs {shorten(job.log_dir)}\n  tuning: {tuned}\n"
    )


def count(number: int, noun: str) -> str:
    """Return ``1 server`` or ``2 servers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def thread_text(job: Job) -> str:
    """Return ``2 threads``; OMP_NUM_THREADS of the user's own may be a list."""
    return count(int(job.threads), "thread") if job.threads.isdigit() else f"OMP_NUM_THREADS={job.threads}"


def dry_run(job: Job) -> str:
    """Return the processes that would run, with the variables that fleet sets; the secret is not shown."""
    out = [f"{count(len(job.trainers), 'trainer')}, {count(len(job.servers), 'server')}, {job.device}, {thread_text(job)} each, "
           f"tuning: {', '.join(job.tuning) or 'off'}"]  # fmt: skip
    for spec in job.processes:
        out += ["", f"{spec.name}: {' '.join(spec.command)}"]
        shown = {**spec.variables, **({"FLEET_SECRET": "(not shown)"} if "FLEET_SECRET" in spec.variables else {})}
        out += [f"  {name}={shown[name]}" for name in sorted(shown)]
    return "\n".join(out) + "\n"
