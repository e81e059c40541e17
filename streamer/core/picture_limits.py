"""Limits of pictures, and the rule for colours that nothing describes."""

MAX_PIXELS = 7680 * 4320
"""Largest picture, 8K, in pixels. A source drops the connection if a picture is larger; pipelines refuse it."""
MAX_SIDE = 65_500
"""Largest width and height of a picture in pixels, the limit of JPEG. A source drops the connection above it."""
HD_LINES = 720
"""Lines of a picture from which on its colours are BT.709, where nothing says otherwise. Fewer: BT.601."""
