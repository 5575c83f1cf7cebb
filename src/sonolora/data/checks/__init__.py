"""Checks of training data, before any time is spent on training: one file per subject.

In: measurements, captions, spans, requests. Out: warnings in words, each with the finding, why it matters and what to
do. No check skips a file: that is for the rules of the modes.
"""
