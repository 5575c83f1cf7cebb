"""Sweeps: several LoRAs trained at once on one base, of which the weaker end early."""
