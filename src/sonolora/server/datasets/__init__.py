"""Datasets that are edited on the server: a folder of files each, described clip by clip, and zipped for training."""
