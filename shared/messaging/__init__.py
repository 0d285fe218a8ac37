"""Doorbells: what is sent through Redis after a commit, and may be lost without harm."""
