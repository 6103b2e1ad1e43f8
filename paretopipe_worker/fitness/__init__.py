"""Whether the hosts are fit for a sweep: what they are asked, and what of their answers is wrong.

`questions` says what each host is asked, by the plan. `answers` reads what hosts have told, which
nobody vouches for. `machine`, `needs` and `network` are functions of answers and plan that find
what is wrong, and `table` prints it.
"""
