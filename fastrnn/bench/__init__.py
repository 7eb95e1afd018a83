"""What is timed, by whom, and how: one table of workloads and implementations for every command and suite.

workloads · implementations · process (each implementation in a process of its own) · limits (of this machine) · parts
(where the time of a call goes) · report (plots and a page). The first two need nothing but NumPy and fastrnn's public
functions, so that a suite of today can time the package of an earlier commit (benchmarks/workloads.py does).
"""
