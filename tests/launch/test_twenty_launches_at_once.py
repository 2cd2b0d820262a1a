"""Twenty launches at the same moment on one host: all work, and no two have a port in common. Trainer 0 can bind its port."""

import json
import socket

import kill_harness

BIND = """
import json, os, socket, time
rank = int(os.environ["RANK"])
ports = [int(os.environ["MASTER_PORT"])] + [int(e.rpartition(":")[2]) for e in os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")]
if rank == 0:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", ports[0])); listener.listen()
    listener.settimeout(30)
    peer, _ = listener.accept()
    peer.sendall(os.environ["FLEET_RUN_ID"].encode())
else:
    for i in range(3000):
        try:
            s = socket.create_connection(("127.0.0.1", ports[0])); break
        except ConnectionRefusedError:
            time.sleep(0.01)
    assert s.recv(100).decode() == os.environ["FLEET_RUN_ID"]
print(json.dumps(ports))
"""


def test_all_work_into_one_log_directory(tmp_path):
    (tmp_path / "train.py").write_text(BIND)
    runs = []
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        runs.append(
            kill_harness.start(["--nproc_per_node", "2", "--log_dir", str(tmp_path / "logs"), str(tmp_path / "train.py")], folder)
        )
    assert [run.wait(60) for run in runs] == [0] * 20, [run.err for run in runs if run.status]
    logs = list((tmp_path / "logs").rglob("trainer-1.log"))
    assert len(logs) == 20 and len(list((tmp_path / "logs").rglob("run_id"))) == 20
    ports = [json.loads((folder / "stdout").read_text()) for folder in tmp_path.iterdir() if folder.name.isdigit()]
    assert all(len(set(p)) == 3 for p in ports)


def test_a_reserved_port_is_given_to_nobody():
    from fleet.launch.rendezvous import open_meeting

    meeting = open_meeting("run", 64)
    try:
        held = {s.getsockname()[1] for s in meeting.held}
        assert len(held) == 65
        others = [socket.socket() for _ in range(500)]
        for i, other in enumerate(others):
            if i % 2:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", 0))
        assert not held & {other.getsockname()[1] for other in others}
        for other in others:
            other.close()
        listener = socket.socket()  # as Paddle's store does
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", meeting.held[0].getsockname()[1]))
        listener.listen()
        listener.close()
    finally:
        for s in meeting.held:
            s.close()
