"""What runs: the supervisor and one module per child process (capture, infer, emit, view, push, web)."""
