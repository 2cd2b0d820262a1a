"""The job of benchmarks/growth.py: CTR-DNN on servers, its traffic counted on the trainers' own sockets, its CPU-seconds taken
from the clocks of all processes. Each trainer prints TRAFFIC and a JSON object.
"""

import json
import os
import socket
import struct
import sys
import time

import numpy as np
import paddle
from paddle import nn

import fleet
from fleet import training
from fleet.data import ArrayLoader
from fleet.parameter_server import endpoint, wire

data, batch_size, num_steps, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 10
WARM = 10  # steps whose CPU-seconds do not count
counted = {"messages": 0, "bytes_out": 0, "bytes_in": 0}
servers: list[int] = []  # process ids


class Counted(socket.socket):
    """A socket that counts what passes."""

    def sendmsg(self, *given):
        sent = super().sendmsg(*given)
        counted["bytes_out"] += sent
        return sent

    def recv_into(self, *given):
        got = super().recv_into(*given)
        counted["bytes_in"] += got
        return got

    def recvmsg_into(self, *given):
        got, *rest = super().recvmsg_into(*given)
        counted["bytes_in"] += got
        return got, *rest


def connect(address, timeout_s, plain=endpoint.connect):
    line = plain(address, timeout_s)
    pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    servers.append(pid)
    found = Counted(line.family, line.type, fileno=line.detach())
    found.settimeout(timeout_s)
    return found


def send(line, head, parts=(), plain=wire.send):
    counted["messages"] += 1
    return plain(line, head, parts)


endpoint.connect, wire.send = connect, send
fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer", parameter_server={"consistency": "async"}))


class CtrDnn(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embedding = fleet.parameter_server.Embedding(dim, name="rows")
        widths = [26 * dim + 13, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(400, 2))

    def forward(self, ids, dense):
        return self.deep(paddle.concat([self.embedding(ids).reshape([len(ids), -1]), dense], axis=1))


def cpu_s():
    """CPU-seconds of this process, and for trainer 0 also of the servers."""
    mine = time.process_time()
    if fleet.rank() == 0:
        ticks = os.sysconf("SC_CLK_TCK")
        for pid in set(servers):
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            mine += (int(fields[11]) + int(fields[12])) / ticks
    return mine


arrays = dict(np.load(data))
arrays = {name: values[: num_steps * batch_size * fleet.world_size()] for name, values in arrays.items()}
model = fleet.distributed_model(CtrDnn())
inner = paddle.optimizer.Adam(1e-3, parameters=model.parameters(), lazy_mode=True, use_multi_tensor=True)
optimizer = fleet.distributed_optimizer(inner)
loader = fleet.distributed_loader(ArrayLoader(arrays, batch_size), ids={"ids": model.embedding})

fleet.barrier()
before, began = dict(counted), 0.0
for step, batch in enumerate(loader):
    if step == WARM:
        began = cpu_s()
    loss = nn.functional.cross_entropy(model(batch["ids"], batch["dense"]), batch["label"])
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
training.job().session.client.flush()
fleet.barrier()
spent = cpu_s() - began
traffic = {name: counted[name] - value for name, value in before.items()}
print("\nTRAFFIC " + json.dumps({"rank": fleet.rank(), "cpu_s": spent, **traffic}), flush=True)
fleet.barrier()
