"""Every wrong use ends at once with status 64, what is wrong, where, and the nearest right thing; nothing is started."""

import subprocess
import sys

import kill_harness
import pytest

OK = "print('ran')"


def refused(run, *words):
    assert run.status == 64, run.err
    assert run.err.startswith("fleet.errors.ConfigError: ") and "\n  at:  " in run.err and "\n  fix: " in run.err
    assert "Traceback" not in run.err
    for word in words:
        assert word in run.err, run.err
    assert not (run.cwd / "fleet_runs").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--nproc_per_nod", "2"], ["unknown option --nproc_per_nod", "did you mean --nproc_per_node?"]),
        (["--nproc", "2"], ["unknown option --nproc", "--nproc_per_node"]),  # no abbreviation
        (["--nproc_per_nodes=2"], ["did you mean --nproc_per_node?"]),
        (["-n", "2"], ["unknown option -n"]),
        (["--trainer_num", "0"], ["at:  --trainer_num", "from 1 to 1024, got 0"]),
        (["--server-num=-3"], ["at:  --server-num", "got -3"]),
        (["--nproc_per_node", "-1"], ["got -1"]),
        (["--nproc_per_node", "two"], ["whole number, got 'two'"]),
        (["--nproc_per_node", "5000"], ["from 1 to 1024"]),
        (["--nproc_per_node", "--show", "all"], ["--nproc_per_node needs a value"]),
        (["--nproc_per_node", "2", "--trainer_num", "3"], ["contradict"]),
        (["--selected_gpus", "0,1", "--device", "cpu", "--nproc_per_node", "3"], ["3 by --nproc_per_node", "2 by --selected_gpus"]),
        (["--selected_gpus", "0,0", "--device", "cpu"], ["listed twice"]),
        (["--selected_gpus", "3-1", "--device", "cpu"], ["not a GPU number or range"]),
        (["--device", "gpus"], ["must be cpu or gpu", "did you mean gpu?"]),
        (["--show", "rank1"], ["must be rank0, all, none or a list"]),
        (["--show", "0,3", "--nproc_per_node", "2"], ["no rank 3 among 2 trainers"]),
        (["--grace", "soon"], ["number of seconds"]),
        (["--grace=-1"], ["number of seconds >= 0"]),
        (["--grace", "nan"], ["number of seconds"]),
        (["--env", "NOVALUE"], ["NAME=VALUE"]),
        (["--env", "RANK=3"], ["RANK is set by the launcher itself"]),
        (["--env", "FLEET_SECRET=x"], ["set it in the environment"]),
        (["--dry_run=yes"], ["takes no value"]),
        (["--tune", "maybe"], ["must be on or off"]),
        (["--nnodes", "2"], ["--nnodes is not there yet", "come later"]),
        (["--hosts=a,b"], ["--hosts is not there yet"]),
        (["--servers", "10.255.255.1:7000"], ["10.255.255.1 is not an address of this host", "come later"]),
        (["--trainers", "127.0.0.1:99999"], ["is not HOST:PORT"]),
        (["--trainers", "127.0.0.1:7000,127.0.0.1:7000"], ["listed twice"]),
        (["--log_dir", ""], ["must be a directory"]),
    ],
)
def test_flag(run, flags, words):
    refused(run(OK, *flags), *words)


def test_selected_gpus_without_a_gpu_names_device_cpu(run):
    from fleet.launch.devices import visible_gpus

    if visible_gpus():
        pytest.skip("this machine has a GPU")
    refused(run(OK, "--selected_gpus", "0,1"), "no visible GPU", "--device cpu")


def test_device_cpu_runs_them_as_cpu_trainers(run):
    done = run(
        "import os; print(os.environ['WORLD_SIZE'], os.environ['FLEET_DEVICE'])", "--selected_gpus", "0-1", "--device", "cpu"
    )
    assert done.status == 0 and done.log("trainer-1").strip() == "2 cpu"


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["no script to run"]),
        (["--show", "all"], ["no script to run"]),
        (["-m"], ["-m needs a module"]),
        (["-c"], ["-c needs a value"]),
        (["trian.py"], ["cannot read the script trian.py", "did you mean train.py?"]),
        (["tool.sh"], ["tool.sh is not a Python script", "os.execvp"]),
        (["folder"], ["cannot read the script folder"]),
        (["-c", "missing.yaml", "train.py"], ["missing.yaml"]),
    ],
)
def test_script_or_file(tmp_path, argv, words):
    (tmp_path / "train.py").write_text(OK)
    (tmp_path / "tool.sh").write_text("#!/bin/sh\necho\n")
    (tmp_path / "folder").mkdir()
    run = kill_harness.start(argv, tmp_path)
    run.wait()
    refused(run, *words)


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "1", "WORLD_SIZE": "4"},
        {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"},
    ],
)
def test_inside_another_launcher(run, environ):
    refused(run(OK, env=environ), "another launcher started this", *environ)


def test_inside_a_launcher_of_one_process_is_fine(run):
    assert run(OK, "--nproc_per_node", "2", env={"RANK": "0", "WORLD_SIZE": "1", "PADDLE_TRAINERS_NUM": "1"}).status == 0


def test_a_file_in_place_of_the_log_directory(run, tmp_path):
    (tmp_path / "logs").write_text("precious")
    refused(run(OK, "--log_dir", "logs"), "File exists", "at:  --log_dir", str(tmp_path / "logs"))
    assert (tmp_path / "logs").read_text() == "precious"


def test_a_log_directory_that_cannot_be_made(run):
    refused(run(OK, "--log_dir", "/proc/1/fleet"), "at:  --log_dir")


def test_an_endpoint_in_use(run):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(OK, "--trainers", f"127.0.0.1:{port}")
    assert done.status == 69 and f"port {port}" in done.err and "endpoint of trainer 0" in done.err
    assert not (done.cwd / "fleet_runs").exists()


def test_help_fits_two_screens():
    done = subprocess.run(
        [sys.executable, "-m", "fleet.launch", "--help"], cwd=kill_harness.ROOT, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) <= 48
    from fleet.launch.cli import SPELLINGS

    for name in SPELLINGS:
        assert f"--{name}" in done.stdout, name
