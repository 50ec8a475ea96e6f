"""The recommendation service: a user asks, a list goes out, and what came of it comes back."""
