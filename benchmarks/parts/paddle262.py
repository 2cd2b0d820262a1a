"""The rival of the parameter-server benchmarks: Paddle 2.6.2, the last wheel with a server, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "benchmarks" / ".paddle262"


def python() -> Path:
    """Return the interpreter of the rival's environment, made at first use."""
    found = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        print("making the rival's environment (paddlepaddle 2.6.2)", flush=True)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        wanted = ["paddlepaddle==2.6.2", "numpy<2", "protobuf<5", "setuptools"]
        subprocess.run([str(found), "-m", "pip", "install", "-q", *wanted], check=True)
        (ENVIRONMENT / "ready").touch()
    return found


def run(script: Path, arguments: list[str], work: Path, num_trainers: int = 1, **more: str) -> str:
    """Run ``script`` as one server and some trainers; return what the trainers printed.

    Args:
        work: made empty; logs and gloo's files go there.
        more: variables beside the ones that its own launcher sets.
    """
    held = [socket.socket() for _ in range(num_trainers + 2)]
    for line in held:
        line.bind(("127.0.0.1", 0))
    server, gloo, *trainers = (f"127.0.0.1:{line.getsockname()[1]}" for line in held)
    for line in held:
        line.close()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "PADDLE_NNODES": "1", "PADDLE_TRAINERS_NUM": str(num_trainers),
        "POD_IP": "127.0.0.1", "PADDLE_PSERVERS_IP_PORT_LIST": server, "PADDLE_TRAINER_ENDPOINTS": ",".join(trainers),
        "PADDLE_WITH_GLOO": "1", "PADDLE_GLOO_RENDEZVOUS": "3", "PADDLE_GLOO_FS_PATH": str(work / "gloo"),
        "PADDLE_GLOO_HTTP_ENDPOINT": gloo, **more,
    }  # fmt: skip
    command = [str(python()), "-W", "ignore", str(script), *arguments]

    def start(role: str, endpoint: str, index: int) -> subprocess.Popen[str]:
        variables = {**common, "TRAINING_ROLE": role, "PADDLE_ROLE": role, "PADDLE_TRAINER_ID": str(index)}
        variables["PADDLE_PORT"] = endpoint.split(":")[1]
        log = open(work / f"{role}-{index}.log", "w")  # closed with this process; read below
        return subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=work)

    serving = start("PSERVER", server, 0)
    training = [start("TRAINER", endpoint, index) for index, endpoint in enumerate(trainers)]
    try:
        for trainer in training:
            trainer.wait(timeout=1800)
    finally:
        for process in (serving, *training):  # this server never ends by itself
            process.kill()
            process.wait()
    return "".join((work / f"TRAINER-{index}.log").read_text() for index in range(num_trainers))
