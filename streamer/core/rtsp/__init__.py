"""RTSP client: messages, authentication, and the gateway through which FFmpeg reaches a server."""
