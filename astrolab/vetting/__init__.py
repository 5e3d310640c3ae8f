"""Vetting as a service: who may do what, queues, agreement, recall, and verdicts in and out. No page, no SQL.

`astrolab.vetting.sessions` is the door: a dashboard, a notebook or a command opens a campaign over a run, and a session
in it for each person; what that person may do is decided there and nowhere else.
"""
