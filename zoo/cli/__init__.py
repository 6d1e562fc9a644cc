"""The command ``mbrl-zoo``."""
