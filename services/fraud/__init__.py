"""The fraud service: a payment comes in, a decision goes out, and both go to the event log."""
