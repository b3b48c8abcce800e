"""The long runs whose records the book shows: `python -m runs --help`.

A run is made of one learner and seed at a time, is saved as it goes, and goes on where it was when
the command is given again. Its record, `results/<name>.json`, holds the configuration, the
protocol, every score with its interval, the learning curve and the time it took.
"""
