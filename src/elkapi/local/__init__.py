"""The bundled models as an ordinary upstream: a separate process behind a unix socket that speaks the OpenAI dialect.

`server` owns the process, `embeddings` the requests, `batcher` the queue, `engine` the model, `models` the rows,
`listening` the socket, `listed` the query for served models, `chat` the language model. Workers reach them like any
channel and import only `listed` and `listening`; startup, `doctor` and the pages read the rows. Only the model process
and `elkapi embed TEXT` load the model.
"""
