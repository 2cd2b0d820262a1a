"""ResNet learns to tell pictures apart: ImageNet from disk, or patterns that are made here.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016; warm-up: Goyal et al., "Accurate, large
minibatch SGD", 2017; label smoothing: Szegedy et al., "Rethinking the Inception architecture", CVPR 2016.
"""

import argparse
import time

import paddle
from data import imagenet, planted
from paddle import nn
from paddle.optimizer import lr

import fleet
from fleet.data import ImageLoader, RandomView

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="", help="ImageNet: train/ and val/, or train_list.txt and val_list.txt; default: patterns")
parser.add_argument("--layers", type=int, default=18, choices=[18, 34, 50, 101, 152], help="50 for ImageNet")
parser.add_argument("--size", type=int, default=32, help="pixels of a side; 224 for ImageNet")
parser.add_argument("--images", type=int, default=384, help="patterns to learn from")
parser.add_argument("--batch_size", type=int, default=32)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--learning_rate", type=float, default=0.01)
parser.add_argument("--warm_up", type=float, default=1, help="epochs in which the learning rate grows from 0")
parser.add_argument("--decay", type=int, nargs="*", default=[3, 4], help="epochs after which it falls to a tenth; 30 60 80 of 90")
parser.add_argument("--smoothing", type=float, default=0.1, help="share of the truth that goes to all classes alike")
parser.add_argument("--least_part", type=float, default=0.3, help="of an image's area that training sees; 0.08 for ImageNet")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
gpu = paddle.device.get_device() != "cpu"  # then with mixed precision; written, not yet run on a GPU

fleet.init()
train, test = imagenet(args.data) if args.data else planted("data/resnet50", args.images, 160, 2 * args.size)
paddle.seed(args.seed)
model = getattr(paddle.vision.models, f"resnet{args.layers}")(num_classes=len(train.classes))
model = fleet.distributed_model(model)
view = RandomView(scale=(args.least_part, 1.0))
loader = ImageLoader(train, args.batch_size, args.size, view=view, shuffle=True, drop_last=True, seed=args.seed)
loader = fleet.distributed_loader(loader)
steps = len(loader)
falling = [args.learning_rate * 0.1**k for k in range(len(args.decay) + 1)]
schedule = lr.PiecewiseDecay([int(steps * (epoch - args.warm_up)) for epoch in args.decay], falling)
schedule = lr.LinearWarmup(schedule, max(int(steps * args.warm_up), 1), 0.0, args.learning_rate)
optimizer = paddle.optimizer.Momentum(schedule, 0.9, model.parameters(), use_nesterov=True, weight_decay=1e-4)
optimizer = fleet.distributed_optimizer(optimizer)
scaler = paddle.amp.GradScaler(enable=gpu)
ckpt = fleet.Checkpointer("checkpoints/resnet50", model=model, optimizer=optimizer, loader=loader, every_steps=500)

began = time.perf_counter()
for epoch in ckpt.epochs(args.epochs):
    for images, labels in loader:
        with paddle.amp.auto_cast(enable=gpu):
            guess = model(images)
        truth = nn.functional.label_smooth(nn.functional.one_hot(labels, len(train.classes)), epsilon=args.smoothing)
        loss = nn.functional.cross_entropy(guess.astype("float32"), truth, soft_label=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad()
        schedule.step()
        fleet.log(loss=loss)
rate = args.epochs * steps * args.batch_size / (time.perf_counter() - began)

model.eval()
hits = {1: [], 5: []}
with paddle.no_grad():
    for images, labels in fleet.distributed_loader(ImageLoader(test, args.batch_size, args.size)):
        best = model(images).topk(5)[1].numpy() == labels.numpy()[:, None]
        for k in hits:
            hits[k].append(best[:, :k].any(axis=1))
top1, top5 = (fleet.metrics.accuracy(hits[k]) for k in (1, 5))
print(f"top-1 {top1:.4f}, top-5 {top5:.4f}, {rate:.1f} images/s")
