"""Streams: answers in chunks and WebSockets, many at a time, on the engine's thread.

A generator is asked for one chunk at a time, in turn with all others and with the batches; async generators and
conversations run on an event loop between them. At most a window of bytes of one stream is on its way to its client, so
that a slow client holds up nobody and costs no memory.
"""
