"""Toy envs, small agents and small models that several tests share."""
