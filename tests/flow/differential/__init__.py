# SPDX-License-Identifier: MIT
"""The same messages, straight to PostgreSQL and through carpool, must get the same answers.

    codec.py      messages: made, printed for people, brought into comparable form
    due.py        which answers a server still owes: when a step is over
    script.py     what clients do: scripts of episodes of steps; as text, as JSON
    statements.py the SQL: statements with the parameters they take, and where they may be used
    generate.py   random scripts from a seed, for a profile
    pipelines.py  the long ones among them
    play.py       plays scripts against an address and gives transcripts
    shrink.py     the smallest script that still differs

Nothing here knows how carpool works. What it relies on is that every episode ends outside of any
transaction, with every answer read: `play` proves that of the direct run, which is the reference.
"""
