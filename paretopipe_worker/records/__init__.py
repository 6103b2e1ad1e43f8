"""The record format: what every stage writes, line by line, and the analysis reads.

A host writes one JSON-lines file per session. The first line is a `Header`. Then follow one line
per measured item, leg, probe of the link, comparison of clocks and point. The last line is an
`End`; a file without it was cut short. Every line is flushed as it is written, so that a killed
stage loses at most the item in hand. Files are never rewritten: the next attempt at a session
writes another file.

Format history
--------------
1
    First version.
2
    The header holds the link's engine and TCP's settings. A phase holds what was retransmitted and
    what a relay did. A probe holds single transfers, and datagrams where chance is part of the
    link.
3
    A point's legs are numbered, since one may be measured again; there may be legs of offered load.
    An item holds when its message was packed and when the message that brought it left the rank
    before. A phase holds how its warm-up ended, the host's health meanwhile, and what disturbed it.
    The source records comparisons of the hosts' clocks.
4
    A header identifies the plan and the worker's code by digests, and holds the version of torch.
    An item holds how late its stretching ended. Clocks are compared between points too, with
    readings that show how each clock is corrected. A link's engine may be the kernel's htb. A
    warm-up may end `never steady`. The source records when a point begins, and an end holds whether
    the process was told to end. A probe holds the number of points walked before it, since the path
    is measured between points too. ``ready`` holds the digest of the weights that were loaded.
5
    ``ready`` holds the digest of the checksums that the programs name, since a host may have the
    tensors of its own stages alone. A gate that the source could not try is null. A phase holds the
    energy that the host used, and every rank records what its host uses at rest. A header holds
    the background load. Records of version 4 are read as well. Later records of version 5 may hold
    a ``profile`` of each rank: the time of every unit of its program.

All times are readings of the writing host's ``perf_counter_ns``, unless their field names another
clock. Times of two hosts must not be subtracted from each other without a `Clock` record between
them.
"""
