"""Fraud detection: events, features, model, decision and a world to try them in."""
