"""What a GPU makes of metanotes, in eight minutes: `make gpu`, or `python -m benchmarks.gpu`.

`parts.py` has what is done, part by part, and `training.py` the trainings among it; `record.py`
keeps what they give, row by row as it comes. Each part runs in a process of its own: an error on a
GPU spoils the process that it happens in, and what takes too long is ended. With `--device cpu
--small` all of it runs anywhere, small.
"""
