"""Every process gets fleet's, Paddle's and torchrun's variables, and they agree."""

import json
import os
import re
import stat

DUMP = """
    import json, os
    print(json.dumps(dict(os.environ)))
"""
WITH_SERVERS = """
    import json, os, time
    print(json.dumps(dict(os.environ)), flush=True)
    logs = [f"{os.environ['FLEET_LOG_DIR']}/server-{k}.log" for k in range(os.environ["FLEET_SERVERS"].count(",") + 1)]
    while not all(os.path.exists(log) and os.path.getsize(log) for log in logs):
        time.sleep(0.01)  # the servers start, too
"""
SERVER = """
    import json, os, time
    print(json.dumps(dict(os.environ)), flush=True)
    time.sleep(60)
"""


def variables(run, name):
    return json.loads(run.log(name).splitlines()[-1])


def test_three_families_agree(run):
    done = run(DUMP, "--nproc_per_node", "2")
    assert done.status == 0, done.err
    for rank in (0, 1):
        v = variables(done, f"trainer-{rank}")
        for name in ("FLEET_RANK", "FLEET_LOCAL_RANK", "PADDLE_TRAINER_ID", "PADDLE_RANK_IN_NODE", "RANK", "LOCAL_RANK"):
            assert v[name] == str(rank), name
        for name in (
            "FLEET_WORLD_SIZE",
            "FLEET_LOCAL_SIZE",
            "PADDLE_TRAINERS_NUM",
            "PADDLE_LOCAL_SIZE",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
        ):
            assert v[name] == "2", name
        assert v["TRAINING_ROLE"] == "TRAINER" and v["FLEET_ROLE"] == "trainer" and v["FLEET_DEVICE"] == "cpu"
        assert v["PADDLE_MASTER"] == f"{v['MASTER_ADDR']}:{v['MASTER_PORT']}"
        endpoints = v["PADDLE_TRAINER_ENDPOINTS"].split(",")
        assert len(set(endpoints)) == 2 and v["PADDLE_CURRENT_ENDPOINT"] == endpoints[rank]
        assert v["FLEET_LOG_DIR"] == str(done.log_dir) and v["FLEET_RUN_ID"] == done.run_id == v["TORCHELASTIC_RUN_ID"]
        assert v["PYTHONUNBUFFERED"] == "1" and v["FLEET_PROGRESS"] == "0"
        assert "CUDA_VISIBLE_DEVICES" not in v or v["CUDA_VISIBLE_DEVICES"] == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert re.fullmatch("[0-9a-f]{64}", variables(done, "trainer-0")["FLEET_SECRET"])


def test_every_variable_is_in_the_table(run):
    from fleet import env

    before = {"PYTHONPATH"}
    done = run(WITH_SERVERS, "--server_num", "1", server=SERVER)
    ours = {v.name for v in env.TABLE}
    for name in ("trainer-0", "server-0"):
        new = set(variables(done, name)) - set(os.environ) - before
        assert new <= ours | {"LC_CTYPE"}, new - ours


def test_threads_are_cores_by_processes_unless_the_user_says(run, tmp_path):
    from fleet.launch.devices import usable_cores

    done = run(DUMP, "--nproc_per_node", "2")
    assert variables(done, "trainer-0")["OMP_NUM_THREADS"] == str(max(1, usable_cores() // 2))


def test_the_users_threads_stay(run):
    done = run(DUMP, "--nproc_per_node", "2", env={"OMP_NUM_THREADS": "7"})
    assert variables(done, "trainer-1")["OMP_NUM_THREADS"] == "7"
    assert "7 threads each" in done.err


def test_env_flag_reaches_every_process(run):
    done = run(DUMP, "--nproc_per_node", "2", "--env", "A_B=c=d", "--env=GLOG_v=3", "--env", "OMP_NUM_THREADS=5")
    for name in ("trainer-0", "trainer-1"):
        v = variables(done, name)
        assert (v["A_B"], v["GLOG_v"], v["OMP_NUM_THREADS"]) == ("c=d", "3", "5")


def test_servers_get_their_own_and_no_rank(run):
    done = run(WITH_SERVERS, "--server_num", "2", "--trainer_num", "2", server=SERVER, env={"RANK": "0"})
    assert done.status == 0, done.err
    servers = variables(done, "trainer-1")["FLEET_SERVERS"].split(",")
    for i in (0, 1):
        v = variables(done, f"server-{i}")
        assert v["FLEET_SERVER_INDEX"] == str(i) and v["TRAINING_ROLE"] == "PSERVER" and v["FLEET_ROLE"] == "server"
        assert servers[i] == f"unix:{v['FLEET_SOCKET_DIR']}/server-{i}.sock" and len(servers[i]) < 108
        assert not {"RANK", "FLEET_RANK", "PADDLE_TRAINER_ID", "WORLD_SIZE"} & set(v)
        assert v["FLEET_WORLD_SIZE"] == "2"


def test_endpoints_on_this_host_are_obeyed(run):
    done = run(WITH_SERVERS, "--servers", "127.0.0.1:17601", "--trainers", "127.0.0.1:17602,localhost:17603",
               server=SERVER)  # fmt: skip
    assert done.status == 0, done.err
    v = variables(done, "trainer-1")
    assert v["FLEET_SERVERS"] == "tcp:127.0.0.1:17601"
    assert v["PADDLE_TRAINER_ENDPOINTS"] == "127.0.0.1:17602,localhost:17603" and v["PADDLE_CURRENT_ENDPOINT"] == "localhost:17603"


def test_the_socket_directory_is_private_and_goes_away(run):
    done = run("""
        import os
        d = os.environ["FLEET_SOCKET_DIR"]
        open(d + "/left-over", "w").close(); os.mkdir(d + "/sub")
        print(d, oct(os.stat(d).st_mode))
    """)
    path, mode = done.log("trainer-0").split()
    assert int(mode, 8) == stat.S_IFDIR | 0o700 and not os.path.exists(path)


def test_users_servers_and_secret_are_kept(run):
    done = run(DUMP, env={"FLEET_SERVERS": "tcp:127.0.0.1:7", "FLEET_SECRET": "theirs"})
    v = variables(done, "trainer-0")
    assert (v["FLEET_SERVERS"], v["FLEET_SECRET"]) == ("tcp:127.0.0.1:7", "theirs")
