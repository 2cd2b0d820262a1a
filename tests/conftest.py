"""Tests that send signals need them at their defaults: a runner under nohup, or in the background of a shell, ignores some."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
