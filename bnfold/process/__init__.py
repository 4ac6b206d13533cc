"""Child processes, all started in one place for jobs that rooms have registered, and forks: for work that native code
may not survive."""
