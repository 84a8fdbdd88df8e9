"""Message batches: the gateway owns them, and carries out each line as an ordinary call (docs/adr/0014-batches.md).

pages   what their owner asks: create, list, get, cancel, delete, results
asked   the body of a create, checked line by line
shape   the object and the result lines as Anthropic words them
line    one line on the request's way, and what became of it
runner  which lines this worker carries out, and when
store   the tables behind a thread
"""
