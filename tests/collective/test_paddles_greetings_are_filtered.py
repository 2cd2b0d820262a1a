"""While a process group is made, Paddle's greetings are dropped; everything else comes out on its own stream."""

from __future__ import annotations

import os

import pytest

from fleet import group

GREETINGS = [
    b"[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1\n",
    b"I1121 04:04:20.749456  6925 tcp_store.cc:336] create libuv server at port: 23816\n",
    b"======================= Modified FLAGS detected =======================\n",
    b"FLAGS(name='FLAGS_enable_pir_in_executor', current_value=True, default_value=False)\n",
]
REAL = [b"I1121 04:04:24.653959  92 gloo_comm_context.cc:86] Error: Unknown DataType.\n", b"the script's own line\n", b"no newline"]


def test_only_greetings_go(capfd: pytest.CaptureFixture[str]) -> None:
    with group._quiet():
        for fd in (1, 2):
            for line in GREETINGS + REAL:
                os.write(fd, line)
    out, err = capfd.readouterr()
    real = b"".join(REAL).decode()
    assert out == real
    assert err == real


def test_lines_come_out_though_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), group._quiet():
        os.write(2, REAL[0])
        raise RuntimeError("Paddle's")
    assert capfd.readouterr().err == REAL[0].decode()
