"""The stream worker: from the log into features and lake."""
