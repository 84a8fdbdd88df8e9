"""The bundled models as an ordinary upstream: a process of its own behind a unix socket, speaking the OpenAI dialect.

`server` owns the process, `embeddings` the requests, `batcher` the queue, `engine` the model, `models` the rows,
`listening` the socket, `listed` the question what is served, `chat` the language model beside it. A worker reaches them
like any channel and imports no more of this than `listed` and `listening`; the start, `doctor` and the pages read the
rows. The model itself is loaded by its own process alone, and by `elkapi embed TEXT`.
"""
