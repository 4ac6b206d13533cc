"""How anything shows itself: tables, pictures, JUnit."""
