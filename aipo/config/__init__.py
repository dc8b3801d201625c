"""The configuration: YAML is read into settings, and settings are built into objects."""
