"""What people look at: the console and the report; reads the run folder and nothing else, and imports no torch."""
