"""The configuration: YAML is read into settings, and settings are built into objects."""

from pathlib import Path

PRESETS = Path(__file__).parents[1] / "presets"


def presets() -> list[str]:
    """Names of the configurations that ship. Nothing is imported for it: whoever presses Tab waits."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))
