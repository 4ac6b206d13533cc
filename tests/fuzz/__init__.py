"""Models that no exporter writes, by the thousand: see README.md."""
