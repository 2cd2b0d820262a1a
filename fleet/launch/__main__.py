"""``python -m fleet.launch``: parse, plan, run."""

from __future__ import annotations

import signal

# Until the run begins there is nothing to clean up: Ctrl-C ends the launcher at once and without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402

from fleet.errors import ConfigError, FleetError, RendezvousError  # noqa: E402
from fleet.launch import cli  # noqa: E402

EX_USAGE, EX_UNAVAILABLE = 64, 69


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    try:
        options = cli.parse(sys.argv[1:] if argv is None else argv)
        if options.help:
            print(cli.HELP, end="")
            return 0
        return launch(options)
    except FleetError as error:
        print(f"fleet.errors.{type(error).__name__}: {error}", file=sys.stderr)
        return EX_USAGE if isinstance(error, ConfigError) else EX_UNAVAILABLE if isinstance(error, RendezvousError) else 1


def launch(options: cli.Options, **test_only: tuple[str, ...]) -> int:
    """Run what the options ask for and return the exit status."""
    if not hasattr(os, "pidfd_open"):
        raise ConfigError("fleet.launch needs Linux 5.4 or newer", at=sys.platform, fix="run the script alone: python SCRIPT")
    from fleet.launch import banner, spec

    is_terminal = os.isatty(1)
    columns = shutil.get_terminal_size().columns if is_terminal else 0
    job = spec.plan(options, columns=columns, **test_only)
    if options.dry_run:
        print(banner.dry_run(job), end="")
        return 0
    from fleet.launch.agent import Agent
    from fleet.launch.console import Console

    console = Console(options.show, is_terminal)
    console.say(banner.start(job))
    return Agent(job, console).run()


if __name__ == "__main__":
    sys.exit(main())
