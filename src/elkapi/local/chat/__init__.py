"""The bundled language model as an ordinary upstream: a separate process behind a unix socket, OpenAI's chat format.

`server` owns the process, `request` the accepted fields, `slots` the queue, `engine` the runtime, `answer` the bytes of
the reply, `rows` the model. Only this process imports the runtime.
"""
