"""``-c fleet.yaml``: the same names and checks as the flags, with the line; the command line wins."""

import json

LOOK = "import json, os; print(json.dumps(dict(os.environ)))"


def test_launch_block_and_strategy_path(run, tmp_path):
    (tmp_path / "fleet.yaml").write_text(
        "launch:\n  nproc-per-node: 3\n  grace: 2.5\n  env: {A: 1, B: two}\n  show: none\nstrategy:\n  x: 1\n"
    )
    done = run(LOOK, "-c", "fleet.yaml", "--env", "B=three")
    assert done.status == 0, done.err
    v = json.loads(done.log("trainer-2"))
    assert v["FLEET_CONFIG"] == str(tmp_path / "fleet.yaml") and (v["A"], v["B"], v["WORLD_SIZE"]) == ("1", "three", "3")
    assert done.out == ""


def test_command_line_wins_in_every_spelling(run, tmp_path):
    (tmp_path / "fleet.yaml").write_text("launch:\n  selected_gpus: [0, 1, 2]\n  device: cpu\n  tune: off\n")
    done = run(LOOK, "-c", "fleet.yaml", "--workers", "2", "--tune=on")
    assert json.loads(done.log("trainer-1"))["WORLD_SIZE"] == "2"
    assert json.loads(done.log("trainer-1"))["FLEET_TUNE"] == "on"


def test_file_named_by_the_environment(run, tmp_path):
    (tmp_path / "fleet.yaml").write_text("launch: {trainers: 2}\n")
    done = run(LOOK, env={"FLEET_CONFIG": "fleet.yaml"})
    assert json.loads(done.log("trainer-1"))["FLEET_CONFIG"] == str(tmp_path / "fleet.yaml")


def refused(run, tmp_path, text, *words):
    (tmp_path / "fleet.yaml").write_text(text)
    done = run("", "-c", "fleet.yaml")
    assert done.status == 64, done.err
    for word in words:
        assert word in done.err, done.err


def test_unknown_key_names_line_and_nearest(run, tmp_path):
    refused(
        run, tmp_path, "strategy: {}\nlaunch:\n  show: all\n  gracee: 3\n", "fleet.yaml:4  $.launch.gracee", "did you mean grace?"
    )


def test_key_that_comes_later(run, tmp_path):
    refused(run, tmp_path, "launch:\n  nnodes: 3\n", "fleet.yaml:2  $.launch.nnodes", "come later")


def test_bad_value_names_line(run, tmp_path):
    refused(run, tmp_path, "launch:\n  grace: 1\n  server_num: 0\n", "fleet.yaml:3  $.launch.server_num", "from 1 to 1024, got 0")


def test_unknown_block(run, tmp_path):
    refused(run, tmp_path, "launcher:\n  grace: 1\n", "fleet.yaml:1", "unknown key launcher", "did you mean launch?")


def test_one_thing_twice(run, tmp_path):
    refused(run, tmp_path, "launch:\n  trainer_num: 1\n  worker_num: 2\n", "fleet.yaml:3", "given twice")


def test_not_yaml(run, tmp_path):
    refused(run, tmp_path, "launch: [1,\n", "not valid YAML")
