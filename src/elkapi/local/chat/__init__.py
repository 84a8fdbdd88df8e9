"""The bundled language model as an ordinary upstream: a process of its own behind a unix socket, OpenAI's chat form.

`server` owns the process, `request` what a call may ask, `slots` who runs and who waits, `engine` the runtime, `answer`
the bytes of the reply, `rows` the model. Nothing but this process imports the runtime.
"""
