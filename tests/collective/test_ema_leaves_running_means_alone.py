"""``ema`` puts averages in the place of what is learned; a batch norm's running mean, frozen to Paddle, stays as it is."""

from __future__ import annotations

import paddle

from fleet.collective.strategies.ema import Ema
from fleet.collective.strategies.hooks import Trainer


def test_running_means_and_parameters_unfrozen_later() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    model[0].bias.stop_gradient = True
    trainer = Trainer(0, 1, None, model)  # type: ignore[arg-type]  # no wire: one trainer
    trainer.parameters = list(model.named_parameters())
    ema = Ema(decay=0.0)  # the average is the newest value
    for _ in range(2):
        model(paddle.ones([5, 3]) * 2)  # moves the running mean
        ema.on_update(trainer)
        for parameter in model.parameters():
            if not parameter.stop_gradient:
                parameter.set_value(parameter + 1.0)
        ema.after_step(trainer)
        model[0].bias.stop_gradient = False
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with ema.applied(trainer):
        assert {name for name, value in model.state_dict().items() if (value.numpy() != before[name]).any()} == set()
    assert not any(name.endswith(("_mean", "_variance")) for name in ema.state(trainer))
