"""The strategies of collective training, in the order in which a step applies them.

One file each; adding one is adding its name here. Each file declares NAME, FIELDS and CONFLICTS without importing paddle.
"""

ORDER: tuple[str, ...] = ("buckets",)
