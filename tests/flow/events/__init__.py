# SPDX-License-Identifier: MIT
"""Clients do random work through carpool while events happen; what must hold whatever happens is looked at.

    round.py      from a seed: the pool, its limits and timeouts, how many clients; collects what is wrong
    client.py     a client's life: a thread, session after session
    session.py    what a session may expect to find: settings, statements, temporary tables
    line.py       the connection: sends in pieces, reads slowly, counts the answers
    deeds.py      what clients do, most of it within one exchange
    episodes.py   what takes several exchanges: transactions, and what keeps a server
    happen.py     the events: cancels, backends ended, pauses, reloads, another schema, a restart
    tally.py      the rows that were written, and whether that was confirmed

Nothing is compared with a transcript: timing decides who gets which error. An error needs an excuse in what
the pool was configured to do, or in an event that has begun.
"""
