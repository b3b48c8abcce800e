"""metanotes beside its peers: same work, same machine, one run. `make bench`, or
`python -m benchmarks --help`.

`workloads/` has the work, a file a kind, with its contenders; those of MAML's meta-step, which
several share, are in `meta_step.py` and `peers.py`. `measure.py` says how they are checked, timed
and weighed, `machine.py` on what, `floor.py` how fast it could be at best; `report.py` has the
table and the record, `pictures.py` the pictures, `extras.py` gets the peers' packages, `options.py`
has the options. `against.py` compares two checkouts.
"""
