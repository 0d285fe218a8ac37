"""All faults: importing this fills the table."""

from __future__ import annotations

from tests.chaos import machine_faults, postgres_faults, process_faults, redis_faults
from tests.chaos.fault import FAULTS, Fault, Target

__all__ = ["FAULTS", "Fault", "Target", "machine_faults", "postgres_faults", "process_faults", "redis_faults"]
