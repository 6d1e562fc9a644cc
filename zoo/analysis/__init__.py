"""Judging trained agents and their models: errors of the model, diagnoses, statistics over seeds."""
