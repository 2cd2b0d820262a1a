"""A command's arguments: every wrong use ends with status 64, after the usage and one line that says what is wrong."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

USAGE = 64  # the status of every wrong use


class Arguments(argparse.ArgumentParser):
    """A parser of arguments that ends with :data:`USAGE` where argparse ends with 2."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")
