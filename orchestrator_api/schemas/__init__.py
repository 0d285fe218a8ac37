"""Shapes of requests and responses (marshmallow); meaning is checked in shared.domain."""
