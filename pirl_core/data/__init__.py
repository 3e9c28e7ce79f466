"""Demonstrations: scripted experts make them, a few-shot selection thins them, LeRobot v3 files hold them."""
