"""Reading and writing of recordings: audio, video and the mouth region of a face."""
