"""Fan-out: `spread` a list over workers, `gather` the results in order, lose nothing.

    import fleet
    grid   = fleet.grid(depth=[3, 5, 7], rate=[0.1, 0.3])
    scores = fleet.spread(grid).map(train).gather()          # a list, in the order of the grid

The *driver* (the process that calls `gather`) owns order, retries, journal, seeds and limits; a *backend* only carries calls to
workers and outcomes back, so that every backend behaves alike. Rules and files: docs/fanout.md.
"""
