"""Evaluations of a run: losses, previews, the judgement on held-out clips, metrics and where they go."""
