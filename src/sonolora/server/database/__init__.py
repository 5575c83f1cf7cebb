"""The server's SQLite database: its file, its tables, its faults in words. Job store and file store share it."""
