"""Chaos: a stack under load, faults drawn from a seed, and what must hold when they are over."""
