"""Whiteboard: the ML system-design interview as running code. One file here is one box on the whiteboard."""
