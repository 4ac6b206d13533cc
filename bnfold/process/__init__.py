"""Child processes for work that native code may not survive."""
