"""Mutation: one guard taken away at a time, and the tests that must notice."""
