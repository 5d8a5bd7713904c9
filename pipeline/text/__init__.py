"""Character language models: data, training, report, sampling and export.

`limelight text` is their command. They share files, schedules and figures with the classifiers, and
nothing that serves.
"""
