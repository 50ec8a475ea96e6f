"""Recommendation: events, features, candidates, model, decision and a world to try them in."""
