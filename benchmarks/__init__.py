"""metanotes beside its peers: same work, same machine, one run. `make bench`, or
`python -m benchmarks --help`.

`peers.py` has the contenders, `workloads.py` the work, `measure.py` how they are checked, timed and
weighed, `report.py` the table, the pictures and the record, `extras.py` gets the peers' packages.
"""
