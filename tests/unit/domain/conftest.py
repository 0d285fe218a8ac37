"""Property tests without a deadline for each example: a busy machine is no bug."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("domain", deadline=None)
settings.load_profile("domain")
