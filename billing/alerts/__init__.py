"""Alerts: what is watched, when it fires, who is told, and how a message gets through."""
