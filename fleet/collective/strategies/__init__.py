"""The strategies of collective training: one file each, one line each in SECTIONS, all against ``hooks.py`` and ``codec.py``.

**A strategy** is a class with a name, fields, conflicts, and the hooks that it needs (``hooks.Strategy``, ``codec.Codec``;
a user's own is given as ``DistributedStrategy(custom=[Mine(...)])`` and is treated alike). The hooks of one step, in the
order of ORDER at each point; ``stepping.DistributedOptimizer.step`` and ``Reducer._begin`` are where they run:

    wrap_model(model, trainer)              once, before the trainers agree on the model
    wrap_optimizer(optimizer, trainer)      once; returns the optimizer that takes its place
    meets(trainer)                          a backward begins: do its gradients meet "now", "later" or "never"
    reduce(parts, wire)                     a codec's: under backward, in the sender's thread, bucket by bucket
        encode(part), decode(payload, part)     what ``reduce`` calls unless the codec brings its own
    applies(trainer)                        step() begins: False makes it a micro-step, and nothing below runs
    on_gradients(trainer)                   param.grad is the reduced gradient, and may be changed
    on_update(trainer)                      right before the optimizer's own step
    after_update(trainer)                   right after it
    after_step(trainer)                     the step is done; parameters may be averaged, copied, compared

**What a checkpoint keeps of them.** ``fleet.init``'s Runtime holds ``runtime.strategies``, a list (in ORDER; empty until
``distributed_optimizer`` was called) of objects with

    name: str                               unique in the job
    per_trainer: bool                       False: the state is the same on all trainers, trainer 0's is enough
    state() -> dict[str, value]             value: a NumPy array, int, float, bool or str; keys are flat names; may be empty
    load(states) -> None                    ``states[r]`` is what trainer r of the run that saved gave, for all of its trainers
                                            (one entry if not ``per_trainer``); may be lazy: it is indexed and asked for len()

``state`` is called between two steps, on all trainers, and returns copies. It may be in the middle of a group of micro-steps:
their gradients are part of it. ``load`` comes after the model's and the optimizer's state, and before the next backward.
On the same number of trainers it brings everything back exactly; on another each strategy's docstring says by which rule.
"""

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("how the model runs", (
        "sync_batch_norm.SyncBatchNorm",
        "recompute.Recompute",
    )),
    ("when gradients are sent", (
        "gradient_merge.GradientMerge",
    )),
    ("what is sent", (
        "buckets.Buckets",
        "fp16_allreduce.Fp16Allreduce",
        "bf16_allreduce.Bf16Allreduce",
        "int8.Int8",
        "powersgd.PowerSgd",
        "dgc.Dgc",
        "onebit.OneBit",
    )),
    ("how they are applied", (
        "lars.Lars",
        "lamb.Lamb",
        "lr_scaling.LrScaling",
        "clip.Clip",
        "sharding.Sharding",
    )),
    ("what becomes of the parameters", (
        "localsgd.LocalSgd",
        "post_localsgd.PostLocalSgd",
        "adaptive_localsgd.AdaptiveLocalSgd",
        "ema.Ema",
        "custom",  # the user's own, in the order of DistributedStrategy(custom=[...])
    )),
    ("care", (
        "find_unused_parameters.FindUnusedParameters",
        "deterministic.Deterministic",
        "verify.Verify",
    )),
)  # fmt: skip
ORDER: tuple[str, ...] = tuple(place for _, places in SECTIONS for place in places)
