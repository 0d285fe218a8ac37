"""SemVer 2.0.0, and a text that sorts as its precedence does."""

from __future__ import annotations

from semver import Version

from shared.errors import InvalidInput, Problem

MAX_LENGTH = 128
_NUMBER = "(0|[1-9][0-9]*)"
_IDENTIFIER = f"({_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_WORD = "[0-9a-zA-Z-]+"
PATTERN = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_IDENTIFIER}(\.{_IDENTIFIER})*)?(\+{_WORD}(\.{_WORD})*)?$"
"""What ``parse`` accepts, up to the length, for those who must say it in one expression."""


def parse(text: str) -> Version:
    """Read a SemVer 2.0.0 version of at most ``MAX_LENGTH`` characters, or raise ``InvalidInput``."""
    try:
        if len(text) <= MAX_LENGTH:
            return Version.parse(text)
    except ValueError:
        pass
    message = f"must be a version by SemVer 2.0.0, such as 1.4.0, of at most {MAX_LENGTH} characters"
    raise InvalidInput(f"version {message}", [Problem("version", message)])


def precedence(text: str) -> str:
    """Give an ASCII text that sorts, byte by byte, as SemVer precedence does.

    A number is written after its count of digits. An identifier of a pre-release
    begins with ``0`` (numeric) or ``1``, and ends with ``!``, which sorts below all
    that an identifier may hold, so that ``alpha`` comes before ``alpha-x`` and
    ``alpha.1``. A release ends with ``~``, above the ``-`` of its pre-releases. Build
    metadata has no part in precedence.
    """
    version = parse(text)
    core = "".join(_number(str(n)) for n in (version.major, version.minor, version.patch))
    if version.prerelease is None:
        return core + "~"
    parts = version.prerelease.split(".")
    return core + "-" + "".join(("0" + _number(p) if p.isdecimal() else "1" + p) + "!" for p in parts)


def _number(digits: str) -> str:
    return f"{len(digits):03d}{digits}"
