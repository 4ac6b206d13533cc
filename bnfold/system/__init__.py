"""The operating system: files that appear whole, signals, limits, progress, installed packages."""
