"""How fast it is here: the training step and the preview, measured, and what the machine could do at best."""
