"""The supervisor and one module per child process (capture, infer, emit, view, push, web), each with its main loop."""
