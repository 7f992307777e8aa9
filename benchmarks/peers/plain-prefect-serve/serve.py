"""Serves the flow: each run is a process of its own
(https://docs.prefect.io/v3/how-to-guides/deployment_infra/run-flows-in-local-processes).
"""

from video import video

if __name__ == "__main__":
    # The default would let 5 videos be on their way at once. The web server only says that it is ready.
    video.serve(name="video", limit=50, webserver=True)
