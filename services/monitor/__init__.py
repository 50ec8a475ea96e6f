"""The monitor: drift, skew and live quality, by event day; it asks for a retrain."""
