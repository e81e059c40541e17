"""Models: each package turns frames and tasks into answers, and moves no frames or events itself.

`florence2` is the only one so far; streamer finds it through the entry point group `streamer.pipelines`."""
