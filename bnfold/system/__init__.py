"""What the operating system gives: files that appear whole, signals, limits, installed packages."""
