"""Candidates, by the name under which programs know this module."""

from __future__ import annotations

from .core.candidate import (
    Candidate,
    candidate_foundation,
    candidate_priority,
    is_end_of_candidates,
    local_preferences,
)

__all__ = ["Candidate", "candidate_foundation", "candidate_priority", "is_end_of_candidates", "local_preferences"]
