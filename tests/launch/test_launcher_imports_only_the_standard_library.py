"""The launcher process never imports Paddle, NumPy or anything that is not Python's own; PyYAML only with -c."""

import json
import subprocess
import sys

from kill_harness import ROOT

LOOK = """
import json, sys
from fleet.launch.__main__ import main
status = main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
print(json.dumps(sorted(n for n in sys.modules if n.startswith("fleet"))))
sys.exit(status)
"""
ALLOWED = {
    "fleet", "fleet.launch", "fleet.errors", "fleet.env", "fleet.config", "fleet.recovery",
    *("fleet.launch." + n for n in ("__main__", "cli", "spec", "values", "devices", "rendezvous")),
    *("fleet.launch." + n for n in ("agent", "keeper", "keeping", "console", "report", "banner", "child", "restarts")),
}  # fmt: skip


def imported(tmp_path, *flags):
    (tmp_path / "train.py").write_text("raise SystemExit(3)")
    command = [sys.executable, "-S", "-c", LOOK, *flags, "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30,
                          env={"PYTHONPATH": ":".join([str(ROOT), *(p for p in sys.path if "site-packages" in p)])})  # fmt: skip
    assert done.returncode == 3, done.stderr
    *_, tops, own = done.stdout.splitlines()
    return set(json.loads(tops)), set(json.loads(own))


def test_without_a_file(tmp_path):
    tops, own = imported(tmp_path, "--nproc_per_node", "2")
    assert tops - set(sys.stdlib_module_names) - {"fleet"} <= {"__main__", "__mp_main__"}
    assert own <= ALLOWED, own - ALLOWED
    heavy = {"argparse", "dataclasses", "logging", "subprocess", "asyncio", "inspect", "tempfile"}
    assert not tops & heavy, tops & heavy


def test_with_a_file(tmp_path):
    (tmp_path / "fleet.yaml").write_text("launch: {trainer_num: 2}\n")
    tops, own = imported(tmp_path, "-c", "fleet.yaml")
    others = {name for name in tops - set(sys.stdlib_module_names) - {"fleet"} if "cython" not in name}  # of PyYAML's parser
    assert others <= {"__main__", "__mp_main__", "yaml", "_yaml"}
    assert own <= ALLOWED, own - ALLOWED
