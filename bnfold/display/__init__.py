"""How results are shown: tables, pictures, JUnit."""
