"""A classifier with batch norm: one machine, plain Paddle. train.py is the same with a flag for every strategy of fleet."""

import argparse

import paddle
from cost import Cost, add_flags, averages, chosen
from data import clouds
from paddle import nn

import fleet
from fleet.data import ArrayLoader

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=8192)
parser.add_argument("--width", type=int, default=704)
parser.add_argument("--batch_size", type=int, default=128)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--optimizer", default="momentum", choices=["momentum", "adam"], help="lars and dgc need momentum, lamb adam")
parser.add_argument("--learning_rate", type=float, default=0.02)
parser.add_argument("--seed", type=int, default=1)
add_flags(parser)
args = parser.parse_args()
strategy = chosen(args)
cost = Cost(strategy, args)
fleet.init(strategy=strategy)

train, test = clouds(args.samples)
paddle.seed(args.seed)
sizes = (64, args.width, args.width, args.width)
layers = [nn.Sequential(nn.Linear(n, m), nn.BatchNorm1D(m), nn.ReLU()) for n, m in zip(sizes, sizes[1:], strict=False)]
model = nn.Sequential(*layers, nn.Linear(args.width, 10))
model = fleet.distributed_model(model)
rate, parameters = args.learning_rate, model.parameters()
momentum = args.optimizer == "momentum"
optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters) if momentum else paddle.optimizer.Adam(rate, parameters=parameters)
loader = ArrayLoader(train, args.batch_size, shuffle=True, drop_last=True, seed=args.seed)
loader, optimizer = fleet.distributed_loader(loader), fleet.distributed_optimizer(optimizer)

for epoch in range(args.epochs):
    for batch in loader:
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    print(f"epoch {epoch} loss {float(loss):.4f}", flush=True)

model.eval()
with averages(strategy), paddle.no_grad():
    right = (model(paddle.to_tensor(test["x"])).argmax(axis=1).numpy() == test["y"]).mean()
cost.report(right)
