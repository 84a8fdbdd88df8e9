"""The bundled models as an ordinary upstream: a process of its own behind a unix socket, speaking the OpenAI dialect.

`server` owns the process, `embeddings` the requests, `batcher` the queue, `engine` the model, `models` the rows.
The gateway reaches it like any channel and never imports what is in here, except `elkapi embed TEXT`.
"""
