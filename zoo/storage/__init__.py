"""Agents as folders of plain files: written, read, published, and imported from Stable-Baselines3's zips."""
